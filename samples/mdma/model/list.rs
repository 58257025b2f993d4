// SPDX-License-Identifier: GPL-2.0

//! Scatter lists: layout of an entry, and the position of a job in a list.
//!
//! A list is an array of entries in guest memory. Each is a range of guest or device memory; in this
//! order they are the source or the destination of a job. The device reads up to [`WINDOW`] at once.

use crate::error::{Error, Result};
use crate::layout::{dense, Decoder, Field};
use crate::place::Place;

/// Size of an entry in bytes, and the alignment of a list.
pub const ENTRY_SIZE: usize = 16;

/// The most entries of one list.
pub const MAX_ENTRIES: u32 = 4096;

/// The most entries read at once, and the most pieces in a unit of a job with a list.
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
/// An entry from [`Entry::decode`] is not empty. [`Place::check`] checks its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Start of the range.
    pub place: Place,
    /// Length in bytes.
    pub len: u32,
}

impl Entry {
    /// Decodes the bytes of an entry and checks everything except its range.
    #[inline]
    pub fn decode(bytes: &[u8; ENTRY_SIZE]) -> Result<Entry> {
        let mut from = Decoder(bytes);
        let (address, len) = (from.u64(), from.u32());
        let place = match from.u32() {
            0 => Place::Guest(address),
            DEVICE => Place::Device(address),
            _ => return Err(Error::BadList),
        };
        // INVARIANT: Checked here.
        Error::BadList.unless(len != 0)?;
        Ok(Entry { place, len })
    }

    /// Returns the bytes of the entry.
    pub fn encode(&self) -> [u8; ENTRY_SIZE] {
        let (address, flags) = match self.place {
            Place::Guest(iova) => (iova, 0),
            Place::Device(offset) => (offset, DEVICE),
            // A list cannot name registered memory: the device refuses the entry.
            Place::Key { offset, .. } => (offset, !0),
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
    /// Checks the position and the length of the list, but not its entries.
    #[inline]
    pub fn check(&self) -> Result {
        let bytes = u64::from(self.entries) * ENTRY_SIZE as u64;
        let legal = (1..=MAX_ENTRIES).contains(&self.entries)
            && self.base % ENTRY_SIZE as u64 == 0
            && self.base.checked_add(bytes - 1).is_some();
        Error::BadList.unless(legal)
    }

    /// Returns the IOVA of an entry; the list must be checked.
    #[inline]
    pub fn entry_at(&self, index: u32) -> u64 {
        self.base.wrapping_add(u64::from(index) * ENTRY_SIZE as u64)
    }
}

/// The position in a list at which a job continues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Index of the entry; the number of entries after the last one.
    pub entry: u32,
    /// Bytes of this entry that are processed: fewer than its length.
    pub at: u32,
}

impl Cursor {
    /// Advances by `len` bytes, at most the rest of `entry`, which is the current entry.
    #[inline]
    pub fn advance(&mut self, entry: &Entry, len: usize) {
        // No overflow: a piece is not longer than its entry.
        self.at = self.at.wrapping_add(len as u32);
        if self.at >= entry.len {
            self.entry += 1;
            self.at = 0;
        }
    }

    /// Returns whether a job that has processed `done` bytes can be at this position in a list of
    /// `entries` entries.
    pub fn possible(&self, entries: u32, done: u64) -> bool {
        let before = u64::from(self.entry);
        let at = u64::from(self.at);

        // Each entry before has at least one byte, and at most what its length field can hold.
        self.entry <= entries
            && (self.entry < entries || self.at == 0)
            && before + at <= done
            && done <= before * u64::from(u32::MAX) + at
    }
}
