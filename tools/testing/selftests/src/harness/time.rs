// SPDX-License-Identifier: GPL-2.0

//! The time that a test takes: on the clock, and of all processors.

use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

/// The unit of `/proc/stat`.
const TICK: Duration = Duration::from_millis(10);

/// A start.
pub(crate) struct Start {
    clock: Instant,
    busy: Duration,
}

impl Start {
    /// Returns the present time.
    pub(crate) fn now() -> Self {
        Start {
            clock: Instant::now(),
            busy: busy(),
        }
    }

    /// Returns what has passed since then.
    pub(crate) fn passed(&self) -> Passed {
        Passed {
            wall: self.clock.elapsed(),
            processor: busy().saturating_sub(self.busy),
        }
    }
}

/// Time that passed. A test with much more wall time than processor time waits.
pub(crate) struct Passed {
    wall: Duration,
    processor: Duration,
}

impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (wall, processor) = (self.wall.as_secs_f64(), self.processor.as_secs_f64());
        write!(f, "time: {wall:.2} s, processors {processor:.2} s")
    }
}

/// Returns how long the processors of the machine have worked, for any process and for the kernel.
fn busy() -> Duration {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    TICK * u32::try_from(ticks(&text)).unwrap_or(u32::MAX)
}

/// Adds up the first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal.
fn ticks(stat: &str) -> u64 {
    let all = stat.lines().next().unwrap_or("").split_whitespace();
    let numbers: Vec<u64> = all
        .skip(1)
        .map(|word| word.parse().unwrap_or(0))
        .take(8)
        .collect();
    let idle: u64 = numbers.iter().skip(3).take(2).sum();
    numbers.iter().sum::<u64>() - idle
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_processors_do_not_count() {
        let stat =
            "cpu  1 20 300 4000 50000 600000 7000000 80000000 0 0\ncpu0 9 9 9 9 9 9 9 0 0 0\n";
        assert_eq!(ticks(stat), 87_600_321);
        assert_eq!(ticks(""), 0);
    }

    #[test]
    fn as_text() {
        let passed = Passed {
            wall: Duration::from_millis(2340),
            processor: TICK * 50,
        };
        assert_eq!(passed.to_string(), "time: 2.34 s, processors 0.50 s");
    }
}
