// SPDX-License-Identifier: GPL-2.0

//! The pages of device memory.

use core::{
    mem::ManuallyDrop,
    ops::Range,
    ptr::{
        self,
        NonNull, //
    },
    sync::atomic::{
        AtomicPtr,
        AtomicU32,
        AtomicU64,
        Ordering, //
    },
};
use kernel::prelude::*;
use kernel_ext::{
    nospec,
    rwsem::{
        ReadGuard,
        WriteGuard, //
    },
    sched::cond_resched, //
};
use vfio_bindings as bindings;

/// The number of pages that are handled between two reschedules.
const CHUNK: usize = 4096;

/// The memory's lock, held for reading or for writing.
pub(super) trait Held {}

impl Held for ReadGuard<'_, ()> {}
impl Held for WriteGuard<'_, ()> {}

/// A reference to a page.
///
/// # Invariants
///
/// This owns one of the page's references.
pub(super) struct PageRef(NonNull<bindings::page>);

impl PageRef {
    /// Allocates a page that reads 0.
    pub(super) fn new() -> Result<Self> {
        Self::allocate(bindings::GFP_KERNEL_ACCOUNT | bindings::__GFP_ZERO)
    }

    /// Allocates a page with the contents that its last user left. Write all of it before anybody else can
    /// read it.
    pub(super) fn uninit() -> Result<Self> {
        Self::allocate(bindings::GFP_KERNEL_ACCOUNT)
    }

    /// Allocates a page with these flags.
    fn allocate(flags: bindings::gfp_t) -> Result<Self> {
        // SAFETY: An FFI call without requirements.
        let page = unsafe { bindings::alloc_pages(flags, 0) };
        // INVARIANT: A new page has one reference.
        NonNull::new(page).map(Self).ok_or(ENOMEM)
    }

    /// Returns the address of the page's bytes. Others may access them at the same time.
    pub(super) fn address(&self) -> *mut u8 {
        // SAFETY: The page is valid by the invariant, and as it was not allocated from high memory it
        // has an address.
        unsafe { bindings::vfio_rs_page_address(self.0.as_ptr()) }.cast()
    }

    /// Returns the page's frame number.
    pub(super) fn pfn(&self) -> usize {
        // SAFETY: The page is valid by the invariant.
        unsafe { bindings::vfio_rs_page_to_pfn(self.0.as_ptr()) }
    }

    /// Gives up ownership of the reference.
    fn into_raw(self) -> *mut bindings::page {
        ManuallyDrop::new(self).0.as_ptr()
    }

    /// Takes over a reference.
    ///
    /// # Safety
    ///
    /// `page` must come from [`PageRef::into_raw`], and its reference must have no other owner.
    unsafe fn from_raw(page: *mut bindings::page) -> Option<Self> {
        // INVARIANT: By the requirements of this function.
        NonNull::new(page).map(Self)
    }
}

impl Drop for PageRef {
    fn drop(&mut self) {
        // SAFETY: By the invariant this owns the reference.
        unsafe { bindings::vfio_rs_put_page(self.0.as_ptr()) };
    }
}

/// Pages with the contents that their last user left, allocated several at a time, because that costs less.
pub(super) struct Spare {
    pages: [Option<PageRef>; 1 << Self::ORDER],
    left: usize,
}

impl Spare {
    const ORDER: u32 = 3;

    /// Returns no pages.
    pub(super) const fn new() -> Self {
        Self {
            pages: [const { None }; 1 << Self::ORDER],
            left: 0,
        }
    }

    /// Returns a page. `wanted` is how many more the caller will take. Write all of the page before anybody
    /// else can read it.
    pub(super) fn take(&mut self, wanted: usize) -> Result<PageRef> {
        if self.left == 0 && wanted >= self.pages.len() {
            self.refill();
        }
        if self.left != 0 {
            self.left -= 1;
            if let Some(page) = self.pages.get_mut(self.left).and_then(Option::take) {
                return Ok(page);
            }
        }
        PageRef::uninit()
    }

    /// Allocates as many as there is room for, if they are easy to get.
    fn refill(&mut self) {
        // SAFETY: An FFI call without requirements.
        let first = unsafe { bindings::vfio_rs_alloc_split_pages(Self::ORDER) };
        if first.is_null() {
            return;
        }
        for (number, slot) in self.pages.iter_mut().enumerate() {
            // INVARIANT: Each of the pages has a reference.
            *slot = NonNull::new(first.wrapping_add(number)).map(PageRef);
        }
        self.left = self.pages.len();
    }
}

/// Entries that share a counter: 2 MiB with pages of 4 KiB.
const BLOCK: usize = 512;

