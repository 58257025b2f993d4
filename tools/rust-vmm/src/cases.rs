// SPDX-License-Identifier: GPL-2.0

//! The cases: what a VMM does with the device.

use crate::error::Result;
use crate::setup::Setup;
use crate::{logs, moves, refusals};

/// A case.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&Setup) -> Result,
    /// Whether the case is about such a setup.
    pub(crate) on: fn(&Setup) -> bool,
}

const fn everywhere(_: &Setup) -> bool {
    true
}

/// All cases.
#[rustfmt::skip]
pub(crate) const CASES: &[Case] = &[
    Case { name: "idle", run: moves::idle, on: everywhere },
    Case { name: "jobs_in_flight", run: moves::jobs_in_flight, on: everywhere },
    Case { name: "snapshots_of_a_running_guest", run: moves::snapshots, on: everywhere },
    Case { name: "pre_copy", run: moves::pre_copy, on: everywhere },
    Case { name: "truncated", run: refusals::truncated, on: everywhere },
    Case { name: "flipped", run: refusals::flipped, on: everywhere },
    Case { name: "other_size", run: refusals::other_size, on: everywhere },
    Case { name: "dma_log", run: logs::dma_log, on: |setup| setup.dma_log },
    Case { name: "no_dma_log", run: logs::no_dma_log, on: |setup| !setup.dma_log },
    Case { name: "type1_log", run: logs::type1_log, on: everywhere },
    Case { name: "processor_writes", run: moves::processor_writes, on: |setup| setup.kvm },
];
