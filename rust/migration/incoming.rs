// SPDX-License-Identifier: GPL-2.0

//! A section of a load that the user writes with `write()`.
//!
//! The users of the older generations announce the size of trapped data before they write it, and of
//! mapped data after. v1 settled for "after". An [`Incoming`] accepts both orders: a section is loaded
//! when it was announced and all of its bytes have arrived.

/// The section that arrives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Incoming {
    /// Its size, if it was announced.
    announced: Option<u64>,
    /// The bytes from its start on that have arrived without a gap.
    arrived: u64,
}

impl Incoming {
    /// Returns the size of the section that is announced and not complete.
    pub const fn announced(&self) -> Option<u64> {
        self.announced
    }

    /// Returns how many bytes have arrived from the start of the section.
    pub const fn arrived(&self) -> u64 {
        self.arrived
    }

    /// The user announces a section of `size` bytes. Returns its size if it is complete.
    pub fn announce(&mut self, size: u64) -> Option<u64> {
        self.announced = Some(size);
        self.take()
    }

    /// The user has written `len` bytes at `offset` of the section. Returns the section's size if it is
    /// complete.
    ///
    /// Bytes behind a gap do not count: the user has to write them again.
    pub fn arrive(&mut self, offset: u64, len: u64) -> Option<u64> {
        if offset <= self.arrived {
            self.arrived = self.arrived.max(offset.saturating_add(len));
        }
        self.take()
    }

    /// Begins a new section if this one is complete.
    fn take(&mut self) -> Option<u64> {
        let size = self.announced.filter(|size| self.arrived >= *size)?;
        *self = Self::default();
        Some(size)
    }
}
