// SPDX-License-Identifier: GPL-2.0

//! The results of calls.

use std::io;

/// Why a call did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// A slot that it needed was empty.
    Empty,
    /// The kernel's errno.
    Errno(i32),
    /// A process that was killed or had finished did not exit.
    Stuck,
}

impl From<io::Error> for Ended {
    fn from(e: io::Error) -> Self {
        Ended::Errno(e.raw_os_error().unwrap_or(0))
    }
}

impl From<vfio_client::Error> for Ended {
    fn from(e: vfio_client::Error) -> Self {
        Ended::from(e.source)
    }
}

/// The result of a call.
pub(crate) type Result<T = u64> = std::result::Result<T, Ended>;
