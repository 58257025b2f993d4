// SPDX-License-Identifier: GPL-2.0

//! Registration of instances with VFIO.
//!
//! [`create`] is called by the mdev bus's probe and [`remove`] by its remove, which blocks until the
//! last user has closed the device. What VFIO calls in between is in [`ops`](crate::ops).

use crate::{
    bindings,
    debugfs::Dir,
    device::Device,
    dma::Unmaps,
    instance::Instance,
    mdev::budget::Reservation,
    ops,
    uuid::Uuid, //
};
use core::ptr::NonNull;
use kernel::{
    error::{
        from_err_ptr,
        to_result, //
    },
    prelude::*,
    sync::Arc, //
};

/// Makes an instance for an mdev and registers it with VFIO.
///
/// # Safety
///
/// `dev` is the `struct device` of an mdev that is being probed.
pub(crate) unsafe fn create<D: Device>(
    dev: *mut bindings::device,
    uuid: Uuid,
    config: &D::Config,
    reservation: Reservation,
    debugfs: &Dir,
    unmaps: Arc<Unmaps>,
) -> Result<NonNull<bindings::vfio_device>> {
    let instance = Instance::new::<D>(uuid, config, reservation, debugfs, unmaps)?;

    // SAFETY: `dev` is valid by the requirement of this function, and the operations are static.
    let vdev = from_err_ptr(unsafe {
        bindings::_vfio_alloc_device(Instance::ALLOCATION, dev, ops::table::<D>())
    })?;
    let vdev = NonNull::new(vdev).ok_or(ENOMEM)?;

    // SAFETY: `vdev` is not registered yet, so nobody else looks at it.
    unsafe {
        (*vdev.as_ptr()).mig_ops = ops::migration::TABLE;
        (*vdev.as_ptr()).migration_flags = ops::migration::FLAGS;
        #[cfg(CONFIG_IOMMUFD_DRIVER)]
        {
            (*vdev.as_ptr()).log_ops = ops::logging::TABLE;
        }
    }
    if let Some(memory) = &instance.core.memory {
        // SAFETY: The inode lives as long as `vdev`, whose release drops the instance and, with it,
        // takes the mapping away again.
        unsafe { memory.set_mapping((*(*vdev.as_ptr()).inode).i_mapping) };
    }

    // SAFETY: `vdev` was just allocated, with room for an instance.
    unsafe { Instance::attach(instance, vdev) };

    // The set of the devices that are reset together: this one alone. VFIO would make it, but without a
    // look at whether it could, and then follow a null pointer when the device is opened.
    // SAFETY: `vdev` was just made and has not been registered.
    let set = unsafe { bindings::vfio_assign_device_set(vdev.as_ptr(), vdev.as_ptr().cast()) };
    // SAFETY: As above.
    let registered = to_result(set).and_then(|()| unsafe {
        to_result(bindings::vfio_register_emulated_iommu_dev(vdev.as_ptr()))
    });
    if let Err(e) = registered {
        // SAFETY: This is the reference that `_vfio_alloc_device()` returned.
        unsafe { bindings::put_device(&raw mut (*vdev.as_ptr()).device) };
        return Err(e);
    }
    Ok(vdev)
}

/// Unregisters an instance; returns when no one has it open any more.
///
/// # Safety
///
/// `vdev` was made by [`create`], and this is called once.
pub(crate) unsafe fn remove(vdev: NonNull<bindings::vfio_device>) {
    // SAFETY: `vdev` is registered, and its first reference is given up here and not before.
    unsafe {
        bindings::vfio_unregister_group_dev(vdev.as_ptr());
        bindings::put_device(&raw mut (*vdev.as_ptr()).device);
    }
}
