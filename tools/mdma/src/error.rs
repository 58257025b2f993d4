// SPDX-License-Identifier: GPL-2.0

//! Errors of the driver.

use std::fmt;
use std::io;
use std::time::Duration;

use mdma_model::desc;

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of the driver.
#[derive(Debug)]
pub enum Error {
    /// The transport failed to access a register.
    Register {
        /// Name of the register.
        name: &'static str,
        /// The value written; `None` for a read.
        value: Option<u64>,
        /// The transport's error.
        source: io::Error,
    },
    /// The device did not enable the queue.
    NotEnabled {
        /// Value of `REFUSED`.
        refused: u64,
    },
    /// The device is of another kind or revision.
    Foreign {
        /// The register that differs.
        name: &'static str,
        /// Its value.
        found: u64,
        /// The value it should have.
        expected: u64,
    },
    /// The buffer is unsuitable for the queue.
    Buffer(String),
    /// The ring is full: reap completions first.
    Full,
    /// The queue has halted.
    Halted {
        /// Value of `ERROR`.
        error: u64,
        /// Value of `ERROR_INDEX`.
        index: u64,
    },
    /// Something did not happen in time.
    Timeout {
        /// The awaited event.
        what: &'static str,
        /// The timeout.
        after: Duration,
    },
    /// The transport failed.
    Transport(Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// Returns the errno of a failed register access.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Register { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Register {
                name,
                value: Some(value),
                source,
            } => write!(f, "write {value:#x} to {name}: {source}"),
            Error::Register { name, source, .. } => write!(f, "read {name}: {source}"),
            Error::NotEnabled { refused } => {
                write!(f, "the queue is not enabled: REFUSED is {refused:#x}")
            }
            Error::Foreign {
                name,
                found,
                expected,
            } => write!(f, "{name} is {found:#x}, expected {expected:#x}"),
            Error::Buffer(why) => write!(f, "queue buffer: {why}"),
            Error::Full => f.write_str("the ring is full"),
            Error::Halted { error, index } => {
                let name = u32::try_from(*error)
                    .ok()
                    .and_then(desc::Error::from_raw)
                    .map_or("unknown error", |error| error.row().name);
                write!(f, "the queue has halted at descriptor {index}: {name}")
            }
            Error::Timeout { what, after } => write!(f, "no {what} within {after:?}"),
            Error::Transport(source) => source.fmt(f),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Register { source, .. } => Some(source),
            Error::Transport(source) => Some(source.as_ref()),
            _ => None,
        }
    }
}
