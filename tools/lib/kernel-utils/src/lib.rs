// SPDX-License-Identifier: GPL-2.0

//! The running kernel: its log, the trouble that the log reports, and its modules.

#![forbid(unsafe_code)]

pub mod filter;
mod kmsg;
pub mod module;
pub mod trouble;

pub use kmsg::{Kmsg, Line, Mark};
