// SPDX-License-Identifier: GPL-2.0

//! The data section of the migration region.
//!
//! Memory that belongs to the device while it is open. The user maps, reads and writes it at any time. So
//! this code creates no reference into it. Only C accesses it, through raw pointers. A value is copied
//! before it is checked. The memory is charged to the task that opens the device.

use super::data_section_config::DataSectionConfig;
use core::{
    ptr,
    sync::atomic::{
        AtomicPtr,
        Ordering, //
    },
};
use kernel::{
    error::to_result,
    ffi::{
        c_ulong,
        c_void, //
    },
    mm::virt::flags,
    page::PAGE_SIZE,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    uaccess::UserPtr, //
};
use kernel_ext::nospec;
use migration::region::Layout;
use vfio_bindings as bindings;

/// Memory that others may change at any time.
///
/// # Invariants
///
/// `start` is valid for reads and writes of `len` bytes by C for as long as this exists.
pub(super) struct Window {
    start: *mut u8,
    len: usize,
}

impl Window {
    /// Returns a window to `len` bytes.
    ///
    /// # Safety
    ///
    /// `start` must be valid for reads and writes of `len` bytes by C for as long as the window exists,
    /// and no reference to them be used meanwhile.
    pub(super) unsafe fn new(start: *mut u8, len: usize) -> Self {
        // INVARIANT: By the requirements of this function.
        Self { start, len }
    }

    /// Returns a pointer to `len` bytes from byte `at` on, valid for reads and writes by C.
    pub(super) fn bytes(&self, at: usize, len: usize) -> Result<*mut u8> {
        match at.checked_add(len) {
            // By the invariant the result is in bounds, or at their end.
            Some(end) if end <= self.len => Ok(self.start.wrapping_add(at)),
            _ => Err(ERANGE),
        }
    }

    /// Returns the window without its first `at` bytes.
    pub(super) fn tail(self, at: usize) -> Result<Self> {
        let len = self.len.checked_sub(at).ok_or(ERANGE)?;
        // INVARIANT: A part of the window.
        Ok(Self {
            start: self.bytes(at, len)?,
            len,
        })
    }

    /// Copies `bytes` to the window, from its byte `at` on.
    pub(super) fn put(&mut self, at: usize, bytes: &[u8]) -> Result {
        let to = self.bytes(at, bytes.len())?;
        // SAFETY: `bytes` guarantees its part, and a window overlaps no Rust reference.
        unsafe { bindings::memcpy(to.cast::<c_void>(), bytes.as_ptr().cast(), bytes.len()) };
        Ok(())
    }

    /// Copies to `buf` from the window's byte `at` on.
    pub(super) fn get(&self, at: usize, buf: &mut [u8]) -> Result {
        let from = self.bytes(at, buf.len())?;
        // SAFETY: As in `put`.
        unsafe { bindings::memcpy(buf.as_mut_ptr().cast(), from.cast::<c_void>(), buf.len()) };
        Ok(())
    }
}

/// The data section.
///
/// # Invariants
///
/// `start` is null, or owned memory of `size` bytes from `__vmalloc()`. [`DataSectionConfig::check_size`]
/// accepts `size`.
pub(crate) struct DataSection {
    start: AtomicPtr<c_void>,
    /// Bytes. Changes only before the first open.
    size: Atomic<usize>,
    mmap: bool,
    v7_type: u32,
}

impl DataSection {
    /// Returns the data section of a device that is not open.
    pub(crate) fn new(section: DataSectionConfig) -> Self {
        // INVARIANT: Null, and by the invariant of `DataSectionConfig`.
        Self {
            start: AtomicPtr::new(ptr::null_mut()),
            size: Atomic::new(section.size()),
            mmap: section.mmap(),
            v7_type: section.v7_type(),
        }
    }

    /// Returns the type of the v7 region.
    pub(super) fn v7_type(&self) -> u32 {
        self.v7_type
    }

    /// Returns where the data section is in the region.
    pub(super) fn layout(&self) -> Layout {
        Layout {
            // The registers have a page of their own, which is never mapped (P6, P27).
            data_offset: PAGE_SIZE as u64,
            section_size: self.size() as u64,
        }
    }

    /// Returns whether users may map it.
    pub(super) fn is_mappable(&self) -> bool {
        self.mmap
    }

    /// Allocates the memory, charged to the current task. All of it reads 0 (P29).
    ///
    /// # Safety
    ///
    /// The device is not open.
    pub(super) unsafe fn open(&self) -> Result {
        // SAFETY: An FFI call without requirements.
        let start = unsafe { bindings::vfio_rs_vzalloc_account(self.size()) };
        if start.is_null() {
            return Err(ENOMEM);
        }
        // INVARIANT: Allocated above.
        self.start.store(start, Ordering::Release);
        Ok(())
    }

