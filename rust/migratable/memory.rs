// SPDX-License-Identifier: GPL-2.0

//! Device memory: the memory on board of a card, which guests map.
//!
//! A page is allocated and zeroed when it is first written or when a guest first touches it. Until then it
//! is a hole: it reads 0, costs nothing and is not migrated.
//!
//! | file             | what is in it                                                |
//! |------------------|--------------------------------------------------------------|
//! | `pages`          | the table of pages, and references to them                   |
//! | `copy`           | copies to and from pages                                     |
//! | `stream_copy`    | copies to and from a stream, with a checksum                 |
//! | `bounce`         | a page for copies of what may change meanwhile               |
//! | `writers`        | tells a save whether a page was written while it read it     |
//! | `fault`          | the guest's mapping: page faults                             |
//! | `areas`          | the areas that map the memory                                |
//! | `zap`            | removing PTEs from them                                      |
//! | `tracking`       | which pages were written: the dirty map and write protection |
//! | `dirty_notifier` | wakes threads that wait for a dirty page                     |
//!
//! # Locks
//!
//! `lock` orders changes of users' page tables against changes of the table of pages. Page faults take it
//! for reading. So it is never held over a copy to or from a user that may fault, nor over a call into
//! type1, which copies to users too: the user's memory may be a mapping of this device memory. Such copies
//! hold references to pages instead. Removing a page from the table needs the lock for writing. So does
//! removing PTEs, which also needs the user's `mmap_lock` before it: see `zap`.
//!
//! ```text
//!   a user's mmap_lock, type1's lock  ->  lock  ->  page table locks
//!                                         lock  ->  areas
//! ```

mod areas;
mod bounce;
mod copy;
mod dirty_notifier;
mod fault;
mod pages;
mod stream_copy;
mod tracking;
mod writers;
mod zap;

pub(crate) use self::{
    bounce::Bounce,
    dirty_notifier::DirtyNotifier, //
};

use self::{
    areas::Areas,
    pages::{
        Detached,
        PageRef,
        Table, //
    },
    writers::Writers, //
};
use core::{
    ops::Range,
    sync::atomic::{
        AtomicBool,
        AtomicPtr,
        AtomicU64,
        Ordering, //
    },
};
use kernel::{
    new_spinlock,
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        Arc,
        SpinLock, //
    },
};
use kernel_ext::{
    rwsem::{
        new_rwsem,
        ReadGuard,
        RwSem, //
    },
    sched::{
        cond_resched,
        not_killed, //
    },
};
use migration::dirty::{
    words_for,
    DirtyMap, //
};
use vfio_bindings as bindings;

/// The memory of one device.
#[pin_data]
pub struct DeviceMemory {
    /// Size in bytes, a multiple of the page size.
    size: u64,
    /// The pages.
    pages: Table,
    /// See the module's documentation.
    #[pin]
    lock: RwSem<()>,
    /// Whether writes mark pages dirty. Changed with `lock` held for writing.
    tracking: AtomicBool,
    /// The pages that were written, while tracking.
    dirty: DirtyMap<KVVec<AtomicU64>>,
    /// The copies to the memory that are in progress.
    writers: Writers,
    /// The threads that wait for a page to be marked.
    dirty_notifier: Arc<DirtyNotifier>,
    /// The `address_space` with the user mappings of the device. Null while there can be none.
    mapping: AtomicPtr<bindings::address_space>,
    /// The offset in `mapping` of the memory's first byte. `UNMAPPED` until a user maps it.
    base: AtomicU64,
    /// The areas that map the memory.
    #[pin]
    areas: Areas,
    /// Pages that were removed from the memory but may still be mapped: the process that discarded them
    /// was killed while it waited for the process that maps them.
    #[pin]
    stale: SpinLock<Detached>,
}

/// The value of `DeviceMemory::base` that is no offset.
const UNMAPPED: u64 = u64::MAX;

