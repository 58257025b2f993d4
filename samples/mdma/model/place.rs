// SPDX-License-Identifier: GPL-2.0

//! Addresses in guest memory, registered memory and device memory.

use crate::error::{Error, Result};

/// An address: in guest memory by IOVA, in device memory by offset, or in registered memory by key and
/// offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Guest memory.
    Guest(u64),
    /// Device memory.
    Device(u64),
    /// Registered memory.
    Key {
        /// The key.
        key: u32,
        /// The offset in the memory.
        offset: u64,
    },
}

impl Place {
    /// Checks a range of `len` bytes, not 0, in a device with `memory_size` bytes of memory. Returns
    /// `range` for an illegal range of device memory, `fault` for one of guest memory.
    #[inline]
    pub fn check(self, len: u64, memory_size: u64, range: Error, fault: Error) -> Result {
        match self {
            Place::Device(offset) => {
                let end = offset.checked_add(len);
                range.unless(end.is_some_and(|end| end <= memory_size))
            }
            // The last byte of the address space is legal.
            Place::Guest(iova) => fault.unless(iova.checked_add(len.saturating_sub(1)).is_some()),
            // The engine looks for the key when the job begins.
            Place::Key { offset, .. } => Error::KeyRange.unless(offset.checked_add(len).is_some()),
        }
    }

    /// Returns the place `offset` bytes further, in a range that was checked.
    pub fn plus(self, offset: u64) -> Place {
        match self {
            Place::Guest(iova) => Place::Guest(iova.wrapping_add(offset)),
            Place::Device(at) => Place::Device(at.wrapping_add(offset)),
            Place::Key { key, offset: at } => Place::Key {
                key,
                offset: at.wrapping_add(offset),
            },
        }
    }
}
