// SPDX-License-Identifier: GPL-2.0

//! Errors of a measurement.

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
        Error(e.to_string())
    }
}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Self {
        Error(e.to_string())
    }
}

/// Fails with a formatted message.
macro_rules! fail {
    ($($arg:tt)*) => {
        return Err($crate::error::Error(format!($($arg)*)))
    };
}
pub(crate) use fail;
