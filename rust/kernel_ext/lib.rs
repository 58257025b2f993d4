// SPDX-License-Identifier: GPL-2.0

//! What the `kernel` crate lacks.
//!
//! Each module wraps one facility of the kernel, as a module of the `kernel` crate would. Nothing here
//! knows VFIO. Remove a module when the `kernel` crate of all supported kernels has the facility.

pub mod char_device;
mod crc;
pub mod debugfs;
pub mod event;
pub mod eventfd;
pub mod fault;
pub mod kcov;
pub mod lock;
pub mod mmap_lock;
pub mod mutex;
pub mod nospec;
pub mod ratelimit;
pub mod rwsem;
pub mod sched;
mod tracepoint;
pub mod uaccess;
pub mod worker;
mod zeroed;

pub use crc::crc32c;
pub use zeroed::zeroed;

/// The prefix of the lines that the `pr_*` macros of this crate print.
#[cfg(any(not(CONFIG_VHOST_TASK), worker_queue))]
const __LOG_PREFIX: &[u8] = b"vfio_mdev_rs\0";
