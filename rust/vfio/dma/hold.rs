// SPDX-License-Identifier: GPL-2.0

//! Not pinning what is about to be unmapped.
//!
//! While type1 unmaps a mapping it looks whether pages of it are pinned, has them unpinned without
//! its lock held, and looks again. At the eleventh time it finds pinned pages it takes the driver
//! for broken and panics the host. A driver that answers the loss of its pages by pinning them
//! again, in good faith and on another CPU, can be found ahead of type1 each time; and type1 does
//! not say when it is done.
//!
//! So a mapping that was just reported is not pinned again for a while, twice as long each time it is
//! reported within [`MEMORY`] of the last time. To lose ten looks in a row type1's thread would have
//! to stay off the CPU, runnable, for the whole of ten such periods.

use crate::bindings;

/// Mappings remembered one by one.
const SLOTS: usize = 16;

/// The first period, in nanoseconds.
const FIRST: i64 = 2_000_000;

/// The number of times the period doubles, up to 256 ms.
const DOUBLINGS: u32 = 7;

/// How long a report counts towards the next period, in nanoseconds.
const MEMORY: i64 = 5_000_000_000;

/// One mapping that was reported.
#[derive(Clone, Copy)]
struct Report {
    /// The mapping's first IOVA.
    first: u64,
    /// Its last one.
    last: u64,
    /// When it was reported, in the nanoseconds of `ktime_get()`.
    at: i64,
    /// How often before, lately.
    times: u32,
}

impl Report {
    /// When the mapping may be pinned again.
    fn until(&self) -> i64 {
        self.at.saturating_add(FIRST << self.times.min(DOUBLINGS))
    }
}

/// The mappings that must not be pinned for now.
pub(super) struct Holds {
    reports: [Option<Report>; SLOTS],
}

/// The time, for [`Holds`].
pub(super) fn now() -> i64 {
    // SAFETY: A function without preconditions.
    unsafe { bindings::ktime_get() }
}

impl Holds {
    /// No holds.
    pub(super) const fn new() -> Self {
        Self {
            reports: [None; SLOTS],
        }
    }

    /// Takes down that `first..=last` is being unmapped, and returns how often it was before, lately.
    pub(super) fn report(&mut self, first: u64, last: u64, now: i64) -> u32 {
        let mut report = Report {
            first,
            last,
            at: now,
            times: 0,
        };

        let same = self
            .reports
            .iter_mut()
            .flatten()
            .find(|old| (old.first, old.last) == (first, last));
        if let Some(old) = same {
            if now < old.at.saturating_add(MEMORY) {
                report.times = old.times.saturating_add(1);
            }
            *old = report;
            return report.times;
        }

        // The slot that is free, or whose period ended first.
        let slot = self
            .reports
            .iter_mut()
            .min_by_key(|slot| slot.map_or(i64::MIN, |old| old.until()));
        let Some(slot) = slot else { return 0 };
        if let Some(old) = slot.filter(|old| now < old.until()) {
            // Too many at once to tell them apart: hold all of memory instead.
            report.first = 0;
            report.last = u64::MAX;
            report.times = old.times.saturating_add(1);
        }
        *slot = Some(report);
        report.times
    }

    /// When `first..=last` may be pinned, if not now.
    pub(super) fn until(&self, first: u64, last: u64, now: i64) -> Option<i64> {
        self.reports
            .iter()
            .flatten()
            .filter(|report| report.first <= last && first <= report.last)
            .map(Report::until)
            .filter(|&until| now < until)
            .max()
    }
}
