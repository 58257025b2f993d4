// SPDX-License-Identifier: GPL-2.0

//! What the program does with a device, whatever its kind.

use std::os::fd::AsFd;
use std::time::Duration;

use crate::event::{Losses, Totals, WrongResult};

/// The work with one device. Its file is readable when the device has done something.
pub trait Work: AsFd {
    /// Begins jobs that are due, if more are `wanted`.
    fn step(&mut self, now: Duration, wanted: bool) -> WrongResult;

    /// Takes what the device has done: the file is readable.
    fn ready(&mut self, now: Duration) -> WrongResult;

    /// Fails if a job takes so long that something must be lost.
    fn overdue(&mut self, now: Duration) -> WrongResult;

    /// Returns whether no job is in progress.
    fn idle(&self) -> bool;

    /// Returns when the next job is due; `None` if that depends on the device.
    fn due(&self) -> Option<Duration>;

    /// Returns the work done.
    fn totals(&self) -> Totals;

    /// Verifies everything. No job is in progress.
    fn check(&mut self) -> WrongResult;

    /// As [`check`](Self::check), but counts what differs, and repairs it.
    fn mend(&mut self, losses: &mut Losses) -> WrongResult;
}
