// SPDX-License-Identifier: GPL-2.0

//! Errors of the demonstration.

use std::fmt;

/// An error, in one line.
#[derive(Debug)]
pub(crate) struct Error(pub(crate) String);

pub(crate) type Result<T> = std::result::Result<T, Error>;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<vfio_client::Error> for Error {
    fn from(e: vfio_client::Error) -> Self {
        Error(format!("{e:#}"))
    }
}

impl From<mdma::Error> for Error {
    fn from(e: mdma::Error) -> Self {
        Error(e.to_string())
    }
}

impl From<vfio_migrate::Failure> for Error {
    fn from(e: vfio_migrate::Failure) -> Self {
        let mut text = e.to_string();
        for note in &e.notes {
            text.push_str(&format!("; {note}"));
        }
        Error(text)
    }
}

/// Fails with a formatted message.
macro_rules! fail {
    ($($arg:tt)*) => {
        return Err($crate::error::Error(format!($($arg)*)))
    };
}
pub(crate) use fail;
