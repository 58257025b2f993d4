// SPDX-License-Identifier: GPL-2.0

//! Counters that one file shows.

use core::sync::atomic::{
    AtomicU64,
    Ordering::Relaxed, //
};

/// One counter: a number that only the file shows.
///
/// Its operations are a few instructions and can be called in any context.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Counts one more.
    #[inline]
    pub fn add_one(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
