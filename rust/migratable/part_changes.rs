// SPDX-License-Identifier: GPL-2.0

//! The parts of a device's state that have changed during a save.

use kernel::sync::atomic::{
    Acquire,
    Atomic,
    Relaxed,
    Release, //
};
use migration::stream::Changes;

/// The bit that says that pre-copy begins anew. The bits below are the parts, by their index.
const REINIT: u64 = 1 << 32;

/// What has changed since a save took it.
pub(crate) struct PartChanges(Atomic<u64>);

impl PartChanges {
    /// Returns an empty set of changes.
    pub(crate) fn new() -> Self {
        Self(Atomic::new(0))
    }

    /// Adds changes. A save that takes them sees what the caller has written before.
    pub(crate) fn add(&self, changes: Changes) {
        let reinit = if changes.reinit { REINIT } else { 0 };
        let bits = u64::from(changes.parts) | reinit;
        let mut old = self.0.load(Relaxed);
        while let Err(now) = self.0.cmpxchg(old, old | bits, Release) {
            old = now;
        }
    }

    /// Returns the changes.
    pub(crate) fn get(&self) -> Changes {
        Self::decode(self.0.load(Relaxed))
    }

    /// Takes the changes.
    pub(crate) fn take(&self) -> Changes {
        Self::decode(self.0.xchg(0, Acquire))
    }

    fn decode(bits: u64) -> Changes {
        Changes {
            parts: bits as u32,
            reinit: bits & REINIT != 0,
        }
    }
}
