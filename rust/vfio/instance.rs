// SPDX-License-Identifier: GPL-2.0

//! One instance: what it is made of, and its life.

use crate::{
    device::Operations,
    handle::Core,
    migration::Migration, //
};
use kernel::sync::Arc;

/// One instance of a mediated device.
///
/// This is what the callbacks of `struct vfio_device` reach. It is made when the mdev is probed
/// and dropped at the last put of the `struct vfio_device`.
pub(crate) struct Instance {
    /// What is the same for every driver.
    pub(crate) core: Arc<Core>,
    /// The driver's device.
    pub(crate) device: Arc<dyn Operations>,
    /// The migration state and region.
    pub(crate) migration: Migration,
}
