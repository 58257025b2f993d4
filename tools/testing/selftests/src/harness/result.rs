// SPDX-License-Identifier: GPL-2.0

//! How a test ends.

use std::fmt;
use std::panic::Location;

/// The result of a test, and of what tests are made of.
pub(crate) type Outcome<T = ()> = Result<T, Ended>;

/// Why a test did not run to its end.
///
/// `?` makes one of every error, with the place it stands at.
#[derive(Debug)]
pub(crate) enum Ended {
    /// Something went wrong.
    Failed {
        /// What.
        what: String,
        /// Where in the test.
        at: &'static Location<'static>,
    },
    /// It cannot run here.
    Skipped(String),
}

impl Ended {
    /// A failure at the place of the caller.
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

/// Ends the test: it failed.
#[macro_export]
macro_rules! fail {
    ($($arg:tt)+) => {
        return Err($crate::harness::result::Ended::failed(format!($($arg)+)))
    };
}

/// Ends the test: it cannot run here. Not for what could be made to run.
#[macro_export]
macro_rules! skip {
    ($($arg:tt)+) => {
        return Err($crate::harness::result::Ended::Skipped(format!($($arg)+)))
    };
}
