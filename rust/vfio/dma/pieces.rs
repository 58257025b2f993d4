// SPDX-License-Identifier: GPL-2.0

//! How registered memory is divided into pieces that are pinned at once.
//!
//! A piece ends at a multiple of its size or at the end of the memory. So the piece with a byte is found by a
//! division.
//!
//! This file imports `core` only: it is compiled into the module and into a test in userspace.

/// The pieces of `len` bytes at `iova`, of at most `SIZE` bytes each.
///
/// # Invariants
///
/// `len` is not 0, and `iova + (len - 1)` does not wrap.
pub(super) struct Pieces<const SIZE: u64> {
    iova: u64,
    len: u64,
}

impl<const SIZE: u64> Pieces<SIZE> {
    /// Returns the pieces of a range; `None` if it is empty or wraps.
    pub(super) fn new(iova: u64, len: u64) -> Option<Self> {
        iova.checked_add(len.checked_sub(1)?)?;
        // INVARIANT: Checked above.
        Some(Self { iova, len })
    }

    /// Returns the address of the first byte.
    pub(super) fn iova(&self) -> u64 {
        self.iova
    }

    /// Returns the number of bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Returns the number of pieces.
    pub(super) fn count(&self) -> usize {
        self.index(self.len - 1) + 1
    }

    /// Returns the offset at which piece number `index` starts, and `len` for all after the last.
    #[inline]
    pub(super) fn start(&self, index: usize) -> u64 {
        let before = self.iova % SIZE;
        let start = (index as u64).saturating_mul(SIZE).saturating_sub(before);
        start.min(self.len)
    }

    /// Returns the number of the piece with the byte at `offset`, which is below `len`.
    #[inline]
    pub(super) fn index(&self, offset: u64) -> usize {
        // The sum is at most the address of the last byte, so it does not wrap.
        ((self.iova % SIZE + offset) / SIZE) as usize
    }
}
