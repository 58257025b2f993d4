// SPDX-License-Identifier: GPL-2.0

//! Userspace driver of the `mdma` sample device.
//!
//! The register table, the layout of descriptors and the engine come from [`mdma_model`], which the
//! kernel module is built from too, so driver and device cannot disagree about a number. [`oracle`]
//! computes the expected result of a job independently of the engine.
//!
//! - [`Mdma`] is a device: registers by name, over any [`Bar`].
//! - [`Queue`] submits jobs and reaps their completions, in any [`Buffer`].
//! - [`job`] makes descriptors.
//! - [`vfio`] is the transport by VFIO; a guest provides another one.
//! - [`sim`] is a device in this process, for tests without a kernel.

mod device;
pub mod doc;
mod error;
pub mod job;
pub mod oracle;
pub mod sim;
mod sparse;
mod submit;
mod transport;
#[cfg(feature = "vfio")]
pub mod vfio;

pub use mdma_model::{control, desc, engine, key, list, queue, refused, regs, state};

pub use desc::{Completion, Descriptor, Op, Operand, Place};
pub use device::{Mdma, Snapshot};
pub use error::{Error, Result};
pub use list::{Entry, List};
pub use oracle::{Expected, World};
pub use sparse::Sparse;
pub use submit::Queue;
pub use transport::{Bar, Buffer};
