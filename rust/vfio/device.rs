// SPDX-License-Identifier: GPL-2.0

//! The device: one object for VFIO and the code that uses VFIO.

use core::{
    ops::Deref,
    ptr::NonNull, //
};
use kernel::{
    error::to_result,
    prelude::*,
    sync::aref::AlwaysRefCounted,
    types::Opaque, //
};
use vfio_bindings as bindings;

/// A VFIO device with data of type `T`, to which it dereferences.
///
/// VFIO allocates it, counts references to it and frees it.
///
/// # Invariants
///
/// All fields are initialised, and the device is pinned.
#[repr(C)]
#[pin_data]
pub struct Device<T> {
    #[pin]
    pub(crate) raw: Opaque<bindings::vfio_device>,
    #[pin]
    pub(crate) data: T,
}

// SAFETY: A `struct vfio_device` is not tied to a thread, and the rest is `Send`.
unsafe impl<T: Send + Sync> Send for Device<T> {}

// SAFETY: VFIO does the locking of its part, and the rest is `Sync`.
unsafe impl<T: Send + Sync> Sync for Device<T> {}

impl<T> Device<T> {
    /// Returns the `struct vfio_device`.
    pub(crate) fn as_raw(&self) -> *mut bindings::vfio_device {
        self.raw.get()
    }

    /// Returns the device of a `struct vfio_device`.
    ///
    /// # Safety
    ///
    /// `raw` is the start of a `Device<T>` that is initialised and lives for `'a`.
    pub(crate) unsafe fn from_raw<'a>(raw: *mut bindings::vfio_device) -> &'a Self {
        // SAFETY: By the requirement of this function; the `vfio_device` is the first field.
        unsafe { &*raw.cast::<Self>() }
    }

    /// Returns the `address_space` of all files of the device, which has its user mappings. It lives as
    /// long as the device.
    pub fn mapping(&self) -> *mut bindings::address_space {
        // SAFETY: VFIO has allocated the inode with the device, and never changes the fields.
        unsafe { (*(*self.as_raw()).inode).i_mapping }
    }

    /// Returns whether the user has asked for `VFIO_PRECOPY_INFO_REINIT`, by
    /// `VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2`.
    pub fn reports_reinit(&self) -> bool {
        // SAFETY: The device is valid. The core writes this byte at any time.
        unsafe { (&raw const (*self.as_raw()).precopy_info_v2).read_volatile() != 0 }
    }

    /// Returns the state after `from` on the way to `to` (P40).
    ///
    /// Both are numbers of `enum vfio_device_mig_state` that the device can have. `EINVAL` if there is no
    /// way.
    pub fn next_migration_state(&self, from: u32, to: u32) -> Result<u32> {
        let mut next = 0;
        // SAFETY: The device is valid, and the core checks the states.
        to_result(unsafe {
            bindings::vfio_mig_get_next_state(self.as_raw(), from, to, &mut next)
        })?;
        Ok(next)
    }
}

impl<T> Deref for Device<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.data
    }
}

// SAFETY: The `struct device` inside has a reference count, and its last put frees the device.
unsafe impl<T: Send + Sync> AlwaysRefCounted for Device<T> {
    fn inc_ref(&self) {
        // SAFETY: The caller has a reference.
        unsafe { bindings::get_device(&raw mut (*self.as_raw()).device) };
    }

    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: The caller gives up a reference.
        unsafe {
            bindings::put_device(&raw mut (*obj.cast::<bindings::vfio_device>().as_ptr()).device)
        };
    }
}
