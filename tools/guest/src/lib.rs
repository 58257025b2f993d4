// SPDX-License-Identifier: GPL-2.0

//! A guest that drives `mdma` devices without end, and notices when anything is lost.
//!
//! The program is the guest's first process. It keeps a model of all memory that a device can write, and of the
//! device's own, hands the device random jobs, accesses both memories itself in between, and compares everything with
//! the model: what a job must have written when it completes, any memory now and then, all of it when asked to. It
//! sleeps until the device interrupts, so that a lost interrupt is an error as a lost byte is.
//!
//! | module       | what is in it                                                  |
//! |--------------|----------------------------------------------------------------|
//! | `options`    | what the kernel's command line asks for                        |
//! | `event`      | what is told to the host                                       |
//! | `parts`      | a device, as the workload needs it: by UIO or simulated        |
//! | `footprint`  | the memory that jobs in flight use                             |
//! | `jobs`       | random jobs                                                    |
//! | `workload`   | the driver of one device                                       |
//! | `halts`      | jobs that halt the queue, and what comes after                 |
//! | `verify`     | comparing with the model                                       |
//! | `session`    | all devices, commands and heartbeat                            |
//! | `system`     | what a first process does for the system: `/proc`, modules     |
//! | `kernel_log` | the guest kernel's own complaints                              |
//! | `console`    | the line to the host                                           |
//! | `uio`        | devices by UIO                                                 |

#![forbid(unsafe_code)]

pub mod console;
pub mod event;
pub mod footprint;
mod halts;
pub mod jobs;
pub mod kernel_log;
pub mod options;
pub mod parts;
pub mod session;
pub mod system;
pub mod uio;
mod verify;
pub mod workload;

pub use event::{Wrong, WrongResult};
pub use options::Options;
pub use parts::{Parts, Window};
pub use workload::Workload;
