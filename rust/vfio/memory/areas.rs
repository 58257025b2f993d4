// SPDX-License-Identifier: GPL-2.0

//! The areas that map device memory, and removing page table entries (PTEs) from them.
//!
//! KVM resolves a guest's access in two steps: it has the page fault handled, then it reads the PTE. It
//! holds the `mmap_lock` of its process for reading meanwhile. If the PTE disappears in between,
//! `KVM_RUN` fails and the guest is dead. So a PTE is removed only with the `mmap_lock` of *its own*
//! process held for writing. That is often not the current process: a device's file or a data file can
//! be passed to another one, and a fork copies mappings.
//!
//! [`Areas`] therefore lists every area (`vm_area_struct`) of the memory together with its address space
//! (`mm_struct`). `mmap()`, `open` and `close` of the area's operations keep the list. All three run with
//! that `mmap_lock` held, so the list of a locked address space does not change, and each listed area and
//! its page tables exist. This holds for a process that exits, too: `exit_mmap()` closes its areas with
//! the lock held for writing.
//!
//! # Locks
//!
//! [`DeviceMemory::zap`] holds one `mmap_lock` at a time, and never two. Under it, it takes the memory's
//! lock. The callers hold neither, and may hold the session's lock. No page fault and no `mmap()` calls
//! `zap`.
//!
//! # Limits
//!
//! - Another process can keep its own `mmap_lock` for as long as it likes, for example while a FUSE server
//!   answers a page fault. The wait for it ends with `EINTR` when the current process is killed.
//! - A process that forks while `zap` runs may pass PTEs on that were not removed yet. Then all address
//!   spaces are visited again, at most [`VISITS`] times, then `zap` fails with `EBUSY`.
//! - Time is linear in the areas that users made of the memory (65,530 for each process, unless
//!   `vm.max_map_count` says otherwise).
//! - Noting the copy of an area takes an allocation of less than 100 bytes, and `open` cannot fail. If
//!   there is no memory even for that, PTEs are removed without the locks until that area is gone: the
//!   host stays safe, and a guest may die.

use super::{
    DeviceMemory,
    UNMAPPED, //
};
use crate::bindings;
use core::{
    ptr::NonNull,
    sync::atomic::Ordering, //
};
use kernel::{
    error::to_result,
    mm::Mm,
    new_spinlock,
    page::PAGE_SHIFT,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNode, //
    },
    sync::{
        aref::ARef,
        SpinLock, //
    },
    types::NotThreadSafe, //
};

/// How often all address spaces are visited before their forks are too many.
const VISITS: usize = 16;

/// An area, by the addresses of its `mm_struct` and of its `vm_area_struct`.
type Key = (usize, usize);

/// The areas that map a memory.
#[pin_data]
pub(super) struct Areas {
    #[pin]
    list: SpinLock<List>,
}

/// What [`Areas`] protects.
///
/// # Invariants
///
/// Each key is an area that was opened and not closed yet. So its `mm_struct` exists, and it exists
/// itself as long as the `mmap_lock` is held.
struct List {
    areas: RBTree<Key, ()>,
    /// Address spaces that a fork has made. Only ever grows.
    forks: u64,
    /// Areas that are not in `areas` for want of memory.
    unlisted: usize,
}

// SAFETY: The list has addresses as numbers only.
unsafe impl Send for List {}

impl List {
    /// The first area whose key is at least `key`.
    fn first_from(&self, key: Key) -> Option<Key> {
        let cursor = self.areas.cursor_lower_bound(&key)?;
        Some(*cursor.current().0)
    }

    /// Whether an address space has an area.
    fn has(&self, mm: usize) -> bool {
        self.first_from((mm, 0)).is_some_and(|key| key.0 == mm)
    }
}

/// The key of an area.
///
/// # Safety
///
/// `vma` must be valid.
unsafe fn key(vma: *mut bindings::vm_area_struct) -> Key {
    // SAFETY: By the requirement of this function. An area's `vm_mm` never changes.
    let mm = unsafe { (*vma).vm_mm };
    (mm.addr(), vma.addr())
}

