// SPDX-License-Identifier: GPL-2.0

//! Errors, in the words of the interface.
//!
//! An [`Error`] names the step and the refused field or call, and keeps the [`io::Error`] with its raw errno. It prints
//! as `device_state ← 0b011: Invalid argument (EINVAL)`; the alternate form `{:#}` puts the step in front.

use std::borrow::Cow;
use std::fmt;
use std::io;

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// A refused or failed operation.
#[derive(Debug)]
pub struct Error {
    /// The step of the larger operation, for example `pre-copy`. May be empty.
    pub step: Cow<'static, str>,
    /// The field or call, and the value written to it.
    pub field: Cow<'static, str>,
    /// The kernel's error; [`io::Error::raw_os_error`] is its errno.
    pub source: io::Error,
}

impl Error {
    /// Creates an error for `field` from the kernel's error.
    pub fn new(field: impl Into<Cow<'static, str>>, source: impl Into<io::Error>) -> Self {
        Error {
            step: Cow::Borrowed(""),
            field: field.into(),
            source: source.into(),
        }
    }

    /// Creates an error that no system call reported: something is missing or malformed.
    pub fn other(field: impl Into<Cow<'static, str>>, why: impl Into<String>) -> Self {
        Error::new(field, io::Error::other(why.into()))
    }

    /// Creates an error for something that does not exist on this system.
    pub fn not_found(field: impl Into<Cow<'static, str>>, why: impl Into<String>) -> Self {
        Error::new(field, io::Error::new(io::ErrorKind::NotFound, why.into()))
    }

    /// Names the step, unless the error has one.
    #[must_use]
    pub fn during(mut self, step: impl Into<Cow<'static, str>>) -> Self {
        if self.step.is_empty() {
            self.step = step.into();
        }
        self
    }

    /// Returns the raw errno, if a system call reported the error.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }

    /// Returns the errno's name, for example `EINVAL`.
    pub fn errno_name(&self) -> Option<&'static str> {
        self.errno().and_then(errno_name)
    }

    /// Returns whether the error has this errno.
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
        // The standard library appends the number in its own notation.
        let text = text.split(" (os error").next().unwrap_or(&text);
        match errno_name(errno) {
            Some(name) => write!(f, "{text} ({name})"),
            None => write!(f, "{text} (errno {errno})"),
        }
    }
}

/// Adds the field to the result of a system call.
pub(crate) trait Context<T> {
    fn field(self, field: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn field(self, field: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Error::new(field(), e))
    }
}

/// Adds the step to the errors of an operation.
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
        /// The numbers, so that users need no dependency on libc.
        pub mod errno {
            $(pub use libc::$name;)*
        }

        /// Returns the name of an errno that VFIO, type1, mdev or a driver may return.
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
