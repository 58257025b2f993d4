// SPDX-License-Identifier: GPL-2.0

//! Diagnostic lines, and failures that a test cannot return.

use std::io::Write;
use std::sync::Mutex;

/// Failures that cannot be returned, such as in `drop` or in another thread.
static PROBLEMS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Fails the running test from code that can neither return an error nor panic.
pub(crate) fn problem(what: String) {
    PROBLEMS.lock().unwrap().push(what);
}

/// Prints a diagnostic line for each line of `text`.
pub(crate) fn diagnose(text: &str) {
    let mut out = std::io::stdout().lock();
    for line in text.lines() {
        let _ = writeln!(out, "# {line}");
    }
    let _ = out.flush();
}

/// Prints a diagnostic line from a test.
#[macro_export]
macro_rules! note {
    ($($arg:tt)+) => {
        $crate::harness::report::diagnose(&format!($($arg)+))
    };
}

/// Returns the failures recorded since the last call.
pub(crate) fn take_problems() -> Vec<String> {
    std::mem::take(&mut *PROBLEMS.lock().unwrap())
}
