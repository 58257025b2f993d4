// SPDX-License-Identifier: GPL-2.0

//! The areas that map device memory.
//!
//! [`Areas`] lists every area (`vm_area_struct`) of the memory together with its address space
//! (`mm_struct`). `mmap()`, `open` and `close` of the area's operations keep the list. All three run with
//! that `mmap_lock` held, so the list of a locked address space does not change, and each listed area and
//! its page tables exist. This holds for a process that exits, too: `exit_mmap()` closes its areas with
//! the lock held for writing.
//!
//! To list the copy of an area takes an allocation of less than 100 bytes, and `open` cannot fail. If the
//! allocation fails, [`Areas::are_listed`] is false until that area is gone.

use core::ptr::NonNull;
use kernel::{
    mm::Mm,
    new_spinlock,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNode, //
    },
    sync::{
        aref::ARef,
        SpinLock, //
    },
};
use kernel_ext::mmap_lock::MmapWriteGuard;
use vfio_bindings as bindings;

/// An area, by the addresses of its `mm_struct` and of its `vm_area_struct`.
type Key = (usize, usize);

/// The areas that map a memory.
#[pin_data]
pub(super) struct Areas {
    #[pin]
    list: SpinLock<List>,
}

/// The part of [`Areas`] under its lock.
///
/// # Invariants
///
/// Each key is an area that was opened and not closed yet. So its `mm_struct` exists, and it exists
/// itself as long as the `mmap_lock` is held.
struct List {
    areas: RBTree<Key, ()>,
    /// Number of address spaces that forks created. It never decreases.
    forks: u64,
    /// Number of areas that are not in `areas` because an allocation failed.
    unlisted: usize,
}

// SAFETY: The list stores addresses as numbers only.
unsafe impl Send for List {}

impl List {
    /// Returns the first area whose key is at least `key`.
    fn first_from(&self, key: Key) -> Option<Key> {
        let cursor = self.areas.cursor_lower_bound(&key)?;
        Some(*cursor.current().0)
    }

    /// Returns whether an address space has an area.
    fn has(&self, mm: usize) -> bool {
        self.first_from((mm, 0)).is_some_and(|key| key.0 == mm)
    }
}

/// Returns the key of an area.
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
    /// Returns an empty list.
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

    /// Lists a new area. `ENOMEM` if the allocation fails.
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

    /// Removes an area from the list.
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
        // Free the node without the lock.
        drop(node);
    }

    /// Returns the first address space with areas whose address is greater than `after`.
    pub(super) fn next_mm(&self, after: usize) -> Option<ARef<Mm>> {
        let list = self.list.lock();
        let (mm, _) = list.first_from((after.checked_add(1)?, 0))?;
        // SAFETY: By the invariant of the list, which is locked, the address space exists.
        Some(unsafe { Mm::from_raw(core::ptr::with_exposed_provenance(mm)) }.into())
    }

    /// Returns the first area of a locked address space whose address is greater than `after`.
    pub(super) fn next_area(
        &self,
        mm: &MmapWriteGuard<'_>,
        after: usize,
    ) -> Option<NonNull<bindings::vm_area_struct>> {
        let mm = mm.mm().as_raw().addr();
        let found = self.list.lock().first_from((mm, after.checked_add(1)?))?;
        if found.0 != mm {
            return None;
        }
        NonNull::new(core::ptr::with_exposed_provenance_mut(found.1))
    }

    /// Returns how many address spaces forks created.
    pub(super) fn forks(&self) -> u64 {
        self.list.lock().forks
    }

    /// Returns whether all areas are listed.
    pub(super) fn are_listed(&self) -> bool {
        self.list.lock().unlisted == 0
    }
}