impl Areas {
    /// No areas.
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            list <- new_spinlock!(
                List {
                    areas: RBTree::new(),
                    forks: 0,
                    unlisted: 0,
                },
                "device memory areas"
            ),
        })
    }

    /// Lists a new area. `ENOMEM` if that takes memory that is not there.
    ///
    /// # Safety
    ///
    /// `vma` must map the memory, its `mmap_lock` be held for writing, and its `close` call
    /// [`Areas::remove`].
    pub(super) unsafe fn add(&self, vma: *mut bindings::vm_area_struct) -> Result {
        // SAFETY: By the requirement of this function.
        let key = unsafe { key(vma) };
        let node = RBTreeNode::new(key, (), GFP_KERNEL_ACCOUNT)?;
        // INVARIANT: By the requirement of this function.
        self.list.lock().areas.insert(node);
        Ok(())
    }

    /// Lists the copy of an area that a split, a move or a fork has made.
    ///
    /// # Safety
    ///
    /// As for [`Areas::add`].
    pub(super) unsafe fn add_copy(&self, vma: *mut bindings::vm_area_struct) {
        // SAFETY: By the requirement of this function.
        let key = unsafe { key(vma) };
        let node = RBTreeNode::new(key, (), GFP_KERNEL_ACCOUNT);
        let mut list = self.list.lock();
        if !list.has(key.0) {
            list.forks += 1;
        }
        match node {
            // INVARIANT: By the requirement of this function.
            Ok(node) => drop(list.areas.insert(node)),
            Err(_) => list.unlisted += 1,
        }
    }

    /// Takes an area off the list.
    ///
    /// # Safety
    ///
    /// `vma` must have been given to [`Areas::add`] or [`Areas::add_copy`], and not to this since.
    pub(super) unsafe fn remove(&self, vma: *mut bindings::vm_area_struct) {
        // SAFETY: By the requirement of this function.
        let key = unsafe { key(vma) };
        let mut list = self.list.lock();
        let node = list.areas.remove_node(&key);
        if node.is_none() {
            list.unlisted -= 1;
        }
        drop(list);
        // Freed without the lock.
        drop(node);
    }

    /// The first address space that has areas and lies at a higher address than `after`.
    fn next_mm(&self, after: usize) -> Option<ARef<Mm>> {
        let list = self.list.lock();
        let (mm, _) = list.first_from((after.checked_add(1)?, 0))?;
        // SAFETY: By the invariant of the list, which is locked, the address space exists.
        Some(unsafe { Mm::from_raw(core::ptr::with_exposed_provenance(mm)) }.into())
    }

    /// The first area of a locked address space at a higher address than `after`.
    fn next_area(
        &self,
        mm: &Locked<'_>,
        after: usize,
    ) -> Option<NonNull<bindings::vm_area_struct>> {
        let mm = mm.0.as_raw().addr();
        let found = self.list.lock().first_from((mm, after.checked_add(1)?))?;
        if found.0 != mm {
            return None;
        }
        NonNull::new(core::ptr::with_exposed_provenance_mut(found.1))
    }

    /// How many address spaces were made by forks.
    fn forks(&self) -> u64 {
        self.list.lock().forks
    }

    /// Whether all areas are listed.
    fn are_listed(&self) -> bool {
        self.list.lock().unlisted == 0
    }
}

/// An address space whose `mmap_lock` is held for writing.
struct Locked<'a>(&'a Mm, NotThreadSafe);

impl<'a> Locked<'a> {
    /// Waits for the lock. `EINTR` if the current process is killed meanwhile.
    fn new(mm: &'a Mm) -> Result<Self> {
        // SAFETY: The structure is referenced, and its lock is valid even after the last user of the
        // address space has gone. The current task does not hold it: `zap` is not called by page faults,
        // nor by `mmap()`.
        to_result(unsafe { bindings::vfio_rs_mmap_write_lock_killable(mm.as_raw()) })?;
        Ok(Self(mm, NotThreadSafe))
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // SAFETY: `new` took it, on this thread.
        unsafe { bindings::vfio_rs_mmap_write_unlock(self.0.as_raw()) };
    }
}

impl DeviceMemory {
    /// Removes the PTEs of a range from all address spaces. Page faults bring them back.
    ///
    /// Every PTE that existed when this was called is gone when it has returned `Ok`. A fault that happens
    /// meanwhile may have inserted a new one, so first change what a fault does, with the memory's lock
    /// held for writing, then call this:
    ///
    /// - To see the next write of a page: clear its bit, then `zap`, then read its bytes.
    /// - To free pages: take them out of the table, then `zap`, then drop them. [`DeviceMemory::free`] and
    ///   [`DeviceMemory::discard`] do that.
    ///
    /// `EINTR` if the current process was killed, and `EBUSY` if users of the memory forked too often
    /// meanwhile. Some of the PTEs may be left then.
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
                // SAFETY: An FFI call without requirements.
                if unsafe { bindings::vfio_rs_fatal_signal_pending() } {
                    return Err(EINTR);
                }
                self.zap_mm(&Locked::new(&mm)?, start, len);
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
    fn zap_mm(&self, mm: &Locked<'_>, start: u64, len: u64) {
        // No fault is between its mark and its PTE. Faults do without the `mmap_lock` if they can.
        let _lock = self.lock.write();
        let mut after = 0;
        while let Some(vma) = self.areas.next_area(mm, after) {
            // SAFETY: The address space is locked, so the area exists and does not change.
            unsafe { zap_area(vma.as_ptr(), start, len) };
            after = vma.as_ptr().addr();
            // SAFETY: Only sleeping locks are held.
            unsafe { bindings::vfio_rs_cond_resched() };
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
