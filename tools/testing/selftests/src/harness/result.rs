// SPDX-License-Identifier: GPL-2.0

//! The result of a test.

use std::fmt;
use std::panic::Location;

/// The result of a test and of its helpers.
pub(crate) type Result<T = (), E = Ended> = std::result::Result<T, E>;

/// Why a test ended early.
///
/// `?` converts any error into this and records the location.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The test failed.
    Failed {
        /// The reason.
        what: String,
        /// The place in the test.
        at: &'static Location<'static>,
    },
    /// The test cannot run on this machine.
    Skipped(String),
}

impl Ended {
    /// Returns a failure located at the caller.
    #[track_caller]
    pub(crate) fn failed(what: impl Into<String>) -> Self {
        Ended::Failed {
            what: what.into(),
            at: Location::caller(),
        }
    }
}

impl<E: std::error::Error> From<E> for Ended {
    #[track_caller]
    fn from(error: E) -> Self {
        Ended::failed(error.to_string())
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ended::Failed { what, at } => write!(f, "{}:{}: {what}", at.file(), at.line()),
            Ended::Skipped(why) => write!(f, "skipped: {why}"),
        }
    }
}

/// Fails the test.
#[macro_export]
macro_rules! fail {
    ($($arg:tt)+) => {
        return Err($crate::harness::result::Ended::failed(format!($($arg)+)))
    };
}

/// Skips the test because it cannot run on this machine. Do not use it if the test could set up what it needs.
#[macro_export]
macro_rules! skip {
    ($($arg:tt)+) => {
        return Err($crate::harness::result::Ended::Skipped(format!($($arg)+)))
    };
}
