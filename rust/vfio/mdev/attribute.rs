// SPDX-License-Identifier: GPL-2.0

//! The attributes of an mdev: files in its directory of sysfs.
//!
//! Everybody may read them, and only root may write them. The driver core adds them when the mdev was
//! probed, and removes them before the mdev is removed.
//!
//! C headers: [`include/linux/device.h`](srctree/include/linux/device.h),
//! [`include/linux/sysfs.h`](srctree/include/linux/sysfs.h)

use super::driver::Driver;
use core::{
    fmt::{
        self,
        Write, //
    },
    ptr,
    slice, //
};
use kernel::{
    container_of,
    ffi::c_char,
    page::PAGE_SIZE,
    prelude::*,
    str::{
        CStrExt,
        Formatter, //
    },
    types::Opaque, //
};
use vfio_bindings as bindings;

/// A file.
struct File<D: Driver> {
    raw: Opaque<bindings::device_attribute>,
    attribute: D::Attribute,
}

impl<D: Driver> File<D> {
    /// Returns a file that sysfs does not know yet.
    fn new(attribute: D::Attribute) -> Self {
        let file = Self {
            raw: Opaque::uninit(),
            attribute,
        };
        // SAFETY: `raw` is valid for writes; the name is static.
        unsafe {
            bindings::vfio_rs_device_attribute_init(
                file.raw.get(),
                D::attribute_name(attribute).as_char_ptr(),
                0o644,
                Some(Self::show),
                Some(Self::store),
            )
        };
        file
    }

    /// Returns the `struct attribute`.
    fn as_raw(&self) -> *mut bindings::attribute {
        // SAFETY: `raw` is initialised.
        unsafe { &raw mut (*self.raw.get()).attr }
    }

    /// Returns the driver data of an mdev, and one of its attributes.
    ///
    /// # Safety
    ///
    /// sysfs calls a file of an mdev with driver data `D`, during all of `'a`.
    unsafe fn call<'a>(
        dev: *mut bindings::device,
        attr: *mut bindings::device_attribute,
    ) -> (&'a D, D::Attribute) {
        // SAFETY: By the requirement of this function. The driver core removes the files before the
        // driver data is dropped, and waits for calls in progress. The file outlives the driver.
        unsafe {
            (
                &*bindings::dev_get_drvdata(dev).cast::<D>(),
                (*container_of!(Opaque::cast_from(attr), Self, raw)).attribute,
            )
        }
    }

    /// # Safety
    ///
    /// Called by sysfs for a file of an mdev; `buf` is a page.
    unsafe extern "C" fn show(
        dev: *mut bindings::device,
        attr: *mut bindings::device_attribute,
        buf: *mut c_char,
    ) -> isize {
        // SAFETY: By the requirement of this function; sysfs gives a page of zeros to write to.
        let ((data, attribute), page) = unsafe {
            (
                Self::call(dev, attr),
                slice::from_raw_parts_mut(buf.cast::<u8>(), PAGE_SIZE),
            )
        };
        let mut out = Formatter::new(page);

        match D::show(data, attribute, &mut out).and_then(|()| out.write_char('\n')) {
            Ok(()) => out.bytes_written() as isize,
            Err(fmt::Error) => EOVERFLOW.to_errno() as isize,
        }
    }

    /// # Safety
    ///
    /// Called by sysfs for a file of an mdev; `buf` is a string.
    unsafe extern "C" fn store(
        dev: *mut bindings::device,
        attr: *mut bindings::device_attribute,
        buf: *const c_char,
        count: usize,
    ) -> isize {
        // SAFETY: By the requirement of this function; sysfs ends what was written with a NUL.
        let ((data, attribute), text) =
            unsafe { (Self::call(dev, attr), CStr::from_char_ptr(buf)) };

        match D::store(data, attribute, text) {
            Ok(()) => count as isize,
            Err(error) => error.to_errno() as isize,
        }
    }
}

/// The groups of attributes of a driver's mdevs: one group, with all of them.
///
/// The pointers are to what the other fields own, in memory that does not move.
pub(super) struct Groups<D: Driver> {
    _files: KVec<File<D>>,
    _attributes: KVec<*mut bindings::attribute>,
    _group: KBox<Opaque<bindings::attribute_group>>,
    groups: KBox<[*const bindings::attribute_group; 2]>,
}

impl<D: Driver> Groups<D> {
    /// Returns the groups of `D`.
    pub(super) fn new() -> Result<Self> {
        let mut files = KVec::new();
        for attribute in D::attributes() {
            files.push(File::new(attribute), GFP_KERNEL)?;
        }
        let mut attributes = KVec::with_capacity(files.len() + 1, GFP_KERNEL)?;
        for file in &files {
            attributes.push(File::as_raw(file), GFP_KERNEL)?;
        }
        attributes.push(ptr::null_mut(), GFP_KERNEL)?;

        let group = KBox::new(Opaque::uninit(), GFP_KERNEL)?;
        // SAFETY: `group` is valid for writes; a null pointer ends the attributes.
        unsafe { bindings::vfio_rs_attribute_group_init(group.get(), attributes.as_mut_ptr()) };
        let groups = KBox::new([group.get().cast_const(), ptr::null()], GFP_KERNEL)?;
        Ok(Self {
            _files: files,
            _attributes: attributes,
            _group: group,
            groups,
        })
    }

    /// Returns what `dev_groups` of a `struct device_driver` points to.
    pub(super) fn as_raw(&self) -> *mut *const bindings::attribute_group {
        self.groups.as_ptr().cast_mut()
    }
}
