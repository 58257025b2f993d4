// SPDX-License-Identifier: GPL-2.0

//! Scatter lists: layout of an entry, and where a job stands in a list.
//!
//! A list is an array of entries in guest memory. Each names a range, of guest memory or of device
//! memory; together they are the source or the destination of a job, in their order. The device
//! reads entries as it comes to them, up to [`WINDOW`] at a time.

use crate::error::Error;
use crate::layout::{dense, Field};
use crate::place::Place;

/// Size of an entry in bytes, and the alignment of a list.
pub const ENTRY_SIZE: usize = 16;

/// The most entries of one list.
pub const MAX_ENTRIES: u32 = 4096;

/// The most entries read at once, and the most pieces a unit of a job with a list is made of.
pub const WINDOW: u32 = 32;

/// Flag of an entry: `address` is an offset in the device memory.
pub const DEVICE: u32 = 1 << 0;

/// Layout of an entry.
#[rustfmt::skip]
pub const ENTRY: [Field; 3] = [
    Field { name: "address", offset: 0, size: 8, meaning: "An IOVA, or with bit 0 of flags an offset in the device memory." },
    Field { name: "len", offset: 8, size: 4, meaning: "Bytes, not 0." },
    Field { name: "flags", offset: 12, size: 4, meaning: "Bit 0: DEVICE. Others 0." },
];

const _: () = assert!(dense(&ENTRY, ENTRY_SIZE));

/// One entry.
///
/// # Invariants
///
/// What [`Entry::decode`] returns is not empty. Its range is checked by [`Place::check`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where the range begins.
    pub place: Place,
    /// Bytes in it.
    pub len: u32,
}

impl Entry {
    /// Decodes the bytes of an entry and checks all but its range.
    pub fn decode(bytes: &[u8; ENTRY_SIZE]) -> Result<Entry, Error> {
        let [a, b, c, d, e, f, g, h, l0, l1, l2, l3, f0, f1, f2, f3] = *bytes;
        let address = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        let len = u32::from_le_bytes([l0, l1, l2, l3]);
        let place = match u32::from_le_bytes([f0, f1, f2, f3]) {
            0 => Place::Guest(address),
            DEVICE => Place::Device(address),
            _ => return Err(Error::BadList),
        };
        if len == 0 {
            return Err(Error::BadList);
        }
        // INVARIANT: Checked just above.
        Ok(Entry { place, len })
    }

    /// Returns the bytes of the entry.
    pub fn encode(&self) -> [u8; ENTRY_SIZE] {
        let (address, flags) = match self.place {
            Place::Guest(iova) => (iova, 0),
            Place::Device(offset) => (offset, DEVICE),
        };
        let mut bytes = [0; ENTRY_SIZE];
        bytes[0..8].copy_from_slice(&address.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12..16].copy_from_slice(&flags.to_le_bytes());
        bytes
    }
}

/// A list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct List {
    /// IOVA of the first entry.
    pub base: u64,
    /// Number of entries.
    pub entries: u32,
}

impl List {
    /// Checks where the list is and how long, but none of its entries.
    pub fn check(&self) -> Result<(), Error> {
        let bytes = u64::from(self.entries) * ENTRY_SIZE as u64;
        let legal = 0 < self.entries
            && self.entries <= MAX_ENTRIES
            && self.base % ENTRY_SIZE as u64 == 0
            && self.base.checked_add(bytes - 1).is_some();
        if legal {
            Ok(())
        } else {
            Err(Error::BadList)
        }
    }

    /// Returns the IOVA of an entry of a list that was checked.
    pub fn entry_at(&self, index: u32) -> u64 {
        self.base.wrapping_add(u64::from(index) * ENTRY_SIZE as u64)
    }
}

/// The byte of a list at which a job goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Index of the entry; the number of entries once all are used up.
    pub entry: u32,
    /// Bytes of that entry which are processed, fewer than it has.
    pub at: u32,
}

impl Cursor {
    /// Goes `len` bytes on, which are left in `entry`, the one at which the cursor is.
    pub fn advance(&mut self, entry: &Entry, len: usize) {
        // What a piece has, an entry has: it fits.
        self.at = self.at.wrapping_add(len as u32);
        if self.at >= entry.len {
            self.entry += 1;
            self.at = 0;
        }
    }

    /// Returns whether a job that has processed `done` bytes can be here in a list of `entries`.
    pub fn possible(&self, entries: u32, done: u64) -> bool {
        let before = u64::from(self.entry);
        let at = u64::from(self.at);

        // The entries before have a byte at least, and as many as their length can say at most.
        self.entry <= entries
            && (self.entry < entries || self.at == 0)
            && before + at <= done
            && done <= before * u64::from(u32::MAX) + at
    }
}
