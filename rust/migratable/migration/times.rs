// SPDX-License-Identifier: GPL-2.0

//! The time that a device spends in each state.

use kernel::time::{
    Instant,
    Monotonic, //
};
use migration::state::State;

/// How long a device was in each state.
#[derive(Clone, Copy)]
pub(super) struct Times {
    since: Instant<Monotonic>,
    /// Nanoseconds, indexed by the v2 number of the state.
    spent: [i64; State::ALL.len()],
}

impl Times {
    /// Returns the times of a device that enters its first state now.
    pub(super) fn new() -> Self {
        Self {
            since: Instant::now(),
            spent: [0; State::ALL.len()],
        }
    }

    /// Adds the time since the last call to `state`, which is left now.
    pub(super) fn leave(&mut self, state: State) {
        if let Some(spent) = self.spent.get_mut(state.to_v2() as usize) {
            *spent = spent.saturating_add(self.since.elapsed().as_nanos());
        }
        self.since = Instant::now();
    }

    /// Returns the milliseconds spent in `state` when the present state is `present`.
    pub(super) fn millis(&self, state: State, present: State) -> i64 {
        let spent = self.spent.get(state.to_v2() as usize).copied().unwrap_or(0);
        let more = if state == present {
            self.since.elapsed().as_nanos()
        } else {
            0
        };
        spent.saturating_add(more) / 1_000_000
    }
}
