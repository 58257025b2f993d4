// SPDX-License-Identifier: GPL-2.0

//! Allocation of a device, and its registration with VFIO.

use crate::{
    device::Device,
    ops::{
        self,
        DeviceOps, //
    },
};
use core::{
    convert::Infallible,
    mem::MaybeUninit,
    ptr::NonNull, //
};
use kernel::{
    error::{
        from_err_ptr,
        to_result, //
    },
    prelude::*,
    sync::aref::ARef, //
};
use vfio_bindings as bindings;

impl<T: DeviceOps> Device<T> {
    /// Allocates a device that is not registered, with `data`.
    ///
    /// # Safety
    ///
    /// `dev` is the `struct device` of an mdev that is being probed.
    pub unsafe fn new(
        dev: *mut bindings::device,
        data: impl PinInit<T, Error>,
    ) -> Result<ARef<Self>> {
        // SAFETY: Leaves the field as it is: VFIO has initialised it.
        let raw = unsafe { pin_init::init_from_closure::<_, Infallible>(|_| Ok(())) };
        let init = try_pin_init!(Device {
            raw <- raw,
            data <- data,
        }? Error);

        // SAFETY: `dev` is valid by the requirement of this function, and the operations are static.
        let raw = from_err_ptr(unsafe {
            bindings::_vfio_alloc_device(size_of::<Self>(), dev, ops::uninitialised())
        })?;
        let this = NonNull::new(raw.cast::<Self>()).ok_or(ENOMEM)?;
        // SAFETY: As many bytes were allocated as a `Device` has. They do not move, and nobody else uses
        // them yet.
        let slot: &'static mut MaybeUninit<Self> = unsafe { this.cast().as_mut() };
        if let Err(error) = slot.write_pin_init(init) {
            // SAFETY: This is the reference that `_vfio_alloc_device()` returned. The operations so far
            // drop nothing at the last put.
            unsafe { bindings::put_device(&raw mut (*raw).device) };
            return Err(error);
        }
        // SAFETY: The device is not registered, so nobody else looks at it. The reference is that of
        // `_vfio_alloc_device()`.
        let device: ARef<Self> = unsafe {
            (*raw).ops = ops::VTable::<T>::OPS;
            ARef::from_raw(this)
        };
        // SAFETY: As above.
        unsafe { device.show_v2(true) };
        Ok(device)
    }

    /// Shows or hides the features of v2: migration, and DMA logging.
    ///
    /// # Safety
    ///
    /// The device is not open, and not opened during the call.
    pub unsafe fn show_v2(&self, shown: bool) {
        let raw = self.as_raw();
        let flags = if shown { self.migration_flags() } else { 0 };
        let shown = flags != 0;
        // SAFETY: VFIO reads the fields only in ioctls of an open device, and nobody else writes them.
        unsafe {
            (*raw).mig_ops = match shown {
                true => ops::migration::VTable::<T>::OPS,
                false => core::ptr::null(),
            };
            (*raw).migration_flags = flags;
            #[cfg(CONFIG_IOMMUFD_DRIVER)]
            {
                (*raw).log_ops = match shown {
                    true => ops::logging::VTable::<T>::OPS,
                    false => core::ptr::null(),
                };
            }
        }
    }
}

/// A device that is registered with VFIO.
///
/// Dropping it waits until the last user has closed the device.
///
/// # Invariants
///
/// The device is registered.
pub struct Registration<T: DeviceOps>(ARef<Device<T>>);

impl<T: DeviceOps> Registration<T> {
    /// Registers a device with VFIO.
    ///
    /// # Safety
    ///
    /// The device is not registered. The registration is dropped before the mdev is gone.
    pub unsafe fn new(device: ARef<Device<T>>) -> Result<Self> {
        let raw = device.as_raw();
        // The set of devices that are reset together has this one alone. VFIO would create it, but
        // does not check the result, and would follow a null pointer when the device is opened.
        // SAFETY: The device is valid and not registered.
        to_result(unsafe { bindings::vfio_assign_device_set(raw, raw.cast()) })?;
        // SAFETY: As above.
        to_result(unsafe { bindings::vfio_register_emulated_iommu_dev(raw) })?;
        // INVARIANT: Registered just now.
        Ok(Self(device))
    }

    /// Returns the device.
    pub fn device(&self) -> &Device<T> {
        &self.0
    }
}

impl<T: DeviceOps> Drop for Registration<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the device is registered.
        unsafe { bindings::vfio_unregister_group_dev(self.0.as_raw()) };
    }
}
