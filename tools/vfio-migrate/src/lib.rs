// SPDX-License-Identifier: GPL-2.0

//! A VMM's part in the migration of a device, without a VM.
//!
//! - [`transfer()`] moves the state of one opened device to another, live or stopped.
//! - [`file::save`] and [`file::load`] do the same through a file, which holds only the stream.
//! - [`inspect()`] reads such a file and checks every checksum. It needs no device.
//! - [`list()`] lists mediated devices, and which of them can migrate.
//!
//! Both protocols of the kernel work, v1 and v2 ([`Protocol`]), with the same bytes.

#![forbid(unsafe_code)]

pub mod cli;
mod endpoint;
mod error;
pub mod file;
pub mod format;
mod inspect;
mod list;
mod transfer;

pub use endpoint::{Destination, Protocol, Source};
pub use error::{Failure, Kind};
pub use inspect::{inspect, Broken, Inspection, Records};
pub use list::{list, Entry, Status};
pub use transfer::{transfer, Options, Pass, Phase, PhaseReport, Progress, Quiet, Report, Until};
