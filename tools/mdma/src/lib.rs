// SPDX-License-Identifier: GPL-2.0

//! Userspace driver of the `mdma` sample device.
//!
//! The register table, the layout of descriptors and the engine's rules are the very files the
//! module is built from, so driver and device cannot disagree about a number. What a job must
//! result in is computed here a second time, by [`oracle`], without looking at the engine.
//!
//! - [`Mdma`] is a device: registers by name, over any [`Bar`].
//! - [`Queue`] submits jobs and reaps their completions, in any [`Buffer`].
//! - [`job`] makes descriptors.
//! - [`vfio`] is the transport by VFIO; a guest brings its own.
//! - [`sim`] is a device in this process, for tests of all of this without a kernel.

#[path = "../../../samples/mdma/control.rs"]
pub mod control;
#[path = "../../../samples/mdma/desc.rs"]
pub mod desc;
#[path = "../../../samples/mdma/engine.rs"]
pub mod engine;
#[path = "../../../samples/mdma/list.rs"]
pub mod list;
#[path = "../../../samples/mdma/queue.rs"]
pub mod queue;
#[path = "../../../samples/mdma/refusal.rs"]
pub mod refusal;
#[path = "../../../samples/mdma/regs.rs"]
pub mod regs;
#[path = "../../../samples/mdma/state.rs"]
pub mod state;

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

pub use desc::{Completion, Descriptor, Op, Operand, Place};
pub use device::{Mdma, Snapshot};
pub use error::{Error, Result};
pub use list::{Entry, List};
pub use oracle::{Expected, World};
pub use sparse::Sparse;
pub use submit::Queue;
pub use transport::{Bar, Buffer};
