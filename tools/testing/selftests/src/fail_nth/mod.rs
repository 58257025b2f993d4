// SPDX-License-Identifier: GPL-2.0

//! Fault injection: each allocation and each user copy fails once.

pub(crate) mod device;
pub(crate) mod host;
pub(crate) mod migration;
pub(crate) mod sweep;
pub(crate) mod worker;
