// SPDX-License-Identifier: GPL-2.0

//! Device memory mapped by a user.
//!
//! The mapping has no pages behind it as far as mm is concerned (`VM_PFNMAP`): mm takes no references
//! to them, nobody can pin them through it, and taking them away is ours to order, with
//! [`DeviceMemory::zap`].

use super::{
    pages::{
        Held,
        PageRef, //
    },
    DeviceMemory,
    UNMAPPED, //
};
use crate::{
    bindings,
    rwsem::WriteGuard, //
};
use core::sync::atomic::Ordering;
use kernel::{
    mm::virt::{
        flags,
        vm_flags_t, //
    },
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*, //
};

/// Pages of a region's part of the device's file: regions are `1 << 40` bytes apart.
const REGION_PAGES: usize = 1 << (40 - PAGE_SHIFT);

/// The mappings of the process that this runs in, if it is one's, locked (`mmap_lock`).
///
/// KVM, for a guest's access, has a page fault handled and then looks the page up, with `mmap_lock`
/// held for reading all the while. Where it finds none it gives up, and the guest is dead. The process
/// that saves a device is the one whose guest uses it, so that this lock keeps a page from being taken
/// away in between.
pub(super) struct Mappings(*mut bindings::mm_struct);

impl Mappings {
    /// Locks them. Page faults wait for this, so it is taken before the memory's lock, as they do.
    pub(super) fn lock() -> Self {
        // SAFETY: The mappings of the current process, which exist as long as it runs. No caller of this
        // holds their lock: none is called by a page fault or by `mmap()`.
        Self(unsafe { bindings::vfio_rs_mmap_write_lock() })
    }
}

impl Drop for Mappings {
    fn drop(&mut self) {
        // SAFETY: `lock` took it, in the same process: the type is not `Send`.
        unsafe { bindings::vfio_rs_mmap_write_unlock(self.0) };
    }
}

impl DeviceMemory {
    /// Maps the memory from byte `offset` on. `EINVAL` unless the mapping is shared.
    ///
    /// # Safety
    ///
    /// `vma` must be the area that the device's mmap handler was called with, never executable and
    /// inside the memory. The memory must outlive the file that is mapped.
    pub(crate) unsafe fn mmap(&self, vma: *mut bindings::vm_area_struct, offset: u64) -> Result {
        // SAFETY: The area is ours to set up until the handler returns.
        unsafe {
            // mm does not survive page frames in a private mapping that may become writable.
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
        }
        Ok(())
    }

    /// Takes the user mappings of a range away. They come back by page faults.
    ///
    /// `_lock` is the memory's: no fault brings one back before it is released. `_mappings`, which is
    /// held first, keeps one that was just brought back until it was looked at.
    pub(super) fn zap(
        &self,
        offset: u64,
        len: u64,
        _lock: &WriteGuard<'_, ()>,
        _mappings: &Mappings,
    ) {
        let mapping = self.mapping.load(Ordering::Acquire);
        let base = self.base.load(Ordering::Acquire);
        if mapping.is_null() || base == UNMAPPED {
            return;
        }
        // SAFETY: `mapping` is valid while it is not null. `base` has the offset of a region that was
        // mapped, so nothing overflows.
        unsafe {
            bindings::unmap_mapping_range(mapping, (base + offset) as i64, len as i64, 1);
        }
    }

    /// Maps the page at `index` for an access to `address` of `vma`.
    ///
    /// # Safety
    ///
    /// The address and the page must be those of a fault that mm called `fault` for.
    unsafe fn fault(
        &self,
        vma: *mut bindings::vm_area_struct,
        address: usize,
        index: usize,
        write: bool,
    ) -> bindings::vm_fault_t {
        if index >= self.pages.len() {
            return bindings::vm_fault_reason_VM_FAULT_SIGBUS;
        }
        let Ok((page, lock)) = self.page_locked(index) else {
            return bindings::vm_fault_reason_VM_FAULT_OOM;
        };
        // SAFETY: By the requirements of this function.
        unsafe { self.insert(vma, address, index, &page, write, &lock) }
    }

