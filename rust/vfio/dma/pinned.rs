// SPDX-License-Identifier: GPL-2.0

//! A pinned range of guest memory, as its holder has it.

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

/// Guest memory that stays where it is while this exists, or until its user unmaps it.
///
/// Unmapping is not the holder's business: it takes the pages away at once (P35). Every access after
/// that fails with `ENODEV`, and none touches a page that is not pinned. `EINVAL` is for an offset
/// that is not inside the range or a word that is not aligned, `EPERM` for a write to a range pinned
/// for reading. The guest may access the memory at the same time.
pub struct PinnedRange {
    listed: Arc<Listed>,
}

impl PinnedRange {
    /// A range that has just been pinned.
    pub(super) fn new(listed: Arc<Listed>) -> Self {
        Self { listed }
    }

    /// IOVA of the first byte.
    pub fn iova(&self) -> u64 {
        self.listed.range.iova()
    }

    /// Number of bytes.
    #[expect(clippy::len_without_is_empty, reason = "a pinned range is never empty")]
    pub fn len(&self) -> usize {
        self.listed.range.len()
    }

    /// Whether the memory was unmapped. What is not revoked may be at any moment.
    pub(super) fn is_revoked(&self) -> bool {
        self.listed.range.is_withdrawn()
    }

    /// Copies from the range.
    pub fn read_at(&self, offset: usize, data: &mut [u8]) -> Result {
        let len = data.len();
        let to = data.as_mut_ptr();
        self.listed.range.each(offset, len, |done, from, n| {
            // SAFETY: `done + n <= len`, and `each` vouches for `n` bytes at `from`. The copy is C's,
            // for which bytes that change meanwhile are just bytes.
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
            // SAFETY: As in `read_at`, the other way round; the caller vouches for `from`.
            unsafe {
                bindings::memcpy(to.cast::<c_void>(), from.add(done).cast::<c_void>(), n);
            }
        })
    }

    /// Writes a little-endian word in one access, seen not before what was written earlier.
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