/// The table of pages. A null entry is a hole.
///
/// Each block of entries has a counter, so that a block of holes is skipped at once. The counter is
/// increased before the entry is set, so a page that is visible is counted.
///
/// # Invariants
///
/// - Each entry that is not null is a page and one reference to it. It becomes null only with the
///   memory's lock held for writing.
/// - No counter is less than the number of entries in its block that are not null. The two are equal while
///   the memory's lock is held for writing.
pub(super) struct Table {
    entries: KVVec<AtomicPtr<bindings::page>>,
    blocks: KVVec<AtomicU32>,
    populated: AtomicU64,
}

impl Table {
    /// Returns a table of `count` holes.
    pub(super) fn new(count: usize) -> Result<Self> {
        let mut entries = KVVec::with_capacity(count, GFP_KERNEL_ACCOUNT)?;
        for _ in 0..count {
            // INVARIANT: Null.
            entries.push(AtomicPtr::new(ptr::null_mut()), GFP_KERNEL_ACCOUNT)?;
        }
        let mut blocks = KVVec::new();
        for _ in 0..count.div_ceil(BLOCK) {
            blocks.push(AtomicU32::new(0), GFP_KERNEL_ACCOUNT)?;
        }
        // INVARIANT: All entries are holes.
        Ok(Self {
            entries,
            blocks,
            populated: AtomicU64::new(0),
        })
    }

    /// Returns the number of pages that are not holes.
    pub(super) fn populated(&self) -> u64 {
        self.populated.load(Ordering::Relaxed)
    }

    /// Returns the entry of a page. The index may come from a guest.
    fn entry(&self, index: usize) -> Option<&AtomicPtr<bindings::page>> {
        let len = self.entries.len();
        if index >= len {
            return None;
        }
        self.entries.get(nospec::index(index, len))
    }

    /// Returns the number of pages, holes included.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns the number of pages from `from` on, and before `end`, that are not holes, up to the first hole.
    pub(super) fn populated_from(&self, from: usize, end: usize) -> usize {
        let mut at = from;
        while at < end {
            let next = (at / BLOCK + 1) * BLOCK;
            // The last block may be shorter than a full one. A page that is counted and not yet there reads 0.
            let is_full = self
                .block(at)
                .is_some_and(|block| block.load(Ordering::SeqCst) as usize == BLOCK);
            if is_full {
                at = next.min(end);
            } else if self.is_populated(at) {
                at += 1;
            } else {
                break;
            }
        }
        at - from
    }

    /// Returns the first page of a range that is not a hole. It may change at any moment without the lock.
    pub(super) fn find_populated(&self, range: Range<usize>) -> Option<usize> {
        let first = range.start;
        // A save of sparse memory looks at many holes, so this is one loop over a slice.
        let mut entries = self.entries.get(range)?.iter();
        let at = entries.position(|entry| !entry.load(Ordering::SeqCst).is_null())?;
        Some(first + at)
    }

    /// Returns whether a page is not a hole. It may change at any moment without the lock.
    pub(super) fn is_populated(&self, index: usize) -> bool {
        self.entry(index)
            .is_some_and(|entry| !entry.load(Ordering::SeqCst).is_null())
    }

    /// Returns the counter of the block with the entry at `index`.
    fn block(&self, index: usize) -> Option<&AtomicU32> {
        self.blocks.get(index / BLOCK)
    }

