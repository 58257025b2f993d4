// SPDX-License-Identifier: GPL-2.0

//! Errors of the VMM.

use std::fmt;

use vfio_ioctls::VfioError;

/// An error, in one line.
#[derive(Debug)]
pub(crate) struct Error {
    text: String,
    /// The kernel's error, if it is known.
    pub(crate) errno: Option<i32>,
}

pub(crate) type Result<T = ()> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Error {
            text: text.into(),
            errno: None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<VfioError> for Error {
    fn from(e: VfioError) -> Self {
        Error {
            errno: match &e {
                VfioError::VfioDeviceFeature(e) | VfioError::VfioMigGetPrecopyInfo(e) => {
                    Some(e.errno())
                }
                VfioError::VfioMigrationDataIo(e) => e.raw_os_error(),
                _ => None,
            },
            text: e.to_string(),
        }
    }
}

impl From<vfio_client::Error> for Error {
    fn from(e: vfio_client::Error) -> Self {
        Error {
            errno: e.errno(),
            text: format!("{e:#}"),
        }
    }
}

impl From<mdma::Error> for Error {
    fn from(e: mdma::Error) -> Self {
        Error::new(e.to_string())
    }
}

impl From<std::io::Error> for Error {
    fn from(e: std::io::Error) -> Self {
        Error {
            errno: e.raw_os_error(),
            text: e.to_string(),
        }
    }
}

impl From<vmm_sys_util::errno::Error> for Error {
    fn from(e: vmm_sys_util::errno::Error) -> Self {
        std::io::Error::from_raw_os_error(e.errno()).into()
    }
}

/// Returns an error with a formatted message.
macro_rules! fail {
    ($($arg:tt)*) => {
        return Err($crate::error::Error::new(format!($($arg)*)))
    };
}
pub(crate) use fail;

/// Fails unless two values are equal.
macro_rules! expect_eq {
    ($found:expr, $expected:expr, $($arg:tt)*) => {
        let (found, expected) = ($found, $expected);
        if found != expected {
            $crate::error::fail!("{}: found {found:?}, expected {expected:?}", format!($($arg)*));
        }
    };
}
pub(crate) use expect_eq;
