// SPDX-License-Identifier: GPL-2.0

//! A clock that counts instructions.
//!
//! Under QEMU's `-icount shift=0` an instruction takes one nanosecond of guest time, so the monotonic clock counts
//! instructions, including those of the kernel and of interrupts. Time also passes while the only processor is idle, so
//! measured code must not sleep while nothing else runs.
//!
//! [`Clock`] tests this: an iteration of a small loop must take a whole number of nanoseconds, and the same number
//! twice. Work that the kernel still does after boot, such as printing its log, counts too, so the benchmark waits for
//! it.

use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{json, Value};

use crate::error::Result;

/// Iterations of the timed loop.
const TURNS: u64 = 2_000_000;
/// How often to repeat short measurements. The lowest value counts: the others include the timer interrupt.
const REPEATS: usize = 5;

/// How long the kernel may take for its remaining work. This is short where the time of an idle processor is skipped.
const PAUSE: Duration = Duration::from_secs(2);
/// How often the kernel gets that time.
const PAUSES: usize = 10;

/// The clock.
#[derive(Debug)]
pub(crate) struct Clock {
    start: Instant,
    /// Cost of reading the clock.
    overhead: u64,
    /// Cost of an iteration of the test loop, measured twice.
    pub(crate) turns: [f64; 2],
    /// The unit of costs, in nanoseconds.
    pub(crate) unit: f64,
}

/// Runs a loop of a few instructions per iteration, each of which depends on the previous one.
#[inline(never)]
fn spin(turns: u64) -> u64 {
    let mut left = turns;
    while left != 0 {
        left = black_box(left) - 1;
    }
    left
}

impl Clock {
    /// A clock that counts nanoseconds.
    pub(crate) fn uncalibrated() -> Self {
        Clock {
            start: Instant::now(),
            overhead: 0,
            turns: [0.0; 2],
            unit: 1.0,
        }
    }

    /// Calibrates the clock.
    pub(crate) fn new() -> Self {
        let mut clock = Self::uncalibrated();
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
        // The difference of two lengths excludes the cost of entering and leaving the loop.
        self.turns = std::array::from_fn(|_| {
            let short = self.least(|| _ = black_box(spin(black_box(TURNS))));
            let long = self.least(|| _ = black_box(spin(black_box(2 * TURNS))));
            (long as f64 - short as f64) / TURNS as f64
        });
    }

    /// Lets other tasks finish.
    pub(crate) fn settle(&self) {
        thread::sleep(PAUSE);
    }

    /// Returns whether the clock counts instructions. Allows one percent for timer interrupts.
    pub(crate) fn counts(&self) -> bool {
        let [first, second] = self.turns;
        let whole = first.round();
        whole >= 1.0
            && [first, second]
                .iter()
                .all(|t| (t / whole - 1.0).abs() < 0.01)
    }

    /// Reads the clock.
    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// Measures `f`.
    pub(crate) fn time<T>(&self, f: impl FnOnce() -> T) -> (u64, T) {
        let before = self.now();
        let result = f();
        let after = self.now();
        ((after - before).saturating_sub(self.overhead), result)
    }

    /// Measures `f`, which may fail.
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

    /// Measures `times` calls of `f` and returns the lowest value.
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

    /// Describes the clock in one line.
    pub(crate) fn describe(&self) -> String {
        let [first, second] = self.turns;
        if self.unit != 1.0 {
            return format!(
                "Costs are times, as multiples of copying a KiB by memcpy(), which takes {:.1} ns here.",
                self.unit
            );
        }
        let unit = match self.counts() {
            true => "numbers of instructions of user and kernel on one processor",
            false => "NANOSECONDS: the clock does not count instructions",
        };
        format!("Costs are {unit}. An iteration of the test loop: {first:.4}, {second:.4}.")
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "unit": if self.counts() { "instructions" } else { "nanoseconds" },
            "units": self.unit,
            "turn_of_test_loop": self.turns,
            "overhead": self.overhead,
        })
    }
}
