// SPDX-License-Identifier: GPL-2.0

//! The callbacks of `struct vfio_migration_ops`.

use crate::{
    bindings,
    device::Device,
    driver::Driver, //
};
use core::marker::PhantomData;
use kernel::{
    ffi::c_ulong,
    prelude::*, //
};

/// What the device can do (P38).
pub(crate) const FLAGS: u32 = bindings::VFIO_MIGRATION_STOP_COPY
    | bindings::VFIO_MIGRATION_P2P
    | bindings::VFIO_MIGRATION_PRE_COPY;

/// The operations of the devices of driver `T`.
pub(crate) struct VTable<T: Driver>(PhantomData<T>);

impl<T: Driver> VTable<T> {
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
unsafe extern "C" fn set_state<T: Driver>(
    vdev: *mut bindings::vfio_device,
    to: bindings::vfio_device_mig_state,
) -> *mut bindings::file {
    // SAFETY: The device is registered.
    let this = unsafe { Device::<T>::from_raw(vdev) };
    match this.set_v2_state(to) {
        Ok(Some(file)) => file.into_raw(),
        Ok(None) => core::ptr::null_mut(),
        Err(error) => error.to_ptr(),
    }
}

/// # Safety
///
/// Called by VFIO for an open device; `state` is valid.
unsafe extern "C" fn get_state<T: Driver>(
    vdev: *mut bindings::vfio_device,
    state: *mut bindings::vfio_device_mig_state,
) -> c_int {
    // SAFETY: The device is registered.
    let this = unsafe { Device::<T>::from_raw(vdev) };
    match this.v2_state() {
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
unsafe extern "C" fn get_data_size<T: Driver>(
    vdev: *mut bindings::vfio_device,
    size: *mut c_ulong,
) -> c_int {
    // SAFETY: The device is registered.
    let this = unsafe { Device::<T>::from_raw(vdev) };
    match this.v2_data_size() {
        Ok(bytes) => {
            // SAFETY: By the requirement of this function.
            unsafe { *size = bytes as c_ulong };
            0
        }
        Err(error) => error.to_errno(),
    }
}
