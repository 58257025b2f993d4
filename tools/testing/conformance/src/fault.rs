// SPDX-License-Identifier: GPL-2.0

//! What a check finds.

use std::fmt;
use std::io;

use vfio_client::{errno, errno_name};

/// Why a check did not succeed.
#[derive(Debug)]
pub enum Fault {
    /// The device does not follow the rule.
    Failed {
        /// What the UAPI demands.
        expected: String,
        /// What the device did.
        seen: String,
    },
    /// The device does not have what the check is about.
    Absent(String),
    /// A step failed that the check needs, but is not about.
    Broken(vfio_client::Error),
}

impl From<vfio_client::Error> for Fault {
    fn from(e: vfio_client::Error) -> Self {
        Fault::Broken(e)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Failed { expected, seen } => write!(f, "expected {expected}; saw {seen}"),
            Fault::Absent(what) => write!(f, "the device has no {what}"),
            Fault::Broken(e) => write!(f, "could not check: {e:#}"),
        }
    }
}

/// Fails with what was expected and seen, unless `good`.
pub(crate) fn require(
    good: bool,
    expected: impl Into<String>,
    seen: impl fmt::Display,
) -> Result<(), Fault> {
    match good {
        true => Ok(()),
        false => Err(Fault::Failed {
            expected: expected.into(),
            seen: seen.to_string(),
        }),
    }
}

/// Requires that a call failed with an errno.
pub(crate) fn require_errno<T>(
    call: &str,
    wanted: i32,
    result: Result<T, io::Error>,
) -> Result<(), Fault> {
    let name = |n| errno_name(n).map_or_else(|| format!("errno {n}"), str::to_string);
    let seen = match &result {
        Ok(_) => "success".to_string(),
        Err(e) => e.raw_os_error().map_or_else(|| e.to_string(), name),
    };
    let good = result.is_err_and(|e| e.raw_os_error() == Some(wanted));
    require(good, format!("{} from {call}", name(wanted)), seen)
}

/// Requires `EINVAL`.
pub(crate) fn require_invalid<T>(call: &str, result: vfio_client::Result<T>) -> Result<(), Fault> {
    require_errno(call, errno::EINVAL, result.map_err(|e| e.source))
}
