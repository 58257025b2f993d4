// SPDX-License-Identifier: GPL-2.0

//! A guest that drives devices without end and detects any loss: `mdma`, or `mserial`.
//!
//! The program is the guest's first process. For `mdma`, it keeps a model of the device's memory and of all memory that the device
//! can write. It submits random jobs, accesses both memories itself in between, and compares everything with the model:
//! the output of each job when it completes, random memory now and then, and all memory on request. It sleeps until the
//! device interrupts, so it detects a lost interrupt as well as a lost byte.
//!
//! | module       | contents                                                |
//! |--------------|---------------------------------------------------------|
//! | `options`    | options on the kernel command line                      |
//! | `event`      | events for the host                                     |
//! | `candidate`  | finds the devices                                       |
//! | `work`       | what the program does with a device of any kind         |
//! | `uio_work`   | the work with an `mdma`                                 |
//! | `serial`     | the work with an `mserial`                              |
//! | `parts`      | a device, as the workload needs it: by UIO or simulated |
//! | `footprint`  | the memory that jobs in flight use                      |
//! | `jobs`       | random jobs                                             |
//! | `workload`   | the driver of one device                                |
//! | `halts`      | jobs that halt the queue, and the restart               |
//! | `verify`     | comparison with the model                               |
//! | `keys`       | registered memory                                       |
//! | `remap`      | blocks whose mapping changes                            |
//! | `session`    | all devices, commands and heartbeat                     |
//! | `system`     | the duties of a first process: `/proc`, modules         |
//! | `kernel_log` | trouble that the guest's kernel logs                    |
//! | `console`    | the serial line to the host                             |
//! | `uio`        | devices by UIO                                          |

#![forbid(unsafe_code)]

mod binding;
pub mod candidate;
pub mod console;
pub mod event;
pub mod footprint;
mod halts;
pub mod jobs;
pub mod kernel_log;
mod keys;
pub mod options;
pub mod parts;
mod remap;
pub mod serial;
pub mod session;
pub mod system;
pub mod uio;
mod uio_work;
mod verify;
pub mod work;
pub mod workload;

pub use event::{Wrong, WrongResult};
pub use options::Options;
pub use parts::{Parts, Remap, Window};
pub use workload::Workload;
