// SPDX-License-Identifier: GPL-2.0

//! The callbacks of `struct vfio_migration_ops`.

use crate::{
    device::Device,
    ops::DeviceOps, //
};
use core::marker::PhantomData;
use kernel::{
    ffi::c_ulong,
    prelude::*,
    sync::aref::ARef, //
};
use vfio_bindings as bindings;

/// The operations of the devices with data `T`.
pub(crate) struct VTable<T: DeviceOps>(PhantomData<T>);

impl<T: DeviceOps> VTable<T> {
    /// The operations for `vfio_device.mig_ops`.
    pub(crate) const OPS: &'static bindings::vfio_migration_ops = &bindings::vfio_migration_ops {
        migration_set_state: Some(set_state::<T>),
        migration_get_state: Some(get_state::<T>),
        migration_get_data_size: Some(get_data_size::<T>),
    };
}

/// # Safety
///
/// Called by VFIO for an open device.
unsafe extern "C" fn set_state<T: DeviceOps>(
    vdev: *mut bindings::vfio_device,
    to: bindings::vfio_device_mig_state,
) -> *mut bindings::file {
    // SAFETY: The device is registered.
    let this = unsafe { Device::<T>::from_raw(vdev) };
    match T::set_migration_state(this, to) {
        // The reference is the caller's now.
        Ok(Some(file)) => ARef::into_raw(file).as_ptr().cast(),
        Ok(None) => core::ptr::null_mut(),
        Err(error) => error.to_ptr(),
    }
}

/// # Safety
///
/// Called by VFIO for an open device; `state` is valid.
unsafe extern "C" fn get_state<T: DeviceOps>(
    vdev: *mut bindings::vfio_device,
    state: *mut bindings::vfio_device_mig_state,
) -> c_int {
    // SAFETY: The device is registered.
    let this = unsafe { Device::<T>::from_raw(vdev) };
    match this.migration_state() {
        Ok(now) => {
            // SAFETY: By the requirement of this function.
            unsafe { *state = now };
            0
        }
        Err(error) => error.to_errno(),
    }
}

/// # Safety
///
/// Called by VFIO for an open device; `size` is valid.
unsafe extern "C" fn get_data_size<T: DeviceOps>(
    vdev: *mut bindings::vfio_device,
    size: *mut c_ulong,
) -> c_int {
    // SAFETY: The device is registered.
    let this = unsafe { Device::<T>::from_raw(vdev) };
    match this.migration_data_size() {
        Ok(bytes) => {
            // SAFETY: By the requirement of this function.
            unsafe { *size = bytes as c_ulong };
            0
        }
        Err(error) => error.to_errno(),
    }
}
