// SPDX-License-Identifier: GPL-2.0

//! Faults on demand: what root asks for in debugfs happens, once, and the device is usable afterwards.

pub(crate) mod delays;
pub(crate) mod dma;
pub(crate) mod migration;
pub(crate) mod point;
pub(crate) mod records;
pub(crate) mod stopper;
