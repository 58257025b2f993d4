// SPDX-License-Identifier: GPL-2.0

//! Addresses in guest memory and in device memory.

use crate::error::Error;

/// An address: in guest memory by IOVA, or in device memory by offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Guest memory.
    Guest(u64),
    /// Device memory.
    Device(u64),
}

impl Place {
    /// Checks a range of `len` bytes, not 0, in a device with `memory_size` bytes of memory. Returns
    /// `range` for an illegal range of device memory, `fault` for one of guest memory.
    pub fn check(
        self,
        len: u64,
        memory_size: u64,
        range: Error,
        fault: Error,
    ) -> Result<(), Error> {
        match self {
            Place::Device(offset) => match offset.checked_add(len) {
                Some(end) if end <= memory_size => Ok(()),
                _ => Err(range),
            },
            // The last byte of the address space is legal.
            Place::Guest(iova) => match iova.checked_add(len.saturating_sub(1)) {
                Some(_) => Ok(()),
                None => Err(fault),
            },
        }
    }

    /// Returns the place `offset` bytes further, in a range that was checked.
    pub fn plus(self, offset: u64) -> Place {
        match self {
            Place::Guest(iova) => Place::Guest(iova.wrapping_add(offset)),
            Place::Device(at) => Place::Device(at.wrapping_add(offset)),
        }
    }
}
