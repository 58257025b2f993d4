// SPDX-License-Identifier: GPL-2.0

//! The `mmap_lock` of a process, held for writing.
//!
//! The `kernel` crate locks it for reading only. It is held here for one reason: KVM, which holds it for
//! reading from a page fault until it has read the PTE, must not lose the PTE in between. See `zap`.
//!
//! # Limits
//!
//! - The process is often not the current one, and can keep its lock for as long as it likes, for example
//!   while a FUSE server answers a page fault. The wait ends with `EINTR` when the current process is
//!   killed.
//! - Page faults that do without the `mmap_lock` are not excluded. The memory's own lock excludes them.
//! - A task must not hold two of these, nor take one in a page fault or in `mmap()`.

use kernel::{
    error::to_result,
    mm::Mm,
    prelude::*,
    types::NotThreadSafe, //
};
use vfio_bindings as bindings;

/// An address space whose `mmap_lock` is held for writing.
///
/// # Invariants
///
/// This thread holds the lock.
pub struct MmapWriteGuard<'a>(&'a Mm, NotThreadSafe);

impl<'a> MmapWriteGuard<'a> {
    /// Waits for the lock. `EINTR` if the current process is killed meanwhile.
    pub fn new(mm: &'a Mm) -> Result<Self> {
        // SAFETY: The structure is referenced, and its lock is valid even after the last user of the
        // address space has gone. The current task does not hold it, see `zap`.
        to_result(unsafe { bindings::vfio_rs_mmap_write_lock_killable(mm.as_raw()) })?;
        // INVARIANT: Just locked.
        Ok(Self(mm, NotThreadSafe))
    }

    /// The address space.
    pub fn mm(&self) -> &Mm {
        self.0
    }
}

impl Drop for MmapWriteGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::vfio_rs_mmap_write_unlock(self.0.as_raw()) };
    }
}
