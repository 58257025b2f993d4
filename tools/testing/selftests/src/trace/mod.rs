// SPDX-License-Identifier: GPL-2.0

//! The trace events, compared with what was done.

pub(crate) mod dma;
pub(crate) mod migration;
pub(crate) mod modules;
pub(crate) mod watch;
