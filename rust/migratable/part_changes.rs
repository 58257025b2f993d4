// SPDX-License-Identifier: GPL-2.0

//! The parts of a device's state that have changed during a save.

use core::sync::atomic::{
    AtomicU64,
    Ordering, //
};
use migration::stream::Changes;

/// The bit that says that pre-copy starts over. The bits below are the parts, by their index.
const REINIT: u64 = 1 << 32;

/// What has changed since a save took it. Users cause a read of it with each of `pending_bytes`.
pub(crate) struct PartChanges(AtomicU64);

impl PartChanges {
    /// Returns an empty set of changes.
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds changes. A save that takes them sees what the caller has written before.
    pub(crate) fn add(&self, changes: Changes) {
        let reinit = if changes.reinit { REINIT } else { 0 };
        let bits = u64::from(changes.parts) | reinit;
        self.0.fetch_or(bits, Ordering::Release);
    }

    /// Returns the changes.
    #[inline]
    pub(crate) fn get(&self) -> Changes {
        Self::decode(self.0.load(Ordering::Relaxed))
    }

    /// Takes the changes.
    #[inline]
    pub(crate) fn take(&self) -> Changes {
        Self::decode(self.0.swap(0, Ordering::Acquire))
    }

    #[inline]
    fn decode(bits: u64) -> Changes {
        Changes {
            parts: bits as u32,
            reinit: bits & REINIT != 0,
        }
    }
}
