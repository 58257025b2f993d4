// SPDX-License-Identifier: GPL-2.0

//! Offsets in the device file.
//!
//! A region's index is in the upper bits of its offset, as in vfio-pci.

/// The bits of a file offset below the region index.
pub const INDEX_SHIFT: u32 = 40;

/// A file offset, split.
#[derive(Clone, Copy)]
pub struct Position {
    /// Index of the region; not checked.
    pub index: u64,
    /// Offset in it.
    pub offset: u64,
}

impl Position {
    /// Splits a file offset.
    pub fn new(pos: u64) -> Self {
        Self {
            index: pos >> INDEX_SHIFT,
            offset: pos & ((1 << INDEX_SHIFT) - 1),
        }
    }
}
