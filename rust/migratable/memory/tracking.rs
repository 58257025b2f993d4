// SPDX-License-Identifier: GPL-2.0

//! Dirty tracking of device memory.
//!
//! A guest's page is mapped writable at its first access. While tracking is on, this marks the page, whether
//! it is read or written. Before a page is sent its mapping is removed, so that the next access faults. A
//! read-only mapping would tell reads from writes, but KVM cannot use one: it finds a page, causes no fault,
//! and emulates the write instead, which it cannot do for all instructions. All other writers mark a page
//! after they write it.
//!
//! **The rule**: first a page's bit is cleared, then its mapping is removed, then its bytes are read. So if
//! a write and a send race, either the write's bytes are sent or the page is marked again:
//!
//! - A guest writes through a mapping from before the clearing. The mapping is removed before the bytes are
//!   read, so the write is sent.
//! - A guest writes through a mapping from after the clearing. The fault marked the page. A fault marks and
//!   maps with `lock` held, and mappings are removed with `lock` held for writing, so no fault is between
//!   its mark and its mapping then.
//! - Any other writer marks the page after the write, with a barrier on both sides.

#[cfg(mutation_memory_page)]
use crate::mutation;
#[cfg(mutation_dirty_page)]
use vfio::mutation;

use super::{
    DeviceMemory,
    DirtyNotifier, //
};
use core::sync::atomic::{
    AtomicU64,
    Ordering, //
};
use kernel::{
    page::PAGE_SIZE,
    prelude::*,
    sync::Arc, //
};
use migration::dirty::{
    DirtyMap,
    Run, //
};

impl DeviceMemory {
    /// Begins to track writes, with no page marked. The caller marks the pages that are not holes, because
    /// it sends all of them. Errors are those of [`DeviceMemory::protect`]; after one, tracking is off.
    pub(crate) fn start_tracking(&self) -> Result {
        {
            let _lock = self.lock.write();
            self.dirty.clear_all();
            // A write that does not see this yet was to a page that is no longer a hole. A thread that
            // reads the page from now on sees that write.
            self.tracking.store(true, Ordering::SeqCst);
            #[cfg(any(mutation_dirty_page, mutation_memory_page))]
            mutation::saving(core::ptr::from_ref(self).addr(), true);
        }
        self.zap(0, self.size).inspect_err(|_| self.stop_tracking())
    }

    /// Ends tracking.
    pub(crate) fn stop_tracking(&self) {
        let _lock = self.lock.write();
        self.tracking.store(false, Ordering::SeqCst);
        #[cfg(any(mutation_dirty_page, mutation_memory_page))]
        mutation::saving(core::ptr::from_ref(self).addr(), false);
        self.dirty.clear_all();
    }

    /// Returns whether writes are tracked. This does not change while the lock is held.
    #[inline]
    pub(super) fn is_tracking(&self) -> bool {
        self.tracking.load(Ordering::SeqCst)
    }

    /// Returns the map of written pages.
    pub(crate) fn dirty(&self) -> &DirtyMap<KVVec<AtomicU64>> {
        &self.dirty
    }

    /// Marks a page that was just written.
    pub(super) fn wrote(&self, page: usize) {
        // Between the write and the read of `tracking`, for a thread that sets `tracking` and then reads.
        core::sync::atomic::fence(Ordering::SeqCst);
        if self.is_tracking() {
            #[cfg(mutation_memory_page)]
            let Some(page) =
                mutation::leave_out(core::ptr::from_ref(self).addr(), &self.dirty, page)
            else {
                return;
            };
            self.mark(page);
        }
    }

    /// Marks a page.
    #[inline]
    pub(super) fn mark(&self, page: usize) {
        #[cfg(mutation_memory_page)]
        if mutation::is_left_out(core::ptr::from_ref(self).addr(), page) {
            return;
        }
        self.dirty.mark(page as u64);
        self.dirty_notifier.notify();
    }

    /// Returns the threads that wait for a page to be marked.
    pub(crate) fn dirty_notifier(&self) -> Arc<DirtyNotifier> {
        self.dirty_notifier.clone()
    }

    /// Removes the mappings of a range of pages, so that the next access of a guest marks them. The caller
    /// clears their bits before this, and reads their bytes after it.
    ///
    /// `EINTR` if the current process was killed while it waited for a process that maps the memory, and
    /// `EBUSY` if such processes forked too often. After an error do not send the bytes.
    ///
    /// # Context
    ///
    /// As for [`DeviceMemory::free`].
    pub(crate) fn protect(&self, offset: u64, len: u64) -> Result {
        if self.is_tracking() {
            self.zap(offset, len)?;
        }
        Ok(())
    }

    /// Returns the first run of pages in `run` that are not holes.
    pub(crate) fn populated(&self, run: Run) -> Option<Run> {
        let last = (self.size / PAGE_SIZE as u64).min(run.end()) as usize;
        let mut blocks = self.pages.populated_blocks(run.first as usize..last);
        let first = blocks.find_map(|block| self.pages.find_populated(block))?;
        let count = self.pages.populated_from(first, last);
        Some(Run {
            first: first as u64,
            count: count as u64,
        })
    }
}
