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
//! A [`Container`] is the address space; a [`Group`] is opened into it; a [`Device`] is opened from that. Each keeps
//! those before it open. All of them are handles: cloning one is cheap, and they may be used by many threads.
//!
//! This crate is where all `unsafe` code of the project's userspace is: the calls in `sys.rs`, `kcov.rs` and
//! `userfault.rs`, memory in `mapping.rs`, and one call each in `container.rs` and `kvm.rs`, which keeps mapped memory
//! alive. What it promises: memory that a device can reach
//! stays allocated for as long as it can, memory that others change is only accessed by copying, and no argument of
//! any ioctl makes the kernel touch memory that it was not given.

mod bitmap;
pub mod caps;
mod container;
mod device;
mod error;
mod eventfd;
mod group;
mod irq;
pub mod kcov;
#[cfg(feature = "kvm")]
pub mod kvm;
mod logging;
mod mapping;
pub mod mdev;
mod node;
pub mod passing;
pub mod pci;
pub mod raw;
mod region;
mod sys;
mod type1;
pub mod userfault;
pub mod v1;
pub mod v2;

pub use bitmap::DirtyBitmap;
pub use container::{Access, Container, DmaBuffer};
pub use device::{Device, DeviceInfo};
pub use error::{errno, errno_name, During, Error, Reason, Result};
pub use eventfd::EventFd;
pub use group::{Group, GroupStatus, LooseGroup};
pub use irq::{Action, Irq, IrqInfo};
pub use mapping::{Mapping, Protection};
pub use node::Node;
pub use region::{Area, Region, RegionInfo};
pub use type1::{BitmapRequest, IommuInfo, MigrationCapability};
/// The kernel's constants and structures.
pub use vfio_bindings::bindings::vfio as uapi;
