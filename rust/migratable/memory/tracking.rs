// SPDX-License-Identifier: GPL-2.0

//! Which pages of device memory were written.
//!
//! While nobody asks, nothing is done: a guest's page is mapped writable at its first touch. While
//! tracking, that marks the page, whether it was read or written: before a page is sent its mapping is
//! taken away, so that the next access is seen. A read-only mapping would tell reads from writes, but KVM
//! cannot live with one: it has no fault handled where it finds a page, and emulates the write instead,
//! which it cannot do for all instructions. Everybody else marks a page after writing it.
//!
//! **The rule**: a page's bit is cleared before its bytes are read, and its mapping goes in between.
//! So of a write and a send that race, either the bytes are sent, or the page is marked again:
//!
//! - A guest's write through a mapping made before the clearing: the mapping is gone before the bytes
//!   are read, so they have the write.
//! - Through one made after it: making it marked the page. A fault marks and maps with `lock` held, and
//!   mappings are taken away with `lock` held for writing, so none is in between then.
//! - Any other write marks after it, with a barrier on both sides.

#[cfg(mutation_memory_page)]
use crate::mutation;
#[cfg(mutation_dirty_page)]
use vfio::mutation;

use super::{
    DeviceMemory,
    Dirtied, //
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
    /// Begins to track writes, with no page marked. Pages that are not holes have to be marked by the
    /// caller, who sends them in any case. Errors are those of [`DeviceMemory::protect`]; nothing is
    /// tracked then.
    pub(crate) fn start_tracking(&self) -> Result {
        {
            let _lock = self.lock.write();
            self.dirty.clear_all();
            // A write that does not see this yet was to a page that is not a hole any more, and what it
            // wrote is seen by whoever reads that page from now on.
            self.tracking.store(true, Ordering::SeqCst);
            #[cfg(any(mutation_dirty_page, mutation_memory_page))]
            mutation::saving(core::ptr::from_ref(self).addr(), true);
        }
        self.zap(0, self.size).inspect_err(|_| self.stop_tracking())
    }

    /// Tracks writes no longer.
    pub(crate) fn stop_tracking(&self) {
        let _lock = self.lock.write();
        self.tracking.store(false, Ordering::SeqCst);
        #[cfg(any(mutation_dirty_page, mutation_memory_page))]
        mutation::saving(core::ptr::from_ref(self).addr(), false);
        self.dirty.clear_all();
    }

    /// Whether writes are tracked. Does not change while the lock is held.
    #[inline]
    pub(super) fn is_tracking(&self) -> bool {
        self.tracking.load(Ordering::SeqCst)
    }

    /// The pages written.
    pub(crate) fn dirty(&self) -> &DirtyMap<KVVec<AtomicU64>> {
        &self.dirty
    }

    /// Marks a page that was just written.
    pub(super) fn wrote(&self, page: usize) {
        // Between the write and the look at `tracking`, for those who start it and then read.
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
        self.dirtied.notify();
    }

    /// Those who wait for a page to be marked.
    pub(crate) fn dirtied(&self) -> Arc<Dirtied> {
        self.dirtied.clone()
    }

    /// Takes the mappings of a range of pages away, so that the next access of a guest marks them. Their
    /// bits were cleared before this, and their bytes are read after it.
    ///
    /// `EINTR` if the current process was killed while it waited for one that maps the memory, and
    /// `EBUSY` if those forked too often. Then the bytes must not be sent.
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

    /// The first run of pages in `run` that are not holes.
    pub(crate) fn populated(&self, run: Run) -> Option<Run> {
        let populated = |page: &usize| self.pages.is_populated(*page);
        let last = (self.size / PAGE_SIZE as u64).min(run.end()) as usize;
        let mut blocks = self.pages.populated_blocks(run.first as usize..last);
        let first = blocks.find_map(|mut block| block.find(populated))?;
        let count = (first..last).take_while(populated).count();
        Some(Run {
            first: first as u64,
            count: count as u64,
        })
    }
}
