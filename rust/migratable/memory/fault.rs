// SPDX-License-Identifier: GPL-2.0

//! Device memory mapped by a user.
//!
//! The mapping has page frames but no `struct page` for mm (`VM_PFNMAP`). mm takes no references to the
//! pages, nobody can pin them through the mapping, and the driver removes the PTEs itself, see
//! [`DeviceMemory::zap`].
//!
//! A writable area has no read-only PTE, because KVM does not ask for an upgrade of one: it emulates the
//! guest's store, and ends the VM if it cannot. So a fault maps a page with all rights of the area, and an
//! `mprotect()` that makes an area writable removes the older PTEs.

use super::{
    pages::Held,
    DeviceMemory, //
};
use core::sync::atomic::Ordering;
use kernel::{
    ffi::{
        c_int,
        c_ulong, //
    },
    mm::virt::{
        flags,
        vm_flags_t, //
    },
    page::PAGE_SHIFT,
    prelude::*, //
};
use vfio::INDEX_SHIFT;
use vfio_bindings as bindings;

/// Pages of the device's file for each region.
const REGION_PAGES: usize = 1 << (INDEX_SHIFT as usize - PAGE_SHIFT);

impl DeviceMemory {
    /// Maps the memory from byte `offset` on. `EINVAL` unless the mapping is shared, `ENOMEM` if the
    /// area cannot be listed.
    ///
    /// # Safety
    ///
    /// `vma` must be the area that the device's mmap handler was called with, never executable and
    /// inside the memory. The memory must outlive the file that is mapped.
    pub(crate) unsafe fn mmap(&self, vma: *mut bindings::vm_area_struct, offset: u64) -> Result {
        // SAFETY: The mmap handler owns the area until it returns.
        unsafe {
            // mm cannot handle page frames in a private mapping that may become writable: it would copy them
            // as pages.
            if (*vma).__bindgen_anon_2.vm_flags & flags::SHARED == 0 {
                return Err(EINVAL);
            }
            let first = ((*vma).vm_pgoff as u64) << PAGE_SHIFT;
            self.base.store(first - offset, Ordering::Release);

            bindings::vfio_rs_vm_flags_set(
                vma,
                flags::IO | flags::PFNMAP | flags::DONTEXPAND | flags::DONTDUMP,
            );
            (*vma).vm_private_data = core::ptr::from_ref(self).cast_mut().cast();
            (*vma).vm_ops = OPERATIONS;
            // This comes last, because mm does not close an area whose mmap handler failed.
            self.areas.add(vma)
        }
    }

    /// Maps the page at `index` at `address` of `vma`. Marks the page if the mapping is writable.
    ///
    /// # Safety
    ///
    /// The address and the page must be those of a fault that mm called `fault` for.
    unsafe fn fault(
        &self,
        vma: *mut bindings::vm_area_struct,
        address: usize,
        index: usize,
    ) -> bindings::vm_fault_t {
        if index >= self.pages.len() {
            return bindings::vm_fault_reason_VM_FAULT_SIGBUS;
        }
        let Ok((page, lock)) = self.page_locked(index) else {
            return bindings::vm_fault_reason_VM_FAULT_OOM;
        };
        // SAFETY: The area does not change while its fault is handled.
        let flags: vm_flags_t = unsafe { (*vma).__bindgen_anon_2.vm_flags };
        if flags & flags::WRITE != 0 {
            self.mark_mapped(index, &lock);
        }
        // SAFETY:
        // - The area was set up by `mmap`, so it is `VM_PFNMAP` and shared, and has the address.
        // - The page stays in the table while the lock is held. A page that is removed from the table is
        //   freed only after its PTEs are removed.
        unsafe {
            bindings::vmf_insert_pfn_prot(
                vma,
                address,
                page.pfn(),
                bindings::vm_get_page_prot(flags),
            )
        }
    }

