// SPDX-License-Identifier: GPL-2.0

//! Timeouts of what must happen, on a slow machine.

use std::io;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use crate::ended::{self, Ended};

/// The timeout.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// Waits until a condition holds, and returns whether it did before the timeout.
pub(crate) fn holds(mut condition: impl FnMut() -> io::Result<bool>) -> io::Result<bool> {
    let start = Instant::now();
    while !condition()? {
        if start.elapsed() > PATIENCE {
            return Ok(false);
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(true)
}

/// Waits for the exit of a process.
pub(crate) fn reap(child: &mut Child) -> ended::Result {
    match holds(|| Ok(child.try_wait()?.is_some()))? {
        true => Ok(0),
        false => Err(Ended::Stuck),
    }
}
