// SPDX-License-Identifier: GPL-2.0

//! Bounded encoding and decoding of a device's own state, field by field, little endian.

use crate::error::Error;

/// Encodes a device's own state, field by field.
///
/// A field that does not fit returns [`Error::Space`] and changes nothing.
#[derive(Debug)]
pub struct Writer<'a> {
    rest: &'a mut [u8],
    len: usize,
}

impl<'a> Writer<'a> {
    /// Creates a writer that fills `buf` from its start.
    pub fn new(buf: &'a mut [u8]) -> Self {
        Writer { rest: buf, len: 0 }
    }

    /// Returns the number of bytes written.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the number of bytes that still fit.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Appends `bytes`. [`Error::Space`] if they do not fit.
    pub fn put_bytes(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let rest = core::mem::take(&mut self.rest);
        if bytes.len() > rest.len() {
            let error = Error::Space {
                needed: bytes.len() as u64,
                available: rest.len() as u64,
            };
            self.rest = rest;
            return Err(error);
        }
        let (to, rest) = rest.split_at_mut(bytes.len());
        to.copy_from_slice(bytes);
        self.rest = rest;
        // No overflow: the sum is at most the length of the buffer.
        self.len = self.len.saturating_add(bytes.len());
        Ok(())
    }

    /// Appends one byte. [`Error::Space`] if it does not fit.
    pub fn put_u8(&mut self, value: u8) -> Result<(), Error> {
        self.put_bytes(&[value])
    }

    /// Appends a u16. [`Error::Space`] if it does not fit.
    pub fn put_u16(&mut self, value: u16) -> Result<(), Error> {
        self.put_bytes(&value.to_le_bytes())
    }

    /// Appends a u32. [`Error::Space`] if it does not fit.
    pub fn put_u32(&mut self, value: u32) -> Result<(), Error> {
        self.put_bytes(&value.to_le_bytes())
    }

    /// Appends a u64. [`Error::Space`] if it does not fit.
    pub fn put_u64(&mut self, value: u64) -> Result<(), Error> {
        self.put_bytes(&value.to_le_bytes())
    }
}

/// Decodes a device's own state, field by field, in the order of [`Writer`].
///
/// A field that is not complete returns [`Error::Short`] and consumes nothing.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Creates a reader that starts at the first byte of `buf`.
    pub fn new(buf: &'a [u8]) -> Self {
        Reader { rest: buf }
    }

    /// Returns the number of bytes not yet read.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Reads `len` bytes. [`Error::Short`] if fewer are left.
    pub fn get_bytes(&mut self, len: usize) -> Result<&'a [u8], Error> {
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(Error::Short {
            needed: len as u64,
            available: self.rest.len() as u64,
        })?;
        self.rest = rest;
        Ok(bytes)
    }

    /// Reads `N` bytes. [`Error::Short`] if fewer are left.
    pub fn get_array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (array, rest) = self.rest.split_first_chunk::<N>().ok_or(Error::Short {
            needed: N as u64,
            available: self.rest.len() as u64,
        })?;
        self.rest = rest;
        Ok(*array)
    }

    /// Reads one byte. [`Error::Short`] if none is left.
    pub fn get_u8(&mut self) -> Result<u8, Error> {
        Ok(u8::from_le_bytes(self.get_array()?))
    }

    /// Reads a u16. [`Error::Short`] if it is not complete.
    pub fn get_u16(&mut self) -> Result<u16, Error> {
        Ok(u16::from_le_bytes(self.get_array()?))
    }

    /// Reads a u32. [`Error::Short`] if it is not complete.
    pub fn get_u32(&mut self) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.get_array()?))
    }

    /// Reads a u64. [`Error::Short`] if it is not complete.
    pub fn get_u64(&mut self) -> Result<u64, Error> {
        Ok(u64::from_le_bytes(self.get_array()?))
    }

    /// Ends the decoding. [`Error::Trailing`] if bytes are left after the last field.
    pub fn finish(self) -> Result<(), Error> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(Error::Trailing { left: left as u64 }),
        }
    }
}
