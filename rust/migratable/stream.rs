// SPDX-License-Identifier: GPL-2.0

//! How a driver encodes and decodes its state, field by field, little endian.
//!
//! The methods of [`Writer`] and [`Reader`] return [`Error`], which `?` converts to the kernel's
//! error. They neither sleep nor allocate.

use core::fmt;
use migration::stream::{
    self,
    Parts,
    SavedState, //
};

/// Why a field cannot be encoded or decoded.
#[derive(Clone, Copy, Debug)]
enum Reason {
    /// Too few bytes. It prints the bytes needed and available.
    Codec(stream::Error),
    /// The value of the field with this name is illegal.
    Illegal(&'static str),
}

/// Why a field cannot be encoded or decoded.
#[derive(Clone, Copy, Debug)]
pub struct Error(Reason);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Reason::Codec(error) => error.fmt(f),
            Reason::Illegal(field) => write!(f, "the value of {field} is illegal"),
        }
    }
}

impl From<Error> for kernel::error::Error {
    fn from(error: Error) -> Self {
        match error.0 {
            Reason::Codec(error) => Self::from_errno(-error.errno()),
            Reason::Illegal(_) => kernel::error::code::EINVAL,
        }
    }
}

/// The result of encoding or decoding a field.
pub type Result<T = (), E = Error> = core::result::Result<T, E>;

/// Converts an error, and remembers the first one.
fn first<T>(slot: &mut Option<Error>, result: core::result::Result<T, stream::Error>) -> Result<T> {
    result
        .map_err(|error| Error(Reason::Codec(error)))
        .inspect_err(|error| *slot = slot.or(Some(*error)))
}

/// Encodes a device's own state.
///
/// A field that does not fit in [`Info::state_size_max`](crate::Info::state_size_max) returns an error
/// (`ENOSPC`) and changes nothing.
#[derive(Debug)]
pub struct Writer<'a> {
    inner: stream::Writer<'a>,
    /// The first error.
    error: Option<Error>,
}

impl<'a> Writer<'a> {
    /// Creates a writer that fills `buf` from its start.
    pub(crate) fn new(buf: &'a mut [u8]) -> Self {
        Writer {
            inner: stream::Writer::new(buf),
            error: None,
        }
    }

    /// Returns the first error.
    pub(crate) fn error(&self) -> Option<Error> {
        self.error
    }

    /// Returns the number of bytes written.
    pub(crate) fn len(&self) -> usize {
        self.inner.len()
    }

    /// Returns the number of bytes that still fit.
    pub fn remaining(&self) -> usize {
        self.inner.remaining()
    }

    /// Appends `bytes`. `ENOSPC` if they do not fit.
    pub fn put_bytes(&mut self, bytes: &[u8]) -> Result {
        first(&mut self.error, self.inner.put_bytes(bytes))
    }

    /// Appends one byte. `ENOSPC` if it does not fit.
    pub fn put_u8(&mut self, value: u8) -> Result {
        first(&mut self.error, self.inner.put_u8(value))
    }

    /// Appends a u16. `ENOSPC` if it does not fit.
    pub fn put_u16(&mut self, value: u16) -> Result {
        first(&mut self.error, self.inner.put_u16(value))
    }

    /// Appends a u32. `ENOSPC` if it does not fit.
    pub fn put_u32(&mut self, value: u32) -> Result {
        first(&mut self.error, self.inner.put_u32(value))
    }

    /// Appends a u64. `ENOSPC` if it does not fit.
    pub fn put_u64(&mut self, value: u64) -> Result {
        first(&mut self.error, self.inner.put_u64(value))
    }
}

/// Decodes a device's own state, in the order of [`Writer`].
///
/// A field that is not complete returns an error (`ENODATA`) and consumes nothing.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    inner: stream::Reader<'a>,
    /// The version of the device that saved the state.
    version: u32,
    /// The parts of the state.
    parts: Parts<'a>,
    /// The first error.
    error: Option<Error>,
}

impl<'a> Reader<'a> {
    /// Creates a reader that starts at the first byte of `state`.
    pub(crate) fn new(state: &SavedState<'a>) -> Self {
        Reader {
            inner: stream::Reader::new(state.bytes),
            version: state.version,
            parts: state.parts,
            error: None,
        }
    }

    /// Decodes one of [`Driver::PARTS`](crate::Driver::PARTS) with `decode`. Returns `None` if the stream does
    /// not have the part: the source did not need it, or did not know it.
    ///
    /// Returns the error of `decode`, and `EPROTO` for bytes after the last field.
    pub fn part<R>(
        &mut self,
        number: u32,
        decode: impl FnOnce(&mut Self) -> kernel::error::Result<R>,
    ) -> kernel::error::Result<Option<R>> {
        let Some(bytes) = self.parts.get(number) else {
            return Ok(None);
        };
        let mut part = Reader {
            inner: stream::Reader::new(bytes),
            ..*self
        };
        let decoded = decode(&mut part);
        self.error = self.error.or(part.error);
        let decoded = decoded?;
        first(&mut self.error, part.inner.finish())?;
        Ok(Some(decoded))
    }

    /// Returns the first error.
    pub(crate) fn error(&self) -> Option<Error> {
        self.error
    }

    /// Returns the version of the layout: from [`Driver::OLDEST_VERSION`](crate::Driver::OLDEST_VERSION) to
    /// [`Info::version`](crate::Info::version).
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Notes that the value of `field` is illegal. Returns the error, which is `EINVAL`. The framework logs it.
    pub fn illegal(&mut self, field: &'static str) -> Error {
        let error = Error(Reason::Illegal(field));
        self.error.get_or_insert(error);
        error
    }

    /// Returns the number of bytes not yet read.
    pub fn remaining(&self) -> usize {
        self.inner.remaining()
    }

    /// Reads `len` bytes. `ENODATA` if fewer are left.
    pub fn get_bytes(&mut self, len: usize) -> Result<&'a [u8]> {
        first(&mut self.error, self.inner.get_bytes(len))
    }

    /// Reads `N` bytes. `ENODATA` if fewer are left.
    pub fn get_array<const N: usize>(&mut self) -> Result<[u8; N]> {
        first(&mut self.error, self.inner.get_array())
    }

    /// Reads one byte. `ENODATA` if none is left.
    pub fn get_u8(&mut self) -> Result<u8> {
        first(&mut self.error, self.inner.get_u8())
    }

    /// Reads a u16. `ENODATA` if it is not complete.
    pub fn get_u16(&mut self) -> Result<u16> {
        first(&mut self.error, self.inner.get_u16())
    }

    /// Reads a u32. `ENODATA` if it is not complete.
    pub fn get_u32(&mut self) -> Result<u32> {
        first(&mut self.error, self.inner.get_u32())
    }

    /// Reads a u64. `ENODATA` if it is not complete.
    pub fn get_u64(&mut self) -> Result<u64> {
        first(&mut self.error, self.inner.get_u64())
    }
}
