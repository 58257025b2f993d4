// SPDX-License-Identifier: GPL-2.0

//! Safe userspace VFIO.
//!
//! ```no_run
//! use vfio_client::{mdev::{Sysfs, Uuid}, Container, DmaBuffer, v1};
//!
//! # fn main() -> vfio_client::Result<()> {
//! let instance = Sysfs::default().find_type("mdma-256M")?.create(&Uuid::random()?)?;
//! let container = Container::open()?;
//! let device = instance.open(&container)?;
//! let buffer = DmaBuffer::new(&container, 0x10_0000, 1 << 20)?;
//! device.config()?.enable()?;
//! buffer.write(0, b"for the device to read");
//! container.dirty_start()?;
//! if let Some(migration) = device.migration_v1()? {
//!     migration.set_state(v1::State::PRE_COPY)?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A [`Container`] is the address space, a [`Group`] is opened into it, and a [`Device`] is opened from the group. Each
//! of them keeps the ones before it open. All are handles: a clone is cheap, and threads may share them.
//!
//! This crate holds all `unsafe` code of the userspace programs: ioctls in `sys.rs`, `kcov.rs` and `userfault.rs`, memory
//! in `mapping.rs` and `mapping_io.rs`, and one call each in `container.rs`, `node.rs` and `kvm.rs` that maps memory for a
//! device or a guest. It guarantees three things. Memory stays allocated while a device can reach it. Memory that others
//! change is accessed by copying only. No ioctl makes the kernel access memory that it was not given.

mod bitmap;
pub mod caps;
mod cdev;
mod container;
mod device;
mod dma_buffer;
mod error;
mod eventfd;
mod group;
mod info;
mod irq;
pub mod kcov;
#[cfg(feature = "kvm")]
pub mod kvm;
mod logging;
mod mapping;
mod mapping_io;
pub mod mdev;
mod node;
pub mod passing;
pub mod pci;
pub mod raw;
mod region;
mod section;
mod sys;
mod type1;
pub mod userfault;
pub mod v1;
pub mod v2;
pub mod v2018;
pub mod v7;

pub use bitmap::DirtyBitmap;
pub use container::{Access, Container};
pub use device::{Device, DeviceInfo};
pub use dma_buffer::DmaBuffer;
pub use error::{errno, errno_name, During, Error, Reason, Result};
pub use eventfd::EventFd;
pub use group::{Group, GroupStatus, LooseGroup};
pub use irq::{Action, Irq, IrqInfo};
pub use mapping::{Mapping, Protection};
pub use node::Node;
pub use region::{Area, Region, RegionInfo};
pub use section::{Access as DataAccess, Section};
pub use type1::{BitmapRequest, IommuInfo, MigrationCapability};
/// The kernel's constants and structures.
pub use vfio_bindings::bindings::vfio as uapi;
