// SPDX-License-Identifier: GPL-2.0

//! Errors of a migration: step, field and errno, the kind of failure, and a hint.

use std::fmt;

use serde::Serialize;
use vfio_client::errno;
use vfio_client::Error;

/// The kind of failure. The discriminant is the exit code of the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// An operation failed.
    Failed = 1,
    /// The destination refused the stream, or the stream is invalid.
    Refused = 3,
    /// The device cannot be migrated.
    NotMigratable = 4,
    /// The link broke while the destination began to run, so only its end knows whether it does.
    Undecided = 5,
}

/// A failed migration.
#[derive(Debug)]
pub struct Failure {
    /// The kind.
    pub kind: Kind,
    /// Step, field, errno.
    pub error: Error,
    /// Recovery that was done, and other facts.
    pub notes: Vec<String>,
}

/// The field of failures that the other end of a link reported.
pub(crate) const REMOTE: &str = "destination";

/// The result of this crate's functions.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// Creates a failure of a kind.
    pub fn new(kind: Kind, error: Error) -> Self {
        Failure {
            kind,
            error,
            notes: Vec::new(),
        }
    }

    /// Adds a note.
    #[must_use]
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// Returns whether the other end of a link reported it.
    pub(crate) fn is_remote(&self) -> bool {
        self.error.field == REMOTE
    }

    /// Returns what the user can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        let field = &*self.error.field;
        match (self.error.errno()?, self.kind) {
            (errno::EBUSY, _) if field.starts_with("open /dev/vfio/") => {
                Some("another process has opened the group")
            }
            (errno::EBUSY, _) if field.contains("state") => {
                Some("a session of the other protocol is open on this device")
            }
            (errno::EACCES | errno::EPERM, _) if field.starts_with("open /dev/vfio/") => {
                Some("this user needs read and write access to it")
            }
            (errno::ENOENT, _) if field.starts_with("open /dev/vfio/vfio") => {
                Some("load the modules vfio and vfio_iommu_type1")
            }
            (errno::EINVAL, Kind::Refused) => Some(
                "the stream does not match this device; the kernel log names the field that differs",
            ),
            (errno::EBADMSG, Kind::Refused) => {
                Some("the stream is corrupt; `vfio-migrate inspect` finds the record")
            }
            (errno::ENODATA, Kind::Refused) => Some("the stream ends early"),
            (errno::EPROTO | errno::ERANGE | errno::EPROTONOSUPPORT, Kind::Refused) => {
                Some("`vfio-migrate inspect` and the kernel log tell more")
            }
            _ => None,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::new(Kind::Failed, error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.error)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    fn failure(kind: Kind, field: &'static str, errno: i32) -> Failure {
        Failure::new(kind, Error::new(field, io::Error::from_raw_os_error(errno)))
    }

    #[test]
    fn a_busy_group_has_a_hint() {
        let f = failure(Kind::Failed, "open /dev/vfio/3", errno::EBUSY);
        assert!(f.hint().unwrap().contains("another process"));
        assert_eq!(
            f.to_string(),
            "open /dev/vfio/3: Device or resource busy (EBUSY)"
        );
    }

    #[test]
    fn hints_about_streams_are_for_refusals_only() {
        let field = "data_size ← 4096";
        assert!(failure(Kind::Refused, field, errno::EBADMSG)
            .hint()
            .is_some());
        assert!(failure(Kind::Failed, field, errno::EBADMSG)
            .hint()
            .is_none());
    }
}
