// SPDX-License-Identifier: GPL-2.0

//! What a VMM does with a device when it migrates a machine, without the machine.
//!
//! - [`transfer()`] moves the state of one opened device to another, live or stopped.
//! - [`file::save`] and [`file::load`] do it by way of a file, which holds the stream and nothing else.
//! - [`inspect()`] reads such a file and checks every checksum, without any device.
//! - [`list()`] tells which mediated devices there are, and which can migrate.
//!
//! Both protocols of the kernel work, v1 and v2 ([`Protocol`]); the bytes are the same.

#![forbid(unsafe_code)]

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
