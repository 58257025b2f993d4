// SPDX-License-Identifier: GPL-2.0

//! A FIFO of bytes, as part of a device's state.

use crate::{
    fields::Field,
    stream::{
        Reader,
        Writer, //
    },
};
use kernel::prelude::*;

/// At most `N` bytes, in order. `N` is less than 65536.
///
/// # Invariants
///
/// `len` is at most `N`.
#[derive(Clone, Copy)]
pub struct Fifo<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Default for Fifo<N> {
    fn default() -> Self {
        // INVARIANT: It is empty.
        Self {
            bytes: [0; N],
            len: 0,
        }
    }
}

impl<const N: usize> Fifo<N> {
    /// Returns the number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a byte. Returns whether there was room.
    pub fn push(&mut self, byte: u8) -> bool {
        let Some(slot) = self.bytes.get_mut(self.len) else {
            return false;
        };
        *slot = byte;
        // INVARIANT: There is a slot with the former length as its index.
        self.len += 1;
        true
    }

    /// Returns the first byte, or 0 if there is none.
    pub fn first(&self) -> u8 {
        self.iter().next().unwrap_or(0)
    }

    /// Removes the first byte, and returns it; returns 0 if there is none.
    pub fn pop(&mut self) -> u8 {
        let first = self.first();
        if self.len != 0 {
            self.bytes.copy_within(1.., 0);
            // INVARIANT: It becomes smaller.
            self.len -= 1;
        }
        first
    }

    /// Keeps the first `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        // INVARIANT: It does not become larger.
        self.len = self.len.min(len);
    }

    /// Returns the bytes, the first one first.
    pub fn iter(&self) -> impl Iterator<Item = u8> + '_ {
        self.bytes.iter().take(self.len).copied()
    }
}

/// Saved as the number of bytes, and `N` bytes of which those that are not used are 0.
impl<const N: usize> Field for Fifo<N> {
    const SIZE: usize = 2 + N;

    fn save(&self, out: &mut Writer<'_>) -> Result {
        out.put_u16(self.len as u16)?;
        (0..N).try_for_each(|i| Ok(out.put_u8(self.iter().nth(i).unwrap_or(0))?))
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self> {
        let len = usize::from(input.get_u16()?);
        let bytes = input.get_array()?;
        if len > N {
            return Err(input.illegal("number of bytes in a FIFO").into());
        }
        // INVARIANT: Checked above.
        Ok(Self { bytes, len })
    }
}
