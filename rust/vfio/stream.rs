// SPDX-License-Identifier: GPL-2.0

//! How a driver encodes and decodes its state, field by field, little endian.
//!
//! The methods of [`Writer`] and [`Reader`] return [`Error`], which `?` converts to the kernel's
//! error. They neither sleep nor allocate.

use core::fmt;
use migration::stream;

/// Why a field cannot be encoded or decoded. It prints the bytes needed and available.
#[derive(Clone, Copy, Debug)]
pub struct Error(stream::Error);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<Error> for kernel::error::Error {
    fn from(error: Error) -> Self {
        Self::from_errno(-error.0.errno())
    }
}

/// The result of encoding or decoding a field.
pub type Result<T = (), E = Error> = core::result::Result<T, E>;

/// Encodes a device's own state.
///
/// A field that does not fit in [`Info::state_size_max`](crate::Info::state_size_max) returns an error (`ENOSPC`) and changes nothing.
#[derive(Debug)]
pub struct Writer<'a>(stream::Writer<'a>);

impl<'a> Writer<'a> {
    /// Creates a writer that fills `buf` from its start.
    pub(crate) fn new(buf: &'a mut [u8]) -> Self {
        Writer(stream::Writer::new(buf))
    }

    /// Returns the number of bytes written.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the number of bytes that still fit.
    pub fn remaining(&self) -> usize {
        self.0.remaining()
    }

    /// Appends `bytes`. `ENOSPC` if they do not fit.
    pub fn put_bytes(&mut self, bytes: &[u8]) -> Result {
        self.0.put_bytes(bytes).map_err(Error)
    }

    /// Appends one byte. `ENOSPC` if it does not fit.
    pub fn put_u8(&mut self, value: u8) -> Result {
        self.0.put_u8(value).map_err(Error)
    }

    /// Appends a u16. `ENOSPC` if it does not fit.
    pub fn put_u16(&mut self, value: u16) -> Result {
        self.0.put_u16(value).map_err(Error)
    }

    /// Appends a u32. `ENOSPC` if it does not fit.
    pub fn put_u32(&mut self, value: u32) -> Result {
        self.0.put_u32(value).map_err(Error)
    }

    /// Appends a u64. `ENOSPC` if it does not fit.
    pub fn put_u64(&mut self, value: u64) -> Result {
        self.0.put_u64(value).map_err(Error)
    }
}

/// Decodes a device's own state, in the order of [`Writer`].
///
/// A field that is not complete returns an error (`ENODATA`) and consumes nothing.
#[derive(Clone, Debug)]
pub struct Reader<'a>(stream::Reader<'a>);

impl<'a> Reader<'a> {
    /// Creates a reader that starts at the first byte of `buf`.
    pub(crate) fn new(buf: &'a [u8]) -> Self {
        Reader(stream::Reader::new(buf))
    }

    /// Returns the number of bytes not yet read.
    pub fn remaining(&self) -> usize {
        self.0.remaining()
    }

    /// Reads `len` bytes. `ENODATA` if fewer are left.
    pub fn get_bytes(&mut self, len: usize) -> Result<&'a [u8]> {
        self.0.get_bytes(len).map_err(Error)
    }

    /// Reads `N` bytes. `ENODATA` if fewer are left.
    pub fn get_array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.0.get_array().map_err(Error)
    }

    /// Reads one byte. `ENODATA` if none is left.
    pub fn get_u8(&mut self) -> Result<u8> {
        self.0.get_u8().map_err(Error)
    }

    /// Reads a u16. `ENODATA` if it is not complete.
    pub fn get_u16(&mut self) -> Result<u16> {
        self.0.get_u16().map_err(Error)
    }

    /// Reads a u32. `ENODATA` if it is not complete.
    pub fn get_u32(&mut self) -> Result<u32> {
        self.0.get_u32().map_err(Error)
    }

    /// Reads a u64. `ENODATA` if it is not complete.
    pub fn get_u64(&mut self) -> Result<u64> {
        self.0.get_u64().map_err(Error)
    }

    /// Ends the decoding. `EPROTO` if bytes are left after the last field.
    pub fn finish(self) -> Result {
        self.0.finish().map_err(Error)
    }
}
