// SPDX-License-Identifier: GPL-2.0

//! The memory that the devices of a parent share.

use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    },
};

/// The memory budget of a parent.
pub(crate) struct Budget {
    /// Bytes in all.
    total: u64,
    /// Bytes in use, at most `total`.
    used: Atomic<u64>,
}

impl Budget {
    /// Returns an unused budget.
    pub(crate) fn new(total: u64) -> Result<Arc<Self>> {
        let this = Self {
            total,
            used: Atomic::new(0),
        };

        Ok(Arc::new(this, GFP_KERNEL)?)
    }

    /// Returns how many more devices at `cost` fit.
    pub(crate) fn available(&self, cost: u64) -> u64 {
        let free = self.total - self.used.load(Relaxed);
        free.checked_div(cost).unwrap_or(0)
    }

    /// Takes `cost` bytes, or fails and takes nothing.
    pub(crate) fn reserve(self: &Arc<Self>, cost: u64) -> Result<Reservation> {
        // Relaxed: only the number is shared; it publishes no other data.
        let mut used = self.used.load(Relaxed);
        loop {
            let sum = used
                .checked_add(cost)
                .filter(|sum| *sum <= self.total)
                .ok_or(ENOSPC)?;
            match self.used.cmpxchg(used, sum, Relaxed) {
                Ok(_) => break,
                Err(now) => used = now,
            }
        }

        // INVARIANT: `cost` was just added to `used`.
        Ok(Reservation {
            budget: self.clone(),
            cost,
        })
    }
}

/// A device's part of its parent's budget. Dropping it returns the part.
///
/// # Invariants
///
/// `cost` is part of the budget's `used`.
pub(crate) struct Reservation {
    budget: Arc<Budget>,
    cost: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // By the type invariant this does not go below 0.
        self.budget.used.fetch_sub(self.cost, Relaxed);
    }
}
