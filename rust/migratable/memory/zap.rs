// SPDX-License-Identifier: GPL-2.0

//! Removing page table entries (PTEs) from the areas that map device memory.
//!
//! KVM resolves a guest's access in two steps: it calls the fault handler, then it reads the PTE. It holds
//! the `mmap_lock` of its process for reading meanwhile. If the PTE disappears in between, `KVM_RUN` fails
//! and the guest is dead. So a PTE is removed only with the `mmap_lock` of *its own* process held for
//! writing. That is often not the current process: a user can pass a device's file or a data file to another
//! process, and a fork copies mappings. `areas` lists them all.
//!
//! # Locks
//!
//! [`DeviceMemory::zap`] holds one `mmap_lock` at a time, and takes the memory's lock under it. The callers
//! hold neither; they may hold the lock of the migration state. No page fault and no `mmap()` calls `zap`.
//!
//! # Limits
//!
//! - A process can hold its `mmap_lock` for any time, see `mmap_lock`.
//! - A process that forks while `zap` runs may copy PTEs that are not removed yet. Then `zap` visits all
//!   address spaces again, at most [`VISITS`] times, and then fails with `EBUSY`.
//! - Time is linear in the areas that users made of the memory (65,530 for each process, unless
//!   `vm.max_map_count` says otherwise).
//! - While an area is not listed because an allocation failed, PTEs are removed without the locks. The host
//!   stays safe, but a guest may die.

use super::{
    DeviceMemory,
    UNMAPPED, //
};
use core::sync::atomic::Ordering;
use kernel::{
    page::PAGE_SHIFT,
    prelude::*, //
};
use kernel_ext::{
    mmap_lock::MmapWriteGuard,
    sched::{
        cond_resched,
        not_killed, //
    },
};
use vfio_bindings as bindings;

/// How often all address spaces are visited at most.
const VISITS: usize = 16;

impl DeviceMemory {
    /// Removes the PTEs of a range from all address spaces. Page faults insert new ones.
    ///
    /// When this returns `Ok`, every PTE that existed at the call is gone. A fault meanwhile may have
    /// inserted a new one. So first change what a fault does, with the memory's lock held for writing, and
    /// then call this:
    ///
    /// - To see the next write of a page: clear its bit, then `zap`, then read its bytes.
    /// - To free pages: remove them from the table, then `zap`, then drop them. [`DeviceMemory::free`] and
    ///   [`DeviceMemory::discard`] do that.
    ///
    /// `EINTR` if the current process was killed, and `EBUSY` if users of the memory forked too often
    /// meanwhile. After an error some of the PTEs may be left.
    ///
    /// # Context
    ///
    /// May sleep. Takes an `mmap_lock` and the memory's lock: the caller holds neither.
    pub(super) fn zap(&self, offset: u64, len: u64) -> Result {
        let base = self.base.load(Ordering::Acquire);
        if base == UNMAPPED {
            return Ok(());
        }
        let start = base + offset;
        for _ in 0..VISITS {
            let forks = self.areas.forks();
            let mut visited = 0;
            while let Some(mm) = self.areas.next_mm(visited) {
                not_killed()?;
                self.zap_mm(&MmapWriteGuard::new(&mm)?, start, len);
                visited = mm.as_raw().addr();
            }
            if self.areas.forks() == forks {
                if !self.areas.are_listed() {
                    self.zap_unlocked(start, len);
                }
                return Ok(());
            }
        }
        Err(EBUSY)
    }

    /// Removes the PTEs of a range of the device's file from one address space.
    fn zap_mm(&self, mm: &MmapWriteGuard<'_>, start: u64, len: u64) {
        // With this lock no fault is between its mark and its PTE. A fault may not hold the `mmap_lock`.
        let _lock = self.lock.write();
        let mut after = 0;
        while let Some(vma) = self.areas.next_area(mm, after) {
            // SAFETY: The address space is locked, so the area exists and does not change.
            unsafe { zap_area(vma.as_ptr(), start, len) };
            after = vma.as_ptr().addr();
            // Only sleeping locks are held.
            cond_resched();
        }
    }

    /// Removes the PTEs of a range of the device's file from all areas, listed or not.
    fn zap_unlocked(&self, start: u64, len: u64) {
        let _lock = self.lock.write();
        let mapping = self.mapping.load(Ordering::Acquire);
        if !mapping.is_null() {
            // SAFETY: `mapping` is valid while it is not null.
            unsafe { bindings::unmap_mapping_range(mapping, start as i64, len as i64, 1) };
        }
    }
}

/// Removes the PTEs of a range of the device's file from an area.
///
/// # Safety
///
/// `vma` must map the memory, and its `mmap_lock` be held for writing.
unsafe fn zap_area(vma: *mut bindings::vm_area_struct, start: u64, len: u64) {
    // SAFETY: The area does not change while its lock is held.
    unsafe {
        let bounds = &(*vma).__bindgen_anon_1.__bindgen_anon_1;
        let (vm_start, vm_end) = (bounds.vm_start as u64, bounds.vm_end as u64);
        let first = ((*vma).vm_pgoff as u64) << PAGE_SHIFT;
        let from = start.max(first);
        let to = (start + len).min(first + (vm_end - vm_start));
        if from < to {
            let address = vm_start + (from - first);
            bindings::zap_special_vma_range(vma, address as usize, (to - from) as usize);
        }
    }
}
