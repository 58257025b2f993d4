// SPDX-License-Identifier: GPL-2.0

//! A driver on the mdev bus.

use core::fmt;
use kernel::{
    device,
    prelude::*, //
};
use vfio_bindings as bindings;

/// An mdev that is being probed.
///
/// # Invariants
///
/// `dev` is the valid `struct device` of an mdev.
pub struct Mdev {
    pub(super) dev: *mut bindings::device,
}

impl Mdev {
    /// Returns the `struct device`.
    pub fn as_raw(&self) -> *mut bindings::device {
        self.dev
    }

    /// Returns the device. Its name is the UUID that the mdev was created with.
    pub fn device(&self) -> &device::Device {
        // SAFETY: By the type invariant the device is valid.
        unsafe { device::Device::from_raw(self.dev.cast()) }
    }
}

/// A driver on the mdev bus: `struct mdev_driver`.
///
/// One value is the driver's data of one mdev.
///
/// # Context
///
/// All functions may sleep.
pub trait Driver: Send + Sync + Sized + 'static {
    /// Name of the driver.
    const NAME: &'static CStr;

    /// What the driver knows of an mdev type.
    type Type: Send + Sync + 'static;

    /// An mdev is created. An error is the errno of the write to `create`.
    fn probe(mdev: &Mdev, typ: &Self::Type) -> Result<Self>;

    /// Returns how many more mdevs of a type can be created: `available_instances`.
    fn available(typ: &Self::Type) -> u64;

    /// Returns the description of a type: `description`.
    fn description(typ: &Self::Type) -> &str;

    /// Returns whether the state of the device stays when its last user closes it.
    fn keeps_state(&self) -> bool;

    /// Sets what [`Driver::keeps_state`] returns. An error is the errno of the write.
    fn set_keep_state(&self, keep: bool) -> Result;

    /// Returns the name of the migration interface.
    fn migration_abi(&self) -> &'static str;

    /// Chooses the migration interface. An error is the errno of the write.
    fn set_migration_abi(&self, name: &[u8]) -> Result;

    /// Returns whether device memory in a saved state has checksums.
    fn has_payload_checksums(&self) -> bool;

    /// Sets what [`Driver::has_payload_checksums`] returns. An error is the errno of the write.
    fn set_payload_checksums(&self, on: bool) -> Result;

    /// Writes which streams the device takes, as one line.
    fn show_migration_version(&self, out: &mut dyn fmt::Write) -> fmt::Result;

    /// Returns whether it takes the streams of a device whose line this is. An error is the errno of the
    /// write.
    fn check_migration_version(&self, text: &str) -> Result;
}
