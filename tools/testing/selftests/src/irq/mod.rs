// SPDX-License-Identifier: GPL-2.0

//! Interrupts.

pub(crate) mod intx;
pub(crate) mod msi;
pub(crate) mod set_irqs;
pub(crate) mod state;