    /// Marks a page that is about to be mapped writable.
    fn mark_mapped(&self, index: usize, _lock: &impl Held) {
        if self.is_tracking() {
            self.mark(index);
        }
    }
}

/// The operations of a mapping.
const OPERATIONS: &bindings::vm_operations_struct = &bindings::vm_operations_struct {
    open: Some(open),
    close: Some(close),
    mprotect: Some(mprotect),
    fault: Some(fault),
    pfn_mkwrite: Some(pfn_mkwrite),
    ..pin_init::zeroed()
};

/// A split, a move or a fork has copied an area.
///
/// # Safety
///
/// `vma` must be a copy of an area that [`DeviceMemory::mmap`] set up, and its `mmap_lock` be held for
/// writing.
unsafe extern "C" fn open(vma: *mut bindings::vm_area_struct) {
    // SAFETY: By the requirement of this function; `close` removes it from the list.
    unsafe { memory(vma).areas.add_copy(vma) };
}

/// An area goes away.
///
/// # Safety
///
/// `vma` must be one that [`DeviceMemory::mmap`] set up or that `open` was called for.
unsafe extern "C" fn close(vma: *mut bindings::vm_area_struct) {
    // SAFETY: By the requirement of this function, it is on the list.
    unsafe { memory(vma).areas.remove(vma) };
}

/// `mprotect()` is about to change the part from `start` to `end` of an area.
///
/// # Safety
///
/// As for [`close`], and the area's `mmap_lock` must be held for writing.
unsafe extern "C" fn mprotect(
    vma: *mut bindings::vm_area_struct,
    start: c_ulong,
    end: c_ulong,
    flags: c_ulong,
) -> c_int {
    // SAFETY: By the requirement of this function.
    unsafe {
        let before: vm_flags_t = (*vma).__bindgen_anon_2.vm_flags;
        if before & flags::WRITE == 0 && flags & flags::WRITE != 0 {
            // Until the flags have changed, this keeps out faults that do not take the `mmap_lock`.
            bindings::vfio_rs_vma_start_write(vma);
            bindings::zap_special_vma_range(vma, start, end - start);
        }
    }
    0
}

/// A user accessed a page that is not mapped.
///
/// # Safety
///
/// `vmf` must be a fault in an area that [`DeviceMemory::mmap`] set up.
unsafe extern "C" fn fault(vmf: *mut bindings::vm_fault) -> bindings::vm_fault_t {
    // SAFETY: By the requirement of this function; mm does not change what is read here.
    unsafe {
        let at = &(*vmf).__bindgen_anon_1;
        memory(at.vma).fault(at.vma, at.address, at.pgoff % REGION_PAGES)
    }
}

/// A user wrote to a page that is mapped read-only in a writable area.
///
/// There is no such page, see [`mprotect`]. But in areas without this operation mm makes PTEs writable by
/// itself, and then a write would not be marked.
///
/// # Safety
///
/// As for [`fault`].
unsafe extern "C" fn pfn_mkwrite(vmf: *mut bindings::vm_fault) -> bindings::vm_fault_t {
    // SAFETY: By the requirement of this function; mm does not change what is read here.
    let (memory, index) = unsafe {
        let at = &(*vmf).__bindgen_anon_1;
        (memory(at.vma), at.pgoff % REGION_PAGES)
    };
    memory.mark_mapped(index, &memory.lock.read());
    // mm makes the PTE writable now if it has not changed. Otherwise the user repeats the access. If the
    // PTE had been removed, a fault would have inserted a writable one.
    0
}

/// Returns the memory that is mapped at `vma`.
///
/// # Safety
///
/// `vma` must have been set up by [`DeviceMemory::mmap`], and exist for `'a`.
unsafe fn memory<'a>(vma: *const bindings::vm_area_struct) -> &'a DeviceMemory {
    // SAFETY: Set by `mmap`, whose caller guarantees that the memory outlives the mapped file.
    unsafe { &*(*vma).vm_private_data.cast::<DeviceMemory>() }
}
