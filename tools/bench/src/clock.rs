// SPDX-License-Identifier: GPL-2.0

//! A clock that counts instructions.
//!
//! Under QEMU's `-icount shift=0` an instruction takes one nanosecond of the guest's time, so the monotonic
//! clock counts them, those of the kernel and of interrupts included. Time also passes while the only
//! processor is idle, so nothing that is measured may sleep while nothing else runs.
//!
//! That this is so is tested, not assumed: a turn of a small loop must take a whole number of nanoseconds,
//! and the same number again. What the kernel still has to do after boot, such as printing its log, counts
//! too: it is waited for.

use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{json, Value};

use crate::error::Result;

/// Turns of the loop that is timed.
const TURNS: u64 = 2_000_000;
/// How often something short is measured. The least counts: others have the timer's interrupt in them.
const REPEATS: usize = 5;

/// How long the kernel may take for what it still has to do: next to nothing where an idle processor's time
/// is skipped.
const PAUSE: Duration = Duration::from_secs(2);
/// How often it gets as much.
const PAUSES: usize = 10;

/// The clock.
#[derive(Debug)]
pub(crate) struct Clock {
    start: Instant,
    /// What it takes to look at the clock.
    overhead: u64,
    /// What a turn of the test loop took, twice.
    pub(crate) turns: [f64; 2],
}

/// A loop of a few instructions a turn, each of which depends on the one before.
#[inline(never)]
fn spin(turns: u64) -> u64 {
    let mut left = turns;
    while left != 0 {
        left = black_box(left) - 1;
    }
    left
}

impl Clock {
    /// Sees what the clock is worth.
    pub(crate) fn new() -> Self {
        let mut clock = Clock {
            start: Instant::now(),
            overhead: 0,
            turns: [0.0; 2],
        };
        for _ in 0..PAUSES {
            clock.settle();
            clock.test();
            if clock.counts() {
                break;
            }
        }
        clock
    }

    fn test(&mut self) {
        self.overhead = 0;
        self.overhead = self.least(|| ());
        // The difference of two lengths has no cost of a beginning and an end.
        self.turns = std::array::from_fn(|_| {
            let short = self.least(|| _ = black_box(spin(black_box(TURNS))));
            let long = self.least(|| _ = black_box(spin(black_box(2 * TURNS))));
            (long as f64 - short as f64) / TURNS as f64
        });
    }

    /// Lets others finish what they are at.
    pub(crate) fn settle(&self) {
        thread::sleep(PAUSE);
    }

    /// Whether it counts instructions. The timer's interrupts are allowed for, with one part in a hundred.
    pub(crate) fn counts(&self) -> bool {
        let [first, second] = self.turns;
        let whole = first.round();
        whole >= 1.0
            && [first, second]
                .iter()
                .all(|t| (t / whole - 1.0).abs() < 0.01)
    }

    /// The reading.
    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// What `f` takes.
    pub(crate) fn time<T>(&self, f: impl FnOnce() -> T) -> (u64, T) {
        let before = self.now();
        let result = f();
        let after = self.now();
        ((after - before).saturating_sub(self.overhead), result)
    }

    /// What `f` takes, unless it fails.
    pub(crate) fn try_time<T>(&self, f: impl FnOnce() -> Result<T>) -> Result<(u64, T)> {
        let (count, result) = self.time(f);
        Ok((count, result?))
    }

    fn least(&self, mut f: impl FnMut()) -> u64 {
        (0..REPEATS)
            .map(|_| self.time(&mut f).0)
            .min()
            .unwrap_or_default()
    }

    /// What one of `times` calls of `f` takes, at least.
    pub(crate) fn each<T>(&self, times: u64, mut f: impl FnMut() -> Result<T>) -> Result<f64> {
        let mut least = u64::MAX;
        for _ in 0..REPEATS {
            let (count, ()) = self.try_time(|| {
                for _ in 0..times {
                    black_box(f()?);
                }
                Ok(())
            })?;
            least = least.min(count);
        }
        Ok(least as f64 / times as f64)
    }

    /// One line about it.
    pub(crate) fn describe(&self) -> String {
        let [first, second] = self.turns;
        let unit = match self.counts() {
            true => "instructions, of user and kernel, on one processor",
            false => "NANOSECONDS: the clock does not count instructions",
        };
        format!("Counts are {unit}. A turn of the test loop: {first:.4}, {second:.4}.")
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "unit": if self.counts() { "instructions" } else { "nanoseconds" },
            "turn_of_test_loop": self.turns,
            "overhead": self.overhead,
        })
    }
}
