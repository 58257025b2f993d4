// SPDX-License-Identifier: GPL-2.0

//! VFIO devices and mediated devices, as the kernel has them.
//!
//! A device implements [`DeviceOps`], which is `struct vfio_device_ops` and
//! `struct vfio_migration_ops`. It is the data of a [`Device`], which VFIO allocates. An mdev parent
//! implements [`mdev::Driver`] and creates a [`Registration`] in its probe.
//!
//! ```text
//!   vfio core ──► ops ──► DeviceOps          mdev core ──► mdev ──► mdev::Driver
//!                  ├──► irq, set_irqs
//!                  └──► dma (unmap)
//! ```
//!
//! Nothing here knows PCI configuration space, device memory or a protocol of migration.

#[cfg(mutation_dirty_page)]
pub mod mutation;

mod device;
pub mod dma;
pub mod irq;
pub mod log;
pub mod mdev;
mod ops;
mod position;
mod registration;
mod set_irqs;
pub mod trace;

pub use device::Device;
pub use ops::DeviceOps;
pub use position::{
    Position,
    INDEX_SHIFT, //
};
pub use registration::Registration;

/// The prefix of the lines that the `pr_*` macros of this crate print.
const __LOG_PREFIX: &[u8] = b"vfio_mdev_rs\0";
