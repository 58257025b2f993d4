// SPDX-License-Identifier: GPL-2.0

//! A VMM's part in the migration of a device, without a VM.
//!
//! - [`transfer()`] moves the state of one opened device to another, live or stopped.
//! - [`file::save`] and [`file::load`] do the same through a file, which holds only the stream.
//! - [`send()`] and [`receive()`] do the same over a [`Link`] to another machine.
//! - [`inspect()`] reads such a file and checks every checksum. It needs no device.
//! - [`Watch`] follows a migration that somebody else drives.
//! - [`picture()`] draws a page with charts of [`figures`] that somebody, such as [`Recording`], collected.
//! - [`list()`] lists mediated devices, and which of them can migrate.
//!
//! Both protocols of the kernel work, v1 and v2 ([`Protocol`]), with the same bytes.

#![forbid(unsafe_code)]

pub mod cli;
mod endpoint;
mod error;
pub mod figures;
pub mod file;
pub mod format;
mod inspect;
mod link;
mod list;
mod picture;
mod preflight;
mod progress;
mod receive;
mod recording;
mod send;
mod target;
mod transfer;
mod watch;

pub use endpoint::{Destination, Protocol, Source};
pub use error::{Failure, Kind};
pub use inspect::{inspect, Broken, Inspection, Records};
pub use link::Link;
pub use list::{list, Entry, Status};
pub use picture::picture;
pub use preflight::{identity, version};
pub use progress::{Pass, Phase, PhaseReport, Progress, Quiet};
pub use receive::{receive, Received};
pub use recording::Recording;
pub use send::send;
pub use transfer::{transfer, Options, Report, Until};
pub use watch::{Sample, Watch};
