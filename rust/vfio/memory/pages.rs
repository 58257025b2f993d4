// SPDX-License-Identifier: GPL-2.0

//! The pages of device memory.

use crate::{
    bindings, nospec,
    rwsem::{
        ReadGuard,
        WriteGuard, //
    },
};
use core::{
    mem::ManuallyDrop,
    ptr::{
        self,
        NonNull, //
    },
    sync::atomic::{
        AtomicPtr,
        AtomicU64,
        Ordering, //
    },
};
use kernel::prelude::*;

/// The memory's lock, held one way or the other.
pub(super) trait Held {}

impl Held for ReadGuard<'_, ()> {}
impl Held for WriteGuard<'_, ()> {}

/// A reference to a page.
///
/// # Invariants
///
/// One of the page's references is this one's.
pub(super) struct PageRef(NonNull<bindings::page>);

impl PageRef {
    /// Allocates a page that reads 0.
    pub(super) fn new() -> Result<Self> {
        let flags = bindings::GFP_KERNEL_ACCOUNT | bindings::__GFP_ZERO;
        // SAFETY: An FFI call without requirements.
        let page = unsafe { bindings::alloc_pages(flags, 0) };
        // INVARIANT: A new page has one reference.
        NonNull::new(page).map(Self).ok_or(ENOMEM)
    }

    /// The address of the page's bytes, which others may access at the same time.
    pub(super) fn address(&self) -> *mut u8 {
        // SAFETY: The page is valid by the invariant, and as it was not allocated from high memory it
        // has an address.
        unsafe { bindings::vfio_rs_page_address(self.0.as_ptr()) }.cast()
    }

    /// The page's frame number.
    pub(super) fn pfn(&self) -> usize {
        // SAFETY: The page is valid by the invariant.
        unsafe { bindings::vfio_rs_page_to_pfn(self.0.as_ptr()) }
    }

    /// Gives the reference away.
    fn into_raw(self) -> *mut bindings::page {
        ManuallyDrop::new(self).0.as_ptr()
    }

    /// Takes over a reference.
    ///
    /// # Safety
    ///
    /// `page` must come from [`PageRef::into_raw`], and its reference have no other owner.
    unsafe fn from_raw(page: *mut bindings::page) -> Option<Self> {
        // INVARIANT: By the requirements of this function.
        NonNull::new(page).map(Self)
    }
}

impl Drop for PageRef {
    fn drop(&mut self) {
        // SAFETY: The reference is ours by the invariant.
        unsafe { bindings::vfio_rs_put_page(self.0.as_ptr()) };
    }
}

/// The table of pages. A null entry is a hole.
///
/// # Invariants
///
/// Each entry that is not null is a page and one reference to it. It becomes null only with the
/// memory's lock held for writing.
pub(super) struct Table {
    entries: KVVec<AtomicPtr<bindings::page>>,
    populated: AtomicU64,
}

impl Table {
    /// A table of `count` holes.
    pub(super) fn new(count: usize) -> Result<Self> {
        let mut entries = KVVec::with_capacity(count, GFP_KERNEL_ACCOUNT)?;
        for _ in 0..count {
            // INVARIANT: Null.
            entries.push(AtomicPtr::new(ptr::null_mut()), GFP_KERNEL_ACCOUNT)?;
        }
        Ok(Self {
            entries,
            populated: AtomicU64::new(0),
        })
    }

    /// Number of pages that are not holes.
    pub(super) fn populated(&self) -> u64 {
        self.populated.load(Ordering::Relaxed)
    }

    /// The place of a page. The index may come from a guest.
    fn entry(&self, index: usize) -> Option<&AtomicPtr<bindings::page>> {
        let len = self.entries.len();
        if index >= len {
            return None;
        }
        self.entries.get(nospec::index(index, len))
    }

    /// Number of pages, holes included.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether a page is not a hole, at some moment.
    pub(super) fn is_populated(&self, index: usize) -> bool {
        self.entry(index)
            .is_some_and(|entry| !entry.load(Ordering::SeqCst).is_null())
    }

    /// A reference to a page, unless it is a hole. `_lock` is the memory's.
    pub(super) fn get(&self, index: usize, _lock: &impl Held) -> Option<PageRef> {
        let page = NonNull::new(self.entry(index)?.load(Ordering::Acquire))?;
        // SAFETY: By the invariant the table has a reference as long as the lock is held.
        unsafe { bindings::vfio_rs_get_page(page.as_ptr()) };
        // INVARIANT: Taken just now.
        Some(PageRef(page))
    }

    /// A reference to a page, which becomes `new` if it was a hole. `lock` is the memory's.
    pub(super) fn get_or_insert(
        &self,
        index: usize,
        new: PageRef,
        lock: &impl Held,
    ) -> Option<PageRef> {
        let entry = self.entry(index)?;
        let new = new.into_raw();
        // INVARIANT: The reference of `new` goes with it.
        match entry.compare_exchange(ptr::null_mut(), new, Ordering::SeqCst, Ordering::Acquire) {
            Ok(_) => {
                self.populated.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => {
                // SAFETY: Given away just now, and not taken.
                drop(unsafe { PageRef::from_raw(new) });
            }
        }
        self.get(index, lock)
    }

    /// Makes all pages holes. `_lock` is the memory's.
    pub(super) fn clear(&self, _lock: &WriteGuard<'_, ()>) {
        self.clear_unlocked();
    }

    /// Makes all pages holes, for one who is alone with the table.
    fn clear_unlocked(&self) {
        for entries in self.entries.chunks(4096) {
            for entry in entries {
                if entry.load(Ordering::Relaxed).is_null() {
                    continue;
                }
                let page = entry.swap(ptr::null_mut(), Ordering::SeqCst);
                // SAFETY: By the invariant the entry had a reference, which is ours now.
                if let Some(page) = unsafe { PageRef::from_raw(page) } {
                    self.populated.fetch_sub(1, Ordering::Relaxed);
                    drop(page);
                }
            }
            // SAFETY: Only sleeping locks are held.
            unsafe { bindings::vfio_rs_cond_resched() };
        }
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        // Nobody else has a reference to the table, which is as good as the lock.
        self.clear_unlocked();
    }
}