    /// Frees the memory.
    ///
    /// # Safety
    ///
    /// There is no [`Window`], no call in flight that uses the memory, and no mapping of it.
    pub(super) unsafe fn close(&self) {
        let start = self.start.swap(ptr::null_mut(), Ordering::AcqRel);
        // SAFETY: By the invariant this owns it, and by the requirements nobody uses it. Null is allowed.
        unsafe { bindings::vfree(start) };
    }

    /// Returns the size in bytes.
    pub(super) fn size(&self) -> usize {
        self.size.load(Relaxed)
    }

    /// Sets the size in bytes.
    ///
    /// # Safety
    ///
    /// [`DataSectionConfig::check_size`] accepts `size`. The device was never open, and is not being opened.
    pub(super) unsafe fn set_size(&self, size: usize) {
        // INVARIANT: `start` is null. The size is accepted by the requirement of this function.
        self.size.store(size, Relaxed);
    }

    /// Returns the size of its first part, the place of bitmaps in the older generations. Data has the rest.
    pub(super) fn bitmap_size(&self) -> usize {
        DataSectionConfig::bitmap_size(self.size())
    }

    /// Returns the memory of an open device.
    ///
    /// # Safety
    ///
    /// [`DataSection::close`] is not called as long as the window exists.
    pub(super) unsafe fn window(&self) -> Result<Window> {
        let start = self.start.load(Ordering::Acquire);
        if start.is_null() {
            return Err(ENODEV);
        }
        // INVARIANT: By the invariant of `DataSection` and the requirements of this function.
        Ok(Window {
            start: start.cast(),
            len: self.size(),
        })
    }

    /// Copies `len` bytes from byte `offset` on to a user. They are inside.
    ///
    /// # Safety
    ///
    /// As for [`DataSection::window`], during the call.
    pub(super) unsafe fn read_user(&self, offset: u64, to: UserPtr, len: usize) -> Result<usize> {
        let offset = nospec::index(usize::try_from(offset)?, self.size());
        // SAFETY: By the requirements of this function.
        let from = unsafe { self.window()? }.bytes(offset, len)?;
        // SAFETY: `bytes` guarantees `from`. No lock is held that a page fault takes.
        let left = unsafe { bindings::copy_to_user(to.as_mut_ptr(), from.cast::<c_void>(), len) };
        partial(len, left)
    }

    /// Copies `len` bytes from a user to byte `offset` on. They are inside.
    ///
    /// # Safety
    ///
    /// As for [`DataSection::window`], during the call.
    pub(super) unsafe fn write_user(
        &self,
        offset: u64,
        from: UserPtr,
        len: usize,
    ) -> Result<usize> {
        let offset = nospec::index(usize::try_from(offset)?, self.size());
        // SAFETY: By the requirements of this function.
        let to = unsafe { self.window()? }.bytes(offset, len)?;
        // SAFETY: `bytes` guarantees `to`. No lock is held that a page fault takes.
        let left =
            unsafe { bindings::copy_from_user(to.cast::<c_void>(), from.as_const_ptr(), len) };
        partial(len, left)
    }

    /// Maps the memory from byte `offset` on, which is the start of a page.
    ///
    /// # Safety
    ///
    /// `vma` must be the area that the device's mmap handler was called with: shared, and never
    /// executable.
    pub(super) unsafe fn mmap(&self, vma: *mut bindings::vm_area_struct, offset: u64) -> Result {
        let start = self.start.load(Ordering::Acquire);
        if start.is_null() {
            return Err(ENODEV);
        }
        // SAFETY: The area is valid by the requirement of this function.
        let range = unsafe { (*vma).__bindgen_anon_1.__bindgen_anon_1 };
        let (first, len) = (usize::try_from(offset)?, range.vm_end - range.vm_start);
        match first.checked_add(len) {
            Some(end) if end <= self.size() => {}
            _ => return Err(EINVAL),
        }
        for at in (0..len).step_by(PAGE_SIZE) {
            // SAFETY: The byte is inside the memory, which exists while the device is open, and a device that
            // is being mapped is open. The address is inside the area, which is set up here. mm takes a
            // reference to the page.
            to_result(unsafe {
                let page = bindings::vmalloc_to_page(start.wrapping_byte_add(first + at));
                bindings::vm_insert_page(vma, range.vm_start + at as c_ulong, page)
            })?;
        }
        // SAFETY: The mmap handler owns the area until it returns.
        unsafe { bindings::vfio_rs_vm_flags_set(vma, flags::DONTEXPAND | flags::DONTDUMP) };
        Ok(())
    }
}

impl Drop for DataSection {
    fn drop(&mut self) {
        // SAFETY: Nobody has a reference to the device any more.
        unsafe { self.close() };
    }
}

/// Returns the result of `read()` or `write()` when `left` bytes were not copied.
fn partial(len: usize, left: usize) -> Result<usize> {
    match len - left {
        0 => Err(EFAULT),
        copied => Ok(copied),
    }
}
