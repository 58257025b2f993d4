// SPDX-License-Identifier: GPL-2.0

//! The emulated PCI function: configuration space and BARs.

pub(crate) mod bar;
pub(crate) mod config;
pub(crate) mod device;
pub(crate) mod refused;
pub(crate) mod reset;
