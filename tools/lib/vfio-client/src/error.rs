// SPDX-License-Identifier: GPL-2.0

//! What went wrong, in the words of the interface.
//!
//! An [`Error`] names the step that was being done, the field or call that was refused, and keeps the
//! [`io::Error`] with its raw errno. It prints as `device_state ← 0b011: Invalid argument (EINVAL)`;
//! the alternate form `{:#}` puts the step in front.

use std::borrow::Cow;
use std::fmt;
use std::io;

/// The result of everything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// A refused or failed operation.
#[derive(Debug)]
pub struct Error {
    /// The step of the larger job, for example `pre-copy`. May be empty.
    pub step: Cow<'static, str>,
    /// The field or call, and the value that was written to it.
    pub field: Cow<'static, str>,
    /// What the kernel answered; [`io::Error::raw_os_error`] is its errno.
    pub source: io::Error,
}

impl Error {
    /// Creates an error for `field` from what the kernel answered.
    pub fn new(field: impl Into<Cow<'static, str>>, source: impl Into<io::Error>) -> Self {
        Error {
            step: Cow::Borrowed(""),
            field: field.into(),
            source: source.into(),
        }
    }

    /// Creates an error that no system call reported: something is not there, or not as promised.
    pub fn other(field: impl Into<Cow<'static, str>>, why: impl Into<String>) -> Self {
        Error::new(field, io::Error::other(why.into()))
    }

    /// Creates an error for something that does not exist on this system.
    pub fn not_found(field: impl Into<Cow<'static, str>>, why: impl Into<String>) -> Self {
        Error::new(field, io::Error::new(io::ErrorKind::NotFound, why.into()))
    }

    /// Returns the error with the step named, if none was named before.
    #[must_use]
    pub fn during(mut self, step: impl Into<Cow<'static, str>>) -> Self {
        if self.step.is_empty() {
            self.step = step.into();
        }
        self
    }

    /// The raw errno, if a system call reported the error.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }

    /// The errno's name, for example `EINVAL`.
    pub fn errno_name(&self) -> Option<&'static str> {
        self.errno().and_then(errno_name)
    }

    /// Whether the error is this errno.
    pub fn is(&self, errno: i32) -> bool {
        self.errno() == Some(errno)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.alternate() && !self.step.is_empty() {
            write!(f, "{}: ", self.step)?;
        }
        write!(f, "{}: {}", self.field, Reason(&self.source))
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Prints an [`io::Error`] as `Invalid argument (EINVAL)`.
pub struct Reason<'a>(pub &'a io::Error);

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        let Some(errno) = self.0.raw_os_error() else {
            return f.write_str(&text);
        };
        // The standard library appends its own notation of the number.
        let text = text.split(" (os error").next().unwrap_or(&text);
        match errno_name(errno) {
            Some(name) => write!(f, "{text} ({name})"),
            None => write!(f, "{text} (errno {errno})"),
        }
    }
}

/// Gives the result of a system call its field.
pub(crate) trait Context<T> {
    fn field(self, field: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn field(self, field: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Error::new(field(), e))
    }
}

/// Gives the errors of a step its name.
pub trait During<T> {
    /// See [`Error::during`].
    fn during(self, step: &'static str) -> Result<T>;
}

impl<T> During<T> for Result<T> {
    fn during(self, step: &'static str) -> Result<T> {
        self.map_err(|e| e.during(step))
    }
}

/// Declares the table of names from libc's constants.
macro_rules! errno_table {
    ($($name:ident)*) => {
        /// The numbers, so that users need no libc of their own.
        pub mod errno {
            $(pub use libc::$name;)*
        }

        /// The name of an errno that VFIO, type1, mdev or a driver may answer with.
        pub fn errno_name(errno: i32) -> Option<&'static str> {
            match errno {
                $(libc::$name => Some(stringify!($name)),)*
                _ => None,
            }
        }
    };
}

errno_table! {
    EPERM ENOENT EINTR EIO ENXIO E2BIG EBADF EAGAIN ENOMEM EACCES EFAULT EBUSY EEXIST ENODEV ENOTDIR
    EISDIR EINVAL ENFILE EMFILE ENOTTY EFBIG ENOSPC ESPIPE EROFS EMLINK EPIPE EDOM ERANGE EDEADLK
    ENOSYS ENOMSG ENODATA ETIME EPROTO EBADMSG EOVERFLOW EILSEQ EUSERS EMSGSIZE EOPNOTSUPP EADDRINUSE
    ENOBUFS ETIMEDOUT EALREADY EINPROGRESS ESTALE ECANCELED ENOTRECOVERABLE EPROTONOSUPPORT ENOEXEC
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_field_value_and_errno() {
        let e = Error::new(
            "device_state ← 0b011",
            io::Error::from_raw_os_error(libc::EINVAL),
        );
        assert_eq!(
            e.to_string(),
            "device_state ← 0b011: Invalid argument (EINVAL)"
        );
        assert_eq!(
            format!("{:#}", e.during("pre-copy")),
            "pre-copy: device_state ← 0b011: Invalid argument (EINVAL)"
        );
    }

    #[test]
    fn the_inner_step_stays() {
        let e = Error::other("x", "y").during("inner").during("outer");
        assert_eq!(e.step, "inner");
        assert_eq!(e.errno(), None);
        assert_eq!(e.to_string(), "x: y");
    }

    #[test]
    fn unnamed_errno_prints_its_number() {
        let e = Error::new("x", io::Error::from_raw_os_error(4095));
        assert!(e.to_string().ends_with("(errno 4095)"), "{e}");
    }
}
