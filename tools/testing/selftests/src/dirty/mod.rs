// SPDX-License-Identifier: GPL-2.0

//! Dirty page tracking of guest memory.

pub(crate) mod iova;
pub(crate) mod logging;
pub(crate) mod pages;
pub(crate) mod shared;
pub(crate) mod type1;
