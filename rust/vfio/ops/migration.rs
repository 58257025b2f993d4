// SPDX-License-Identifier: GPL-2.0

//! The callbacks of `struct vfio_migration_ops`.

use crate::{
    bindings,
    instance::Instance, //
};
use kernel::{
    ffi::c_ulong,
    prelude::*, //
};

/// What the device can do (P38).
pub(crate) const FLAGS: u32 = bindings::VFIO_MIGRATION_STOP_COPY
    | bindings::VFIO_MIGRATION_P2P
    | bindings::VFIO_MIGRATION_PRE_COPY;

/// The operations for `vfio_device.mig_ops`.
pub(crate) const TABLE: &bindings::vfio_migration_ops = &bindings::vfio_migration_ops {
    migration_set_state: Some(set_state),
    migration_get_state: Some(get_state),
    migration_get_data_size: Some(get_data_size),
};

/// # Safety
///
/// Called by VFIO for an open device.
unsafe extern "C" fn set_state(
    vdev: *mut bindings::vfio_device,
    to: bindings::vfio_device_mig_state,
) -> *mut bindings::file {
    // SAFETY: The device is registered.
    let this = unsafe { Instance::from_raw(vdev) };
    // SAFETY: `vdev` is the instance's.
    match unsafe { this.migration.set_v2_state(vdev, to) } {
        Ok(Some(file)) => file.into_raw(),
        Ok(None) => core::ptr::null_mut(),
        Err(error) => error.to_ptr(),
    }
}

/// # Safety
///
/// Called by VFIO for an open device; `state` is valid.
unsafe extern "C" fn get_state(
    vdev: *mut bindings::vfio_device,
    state: *mut bindings::vfio_device_mig_state,
) -> c_int {
    // SAFETY: The device is registered.
    let this = unsafe { Instance::from_raw(vdev) };
    match this.migration.v2_state() {
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
unsafe extern "C" fn get_data_size(vdev: *mut bindings::vfio_device, size: *mut c_ulong) -> c_int {
    // SAFETY: The device is registered.
    let this = unsafe { Instance::from_raw(vdev) };
    match this.migration.data_size() {
        Ok(bytes) => {
            // SAFETY: By the requirement of this function.
            unsafe { *size = bytes as c_ulong };
            0
        }
        Err(error) => error.to_errno(),
    }
}
