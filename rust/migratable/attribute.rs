// SPDX-License-Identifier: GPL-2.0

//! An attribute that a driver adds to its instances.

use crate::device::Device;
use kernel::prelude::*;

/// A number that root sets for an instance before its first use, by a file in its directory of sysfs.
///
/// Everybody may read the file, and only root may write it. Once the device was opened a write fails with
/// `EBUSY`.
pub struct Attribute<T> {
    /// Name of the file.
    pub name: &'static CStr,
    /// Returns the number.
    pub show: fn(&Device<T>) -> u64,
    /// Takes another number. An error is the errno of the write, and changes nothing.
    pub store: fn(&Device<T>, u64) -> Result,
}
