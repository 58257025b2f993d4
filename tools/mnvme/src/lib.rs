// SPDX-License-Identifier: GPL-2.0

//! A userspace driver of the `mnvme` device, by VFIO.
//!
//! | module    | contents                                             |
//! |-----------|------------------------------------------------------|
//! | `command` | submission and completion queue entries              |
//! | `driver`  | the controller: registers, queues, commands          |
//! | `disk`    | the namespace as a disk: reads and writes of any size |
//! | `image`   | raw disk images, loaded and stored                   |
//! | `doc`     | the data sheet, generated from the model's tables    |

#![forbid(unsafe_code)]

pub mod command;
mod disk;
pub mod doc;
mod driver;
mod error;
pub mod image;

pub use command::{Command, Completion};
pub use disk::Disk;
pub use driver::{Driver, DATA, DATA_SIZE, ENTRIES, MEMORY};
pub use error::{Error, Result};