impl DeviceMemory {
    /// Creates `size` bytes of memory that reads 0.
    pub(crate) fn new(size: u64) -> Result<Arc<Self>> {
        if size == 0 || size % PAGE_SIZE as u64 != 0 {
            return Err(EINVAL);
        }
        let count = usize::try_from(size / PAGE_SIZE as u64).map_err(|_| EFBIG)?;
        let pages = Table::new(count)?;
        let mut words = KVVec::new();
        for _ in 0..words_for(count as u64) {
            words.push(AtomicU64::new(0), GFP_KERNEL_ACCOUNT)?;
        }
        let dirty = DirtyMap::new(words, count as u64).ok_or(EINVAL)?;

        let dirty_notifier = DirtyNotifier::new()?;

        Arc::pin_init(
            pin_init!(Self {
                size,
                pages,
                lock <- new_rwsem!((), "device memory"),
                tracking: AtomicBool::new(false),
                dirty,
                writers: Writers::new(),
                dirty_notifier,
                mapping: AtomicPtr::new(core::ptr::null_mut()),
                base: AtomicU64::new(UNMAPPED),
                areas <- Areas::new(),
                stale <- new_spinlock!(Detached::none(), "device memory stale"),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Returns the size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the bytes that are backed by pages.
    pub fn populated_bytes(&self) -> u64 {
        self.populated_pages() * PAGE_SIZE as u64
    }

    /// Returns the number of pages that are not holes, from a counter.
    pub(crate) fn populated_pages(&self) -> u64 {
        self.pages.populated()
    }

    /// Refuses a range that is not inside the memory.
    pub(crate) fn check(&self, offset: u64, len: usize) -> Result {
        match offset.checked_add(len as u64) {
            Some(end) if end <= self.size => Ok(()),
            _ => Err(ERANGE),
        }
    }

    /// Returns a page, if it is not a hole.
    fn page(&self, index: usize) -> Option<PageRef> {
        self.pages.get(index, &self.lock.read())
    }

    /// Returns a page. Allocates it if it is a hole.
    fn page_or_new(&self, index: usize) -> Result<PageRef> {
        Ok(self.page_locked(index)?.0)
    }

    /// Returns a page, and the lock that keeps it in the table. Allocates it if it is a hole.
    fn page_locked(&self, index: usize) -> Result<(PageRef, ReadGuard<'_, ()>)> {
        let mut new = None;
        loop {
            let lock = self.lock.read();
            if let Some(page) = self.pages.get(index, &lock) {
                return Ok((page, lock));
            }
            if let Some(new) = new.take() {
                let page = self.pages.get_or_insert(index, new, &lock).ok_or(ERANGE)?;
                return Ok((page, lock));
            }
            // Without the lock, because it may take long.
            drop(lock);
            new = Some(PageRef::new()?);
        }
    }

    /// Makes a page that is complete the page at `index`, and returns `None`. Returns the page there if it is
    /// not a hole.
    fn insert(&self, index: usize, new: PageRef) -> Result<Option<PageRef>> {
        let lock = self.lock.read();
        let pfn = new.pfn();
        let page = self.pages.get_or_insert(index, new, &lock).ok_or(ERANGE)?;
        Ok((page.pfn() != pfn).then_some(page))
    }

    /// Turns all pages into holes. Guests that map them read zeroes.
    ///
    /// This cannot fail. If the current process is killed meanwhile, another process that maps the memory
    /// may still see the former pages. They are freed at the next discard or close.
    ///
    /// # Context
    ///
    /// As for [`DeviceMemory::free`].
    pub(crate) fn discard(&self) {
        let mut gone = self.stale.lock().take();
        self.detach(0..self.pages.len(), &mut gone);
        if self.zap(0, self.size).is_err() {
            self.stale.lock().append(gone);
        }
    }

    /// Turns a range of whole pages into holes, and frees them. Guests that map them read zeroes.
    ///
    /// The cost is linear in the blocks of the table and in the pages that are freed. Not for memory that
    /// is tracked, because a hole is not sent.
    ///
    /// `ERANGE` for bytes that the memory does not have. `EINTR` if the current process was killed, and
    /// `EBUSY` if users of the memory forked too often meanwhile. Then some of the pages are left, or are
    /// holes but not freed until this is called again, or until discard or close.
    ///
    /// # Context
    ///
    /// May sleep, and waits for the `mmap_lock` of each process that maps the memory. The caller holds
    /// no `mmap_lock`, and no lock that a page fault takes.
    pub(crate) fn free(&self, offset: u64, len: u64) -> Result {
        match offset.checked_add(len) {
            Some(end) if end <= self.size => {}
            _ => return Err(ERANGE),
        }
        // The pages that could not be freed before.
        let stale = self.stale.lock().take();
        if !stale.is_empty() {
            self.release(stale, 0, self.size)?;
        }
        let page_size = PAGE_SIZE as u64;
        let first = (offset / page_size) as usize;
        let count = (len / page_size) as usize;
        // Block by block: PTEs are removed only where there are pages.
        for block in self.pages.populated_blocks(first..first + count) {
            not_killed()?;
            let (offset, len) = (block.start as u64, block.len() as u64);
            let mut gone = Detached::none();
            self.detach(block, &mut gone);
            self.release(gone, offset * page_size, len * page_size)?;
        }
        Ok(())
    }

    /// Frees the whole pages in a range of bytes that is inside the memory, as [`DeviceMemory::free`],
    /// unless writes are tracked: a hole is not sent.
    fn free_untracked(&self, offset: u64, len: usize) -> Result {
        let page_size = PAGE_SIZE as u64;
        let first = offset.div_ceil(page_size) as usize;
        let last = ((offset + len as u64) / page_size) as usize;

        for block in self.pages.populated_blocks(first..last) {
            not_killed()?;
            let range = (
                block.start as u64 * page_size,
                block.len() as u64 * page_size,
            );
            let mut gone = Detached::none();
            {
                let lock = self.lock.write();
                if self.is_tracking() {
                    break;
                }
                self.pages.detach(block, &mut gone, &lock);
            }
            self.release(gone, range.0, range.1)?;
        }
        Ok(())
    }

    /// Frees pages that were removed from the table, in this range of bytes.
    fn release(&self, gone: Detached, offset: u64, len: u64) -> Result {
        match self.zap(offset, len) {
            Ok(()) => Ok(()),
            Err(error) => {
                self.stale.lock().append(gone);
                Err(error)
            }
        }
    }

    /// Removes the pages of a range from the table. Do not free them before a `zap`.
    fn detach(&self, range: Range<usize>, gone: &mut Detached) {
        for block in self.pages.populated_blocks(range) {
            let lock = self.lock.write();
            self.pages.detach(block, gone, &lock);
            drop(lock);
            // No spinlock is held.
            cond_resched();
        }
    }

    /// Sets the `address_space` with the user mappings of the device.
    ///
    /// # Safety
    ///
    /// `mapping` must be that of all files that map the device, and valid until this is called with null.
    /// No user mapping may exist when this is called with null.
    pub(crate) unsafe fn set_mapping(&self, mapping: *mut bindings::address_space) {
        let _lock = self.lock.write();
        self.mapping.store(mapping, Ordering::Release);
        if mapping.is_null() {
            self.base.store(UNMAPPED, Ordering::Release);
        }
    }
}