    /// Makes the read-only mapping of the page at `index` at `address` of `vma` writable.
    ///
    /// mm would do that itself if we let it, provided that the mapping still looks the same. It does
    /// when it was taken away meanwhile, and with it the mark, and was brought back by another
    /// thread's read. So the mapping is replaced here, with all other faults locked out: one that
    /// reads would put the read-only mapping back, and this would never end.
    ///
    /// # Safety
    ///
    /// The address and the page must be those of a fault that mm called `pfn_mkwrite` for.
    unsafe fn make_writable(
        &self,
        vma: *mut bindings::vm_area_struct,
        address: usize,
        index: usize,
    ) -> bindings::vm_fault_t {
        let lock = self.lock.write();
        let Some(page) = self.pages.get(index, &lock) else {
            // Discarded meanwhile. The access will find it not mapped.
            return bindings::vm_fault_reason_VM_FAULT_NOPAGE;
        };
        // SAFETY: By the requirements of this function.
        unsafe {
            bindings::zap_special_vma_range(vma, address, PAGE_SIZE);
            self.insert(vma, address, index, &page, true, &lock)
        }
    }

    /// Maps a page where none is mapped, and marks it if it is going to be written.
    ///
    /// # Safety
    ///
    /// As for either caller. `page` must be the page at `index`, and `_lock` the memory's.
    unsafe fn insert(
        &self,
        vma: *mut bindings::vm_area_struct,
        address: usize,
        index: usize,
        page: &PageRef,
        write: bool,
        _lock: &impl Held,
    ) -> bindings::vm_fault_t {
        // SAFETY: The area does not change while its fault is handled.
        let flags: vm_flags_t = unsafe { (*vma).__bindgen_anon_2.vm_flags };
        let tracking = self.is_tracking();
        let writable = flags & flags::WRITE != 0 && (write || !tracking);
        if tracking && writable {
            self.mark(index);
        }
        let flags = if writable {
            flags
        } else {
            flags & !flags::WRITE
        };

        // SAFETY:
        // - The area was set up by `mmap`, so it is `VM_PFNMAP` and shared, and has the address.
        // - The page is the table's while the lock is held, and whoever takes it out of the table zaps
        //   all mappings before.
        unsafe {
            bindings::vmf_insert_pfn_prot(
                vma,
                address,
                page.pfn(),
                bindings::vm_get_page_prot(flags),
            )
        }
    }
}

/// The operations of a mapping.
const OPERATIONS: &bindings::vm_operations_struct = &bindings::vm_operations_struct {
    fault: Some(fault),
    pfn_mkwrite: Some(pfn_mkwrite),
    ..pin_init::zeroed()
};

/// A page that is not mapped was accessed.
///
/// # Safety
///
/// `vmf` must be a fault in an area that [`DeviceMemory::mmap`] set up.
unsafe extern "C" fn fault(vmf: *mut bindings::vm_fault) -> bindings::vm_fault_t {
    // SAFETY: By the requirement of this function; mm does not change what is read here.
    unsafe {
        let at = &(*vmf).__bindgen_anon_1;
        let flags = (*vmf).flags;
        let write = flags & bindings::fault_flag_FAULT_FLAG_WRITE != 0;
        // What is not a user's own access is the kernel's for somebody. KVM, for a guest that reads, keeps
        // what it finds, and a write to a page that it found read-only it does not bring here: it emulates
        // the instruction, which it cannot do with all that guests have. So this counts as a write.
        let user = flags & bindings::fault_flag_FAULT_FLAG_USER != 0;
        memory(at.vma).fault(at.vma, at.address, at.pgoff % REGION_PAGES, write || !user)
    }
}

/// A page that is mapped read-only was written.
///
/// # Safety
///
/// As for [`fault`].
unsafe extern "C" fn pfn_mkwrite(vmf: *mut bindings::vm_fault) -> bindings::vm_fault_t {
    // SAFETY: By the requirement of this function; mm does not change what is read here.
    unsafe {
        let at = &(*vmf).__bindgen_anon_1;
        memory(at.vma).make_writable(at.vma, at.address, at.pgoff % REGION_PAGES)
    }
}

/// The memory that is mapped at `vma`.
///
/// # Safety
///
/// `vma` must have been set up by [`DeviceMemory::mmap`], and exist for `'a`.
unsafe fn memory<'a>(vma: *const bindings::vm_area_struct) -> &'a DeviceMemory {
    // SAFETY: Set by `mmap`, whose caller vouched that the memory outlives the mapped file.
    unsafe { &*(*vma).vm_private_data.cast::<DeviceMemory>() }
}
