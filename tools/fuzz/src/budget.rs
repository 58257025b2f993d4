// SPDX-License-Identifier: GPL-2.0

//! The work that one program may do, so that no program takes most of a minute.
//!
//! The units make the same program end at the same call on every machine. The time limit is for slow machines. A replay
//! has no time limit.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Units of a program: one for each call, and in calls that repeat a system call for each repetition.
const UNITS: u64 = 3000;
/// Bytes that cost a unit.
const BYTES: u64 = 64 << 10;
/// Units of an instance: the end of the program closes and removes it, which is not cut short.
const INSTANCE: u64 = 250;

/// What is left of it.
#[derive(Debug)]
pub(crate) struct Budget {
    units: AtomicU64,
    /// When the time is over, in nanoseconds since 1970, which all processes count alike.
    until: Option<u64>,
}

/// Returns the nanoseconds since 1970.
fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_nanos() as u64)
}

impl Budget {
    /// A budget that is over at this time at the latest.
    pub(crate) fn until(until: Option<u64>) -> Self {
        Budget {
            units: AtomicU64::new(UNITS),
            until,
        }
    }

    /// A budget of this much time.
    pub(crate) fn lasting(limit: Option<Duration>) -> Self {
        Self::until(limit.map(|limit| now() + limit.as_nanos() as u64))
    }

    /// Returns when it is over.
    pub(crate) fn end(&self) -> Option<u64> {
        self.until
    }

    /// Pays for one call that moves some bytes; returns whether there was enough left.
    pub(crate) fn pay(&self, bytes: u64) -> bool {
        self.pay_units(1 + bytes / BYTES)
    }

    /// Pays for an instance; returns whether there was enough left.
    pub(crate) fn pay_for_instance(&self) -> bool {
        self.pay_units(INSTANCE)
    }

    /// Returns whether there was enough left.
    fn pay_units(&self, cost: u64) -> bool {
        let paid = self
            .units
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
                n.checked_sub(cost)
            });
        paid.is_ok() && self.until.is_none_or(|until| now() < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_used_up() {
        let budget = Budget::until(None);
        assert!((0..UNITS).all(|_| budget.pay(0)));
        assert!(!budget.pay(0));
    }

    #[test]
    fn bytes_cost_units() {
        let budget = Budget::until(None);
        assert!(!budget.pay(UNITS * BYTES));
        assert!(budget.pay((UNITS - 1) * BYTES));
        assert!(!budget.pay(0));
    }

    #[test]
    fn instances_cost_units() {
        let budget = Budget::until(None);
        assert!((0..UNITS / INSTANCE).all(|_| budget.pay_for_instance()));
        assert!(!budget.pay_for_instance());
    }

    #[test]
    fn time_is_over() {
        assert!(Budget::lasting(Some(Duration::from_secs(1000))).pay(0));
        assert!(!Budget::lasting(Some(Duration::ZERO)).pay(0));
    }
}
