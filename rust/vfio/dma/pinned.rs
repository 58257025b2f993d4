// SPDX-License-Identifier: GPL-2.0

//! A pinned range of guest memory, as its holder sees it.

use super::pins::Listed;
use core::sync::atomic::{
    AtomicU64,
    Ordering, //
};
use kernel::{
    ffi::c_void,
    prelude::*,
    sync::Arc, //
};
use vfio_bindings as bindings;

/// Guest memory that is pinned until this is dropped or the user unmaps it.
///
/// An unmap revokes the pages at once, without asking the holder (P35). Later accesses fail with
/// `ENODEV`; no access touches a page that is not pinned. An access fails with `EINVAL` if the offset is
/// outside the range or a word is not aligned, and with `EPERM` if it writes to a range that is pinned for
/// reading. The guest may access the memory at the same time.
pub struct PinnedRange {
    listed: Arc<Listed>,
}

impl PinnedRange {
    /// Returns the holder's side of a range that has just been pinned.
    pub(super) fn new(listed: Arc<Listed>) -> Self {
        Self { listed }
    }

    /// Returns the IOVA of the first byte.
    pub fn iova(&self) -> u64 {
        self.listed.range.iova()
    }

    /// Returns the number of bytes.
    #[expect(clippy::len_without_is_empty, reason = "a pinned range is never empty")]
    pub fn len(&self) -> usize {
        self.listed.range.len()
    }

    /// Returns whether the memory was unmapped. It may be unmapped at any moment.
    pub(super) fn is_revoked(&self) -> bool {
        self.listed.range.is_withdrawn()
    }

    /// Copies from the range.
    pub fn read_at(&self, offset: usize, data: &mut [u8]) -> Result {
        let len = data.len();
        let to = data.as_mut_ptr();
        self.listed.range.each(offset, len, |done, from, n| {
            // SAFETY: `done + n <= len`, and `each` guarantees `n` bytes at `from`. C copies them, so
            // they may change meanwhile.
            unsafe {
                bindings::memcpy(to.add(done).cast::<c_void>(), from.cast::<c_void>(), n);
            }
        })
    }

    /// Copies to the range.
    pub fn write_at(&self, offset: usize, data: &[u8]) -> Result {
        // SAFETY: The slice is valid for reads of its length.
        unsafe { self.write_raw_at(offset, data.as_ptr(), data.len()) }
    }

    /// [`PinnedRange::write_at`] from memory that others may access at the same time.
    ///
    /// # Safety
    ///
    /// `from` must be valid for reads of `len` bytes by C.
    pub unsafe fn write_raw_at(&self, offset: usize, from: *const u8, len: usize) -> Result {
        self.listed.range.writable()?;
        self.listed.range.each(offset, len, |done, to, n| {
            // SAFETY: As in `read_at`, with source and destination exchanged; the caller guarantees
            // `from`.
            unsafe {
                bindings::memcpy(to.cast::<c_void>(), from.add(done).cast::<c_void>(), n);
            }
        })
    }

    /// Writes a little-endian word in one access. The guest sees earlier writes before it.
    pub fn write_u64(&self, offset: usize, value: u64) -> Result {
        self.listed.range.writable()?;
        self.listed.range.word(offset, |word| {
            // SAFETY: `word` is valid and aligned, and accessed as a whole.
            unsafe { AtomicU64::from_ptr(word) }.store(value.to_le(), Ordering::Release);
        })
    }
}

impl Drop for PinnedRange {
    fn drop(&mut self) {
        self.listed.release();
    }
}
