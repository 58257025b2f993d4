// SPDX-License-Identifier: GPL-2.0

//! How a driver writes its state down and reads it back.
//!
//! Fields in order, little endian, without padding. The framework puts them into a record with a
//! checksum; here only their number and their width matter, and neither side can run over the end.

use kernel::prelude::*;

/// Writes fields into a buffer of fixed size.
pub struct Writer<'a> {
    buf: &'a mut [u8],
    len: usize,
}

impl<'a> Writer<'a> {
    /// A writer that fills `buf` from its start.
    pub fn new(buf: &'a mut [u8]) -> Self {
        Self { buf, len: 0 }
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing has been written yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Writes bytes as they are; `ENOSPC` if they do not fit.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result {
        let room = self.buf.get_mut(self.len..).ok_or(ENOSPC)?;
        room.get_mut(..bytes.len())
            .ok_or(ENOSPC)?
            .copy_from_slice(bytes);
        self.len += bytes.len();
        Ok(())
    }

    /// Writes one byte.
    pub fn u8(&mut self, value: u8) -> Result {
        self.bytes(&[value])
    }

    /// Writes a `u16`.
    pub fn u16(&mut self, value: u16) -> Result {
        self.bytes(&value.to_le_bytes())
    }

    /// Writes a `u32`.
    pub fn u32(&mut self, value: u32) -> Result {
        self.bytes(&value.to_le_bytes())
    }

    /// Writes a `u64`.
    pub fn u64(&mut self, value: u64) -> Result {
        self.bytes(&value.to_le_bytes())
    }
}

/// Reads what a [`Writer`] wrote.
pub struct Reader<'a> {
    buf: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader of all of `buf`.
    pub fn new(buf: &'a [u8]) -> Self {
        Self { buf }
    }

    /// Takes the next `len` bytes; `EINVAL` if there are fewer.
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.buf.split_at_checked(len).ok_or(EINVAL)?;
        self.buf = rest;
        Ok(taken)
    }

    /// Takes the next `N` bytes as an array.
    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        self.bytes(N)?.try_into().map_err(|_| EINVAL)
    }

    /// Reads one byte.
    pub fn u8(&mut self) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    /// Reads a `u16`.
    pub fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// Reads a `u32`.
    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Reads a `u64`.
    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// `EINVAL` unless everything was read: a state with more than its layout is not of it.
    pub fn finish(&self) -> Result {
        if self.buf.is_empty() {
            Ok(())
        } else {
            Err(EINVAL)
        }
    }
}
