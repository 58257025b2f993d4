// SPDX-License-Identifier: GPL-2.0

//! Tells a save whether the device or a user wrote a page while it read the page twice.
//!
//! A save copies a page, then computes the checksum of what it has copied from the page itself. Both are the
//! same bytes if nobody has written meanwhile:
//!
//! - A guest that writes through a mapping has to fault first, because the save has removed the mapping. The
//!   fault marks the page before the guest can write.
//! - All others announce a copy before it begins: [`Writers::begin`].

use core::sync::atomic::{
    fence,
    AtomicU64,
    Ordering, //
};

/// Counts of the copies to a device memory.
pub(super) struct Writers {
    begun: AtomicU64,
    ended: AtomicU64,
}

impl Writers {
    /// Returns the counts of a memory that nobody writes.
    pub(super) const fn new() -> Self {
        Self {
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
        }
    }

    /// Announces a copy, which lasts until the result is dropped.
    #[inline]
    pub(super) fn begin(&self) -> Writer<'_> {
        // A full barrier: nobody sees a byte of the copy who does not see that it has begun.
        self.begun.fetch_add(1, Ordering::SeqCst);
        Writer(self)
    }

    /// Returns the number of copies that have begun, unless one is in progress.
    #[inline]
    pub(super) fn quiet(&self) -> Option<u64> {
        // In this order. If both are equal, none was in progress at the second load.
        let ended = self.ended.load(Ordering::SeqCst);
        let begun = self.begun.load(Ordering::SeqCst);
        (begun == ended).then_some(begun)
    }

    /// Returns whether no copy has begun since `quiet` returned this number. What the caller has read before is
    /// then from before any later copy.
    #[inline]
    pub(super) fn is_still(&self, number: u64) -> bool {
        fence(Ordering::SeqCst);
        self.begun.load(Ordering::SeqCst) == number
    }
}

/// A copy in progress.
pub(super) struct Writer<'a>(&'a Writers);

impl Drop for Writer<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::SeqCst);
    }
}
