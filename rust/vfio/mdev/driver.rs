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

    /// An attribute of an mdev: a file in its directory of sysfs, which everybody may read and only root may
    /// write.
    type Attribute: Copy + Send + Sync + 'static;

    /// An mdev is created. An error is the errno of the write to `create`.
    fn probe(mdev: &Mdev, typ: &Self::Type) -> Result<Self>;

    /// Returns how many more mdevs of a type can be created: `available_instances`.
    fn available(typ: &Self::Type) -> u64;

    /// Returns the description of a type: `description`.
    fn description(typ: &Self::Type) -> &str;

    /// Returns the attributes of an mdev.
    fn attributes() -> impl Iterator<Item = Self::Attribute>;

    /// Returns the name of an attribute: that of its file.
    fn attribute_name(attribute: Self::Attribute) -> &'static CStr;

    /// Writes the text of an attribute, without a newline at its end.
    fn show(&self, attribute: Self::Attribute, out: &mut dyn fmt::Write) -> fmt::Result;

    /// Takes what was written to an attribute. An error is the errno of the write.
    fn store(&self, attribute: Self::Attribute, text: &CStr) -> Result;
}