    /// Returns the parts of `range` in blocks that have pages. All other pages of `range` are holes. The
    /// cost is linear in the number of blocks.
    ///
    /// # Context
    ///
    /// May sleep.
    pub(super) fn populated_blocks(
        &self,
        range: Range<usize>,
    ) -> impl Iterator<Item = Range<usize>> + '_ {
        let end = range.end.min(self.len());
        let mut from = range.start;
        core::iter::from_fn(move || {
            while from < end {
                let first = from;
                let next = (first / BLOCK + 1) * BLOCK;
                from = next;
                if next % (CHUNK * BLOCK) == 0 {
                    cond_resched();
                }
                if self.block(first)?.load(Ordering::SeqCst) != 0 {
                    return Some(first..next.min(end));
                }
            }
            None
        })
    }

    /// Returns the address of a page's bytes, or `None` for a hole. It is valid while the memory's lock,
    /// `_lock`, is held.
    #[inline]
    pub(super) fn address(&self, index: usize, _lock: &impl Held) -> Option<*mut u8> {
        let page = NonNull::new(self.entry(index)?.load(Ordering::Acquire))?;
        // SAFETY: By the invariant the page is valid while the lock is held, and it is not from high memory.
        Some(unsafe { bindings::vfio_rs_page_address(page.as_ptr()) }.cast())
    }

    /// Returns a reference to a page, or `None` for a hole. `_lock` is the memory's.
    #[inline]
    pub(super) fn get(&self, index: usize, _lock: &impl Held) -> Option<PageRef> {
        let page = NonNull::new(self.entry(index)?.load(Ordering::Acquire))?;
        // SAFETY: By the invariant the table owns a reference while the lock is held.
        unsafe { bindings::vfio_rs_get_page(page.as_ptr()) };
        // INVARIANT: The reference was taken above.
        Some(PageRef(page))
    }

    /// Returns a reference to a page. A hole becomes `new`. `lock` is the memory's.
    pub(super) fn get_or_insert(
        &self,
        index: usize,
        new: PageRef,
        lock: &impl Held,
    ) -> Option<PageRef> {
        let entry = self.entry(index)?;
        let block = self.block(index)?;
        let new = new.into_raw();
        // INVARIANT: First the counter, then the entry.
        block.fetch_add(1, Ordering::SeqCst);
        // INVARIANT: The table takes over the reference of `new`.
        match entry.compare_exchange(ptr::null_mut(), new, Ordering::SeqCst, Ordering::Acquire) {
            Ok(_) => {
                self.populated.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => {
                block.fetch_sub(1, Ordering::SeqCst);
                // SAFETY: Given up above, and not taken over by the table.
                drop(unsafe { PageRef::from_raw(new) });
            }
        }
        self.get(index, lock)
    }

    /// Turns the pages of a block, or of a part of it, into holes and moves them to `gone`. `_lock` is the
    /// memory's. Users may still map them.
    pub(super) fn detach(
        &self,
        range: Range<usize>,
        gone: &mut Detached,
        _lock: &WriteGuard<'_, ()>,
    ) {
        self.detach_unlocked(range, gone);
    }

    /// [`Table::detach`] for a caller with exclusive access to the table.
    fn detach_unlocked(&self, range: Range<usize>, gone: &mut Detached) {
        let Some(block) = self.block(range.start) else {
            return;
        };
        let mut count = 0;
        for entry in self.entries.get(range).unwrap_or_default() {
            if entry.load(Ordering::Relaxed).is_null() {
                continue;
            }
            let page = entry.swap(ptr::null_mut(), Ordering::SeqCst);
            // SAFETY: By the invariant the entry owned a reference, which this takes over.
            if let Some(page) = unsafe { PageRef::from_raw(page) } {
                count += 1;
                gone.push(page);
            }
        }
        // INVARIANT: First the entries, then the counter.
        block.fetch_sub(count, Ordering::SeqCst);
        self.populated.fetch_sub(count.into(), Ordering::Relaxed);
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        for block in self.populated_blocks(0..self.len()) {
            let mut gone = Detached::none();
            // This has exclusive access to the table, so it needs no lock.
            self.detach_unlocked(block, &mut gone);
        }
    }
}

/// Pages that were removed from the table. Users may still map them.
///
/// # Invariants
///
/// The pages are a list linked through `private`, which is 0 at `last`. `first` is null if there are none.
/// This owns one reference to each.
pub(super) struct Detached {
    first: *mut bindings::page,
    last: *mut bindings::page,
}

// SAFETY: References to pages may be dropped on any thread.
unsafe impl Send for Detached {}

impl Detached {
    /// Returns an empty list.
    pub(super) const fn none() -> Self {
        // INVARIANT: The list is empty.
        Self {
            first: ptr::null_mut(),
            last: ptr::null_mut(),
        }
    }

    /// Returns whether there are no pages.
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_null()
    }

    /// Adds a page that was removed from the table.
    fn push(&mut self, page: PageRef) {
        let page = page.into_raw();
        // INVARIANT: The page is linked to the former first page. The list takes over its reference.
        // SAFETY: The page is valid. Nobody else uses `private` of a page that was in the table.
        unsafe { bindings::vfio_rs_set_page_private(page, self.first.expose_provenance()) };
        if self.first.is_null() {
            self.last = page;
        }
        self.first = page;
    }

    /// Adds the pages of `other`.
    pub(super) fn append(&mut self, other: Self) {
        if other.is_empty() {
            return;
        }
        // INVARIANT: Joins two valid lists.
        let other = ManuallyDrop::new(other);
        // SAFETY: By the invariant the page is valid and its `private` is 0.
        unsafe { bindings::vfio_rs_set_page_private(other.last, self.first.expose_provenance()) };
        if self.first.is_null() {
            self.last = other.last;
        }
        self.first = other.first;
    }

    /// Takes all pages and leaves an empty list.
    pub(super) fn take(&mut self) -> Self {
        core::mem::replace(self, Self::none())
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        let mut count = 0usize;
        while !self.first.is_null() {
            let page = self.first;
            // SAFETY: By the invariant the page is valid, and this owns one reference.
            unsafe {
                self.first = ptr::with_exposed_provenance_mut(bindings::vfio_rs_page_private(page));
                bindings::vfio_rs_set_page_private(page, 0);
                drop(PageRef::from_raw(page));
            }
            count += 1;
            if count % CHUNK == 0 {
                // No spinlock is held.
                cond_resched();
            }
        }
    }
}
