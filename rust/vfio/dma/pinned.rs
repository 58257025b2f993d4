// SPDX-License-Identifier: GPL-2.0

//! A pinned range of guest memory, as its holder sees it.

use super::{
    list::Listed,
    pins::Pins, //
};
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
pub(super) struct PinnedRange {
    listed: Arc<Listed>,
    /// The list that it is in.
    pins: Arc<Pins>,
}

impl PinnedRange {
    /// Returns the holder's side of a range that has just been pinned.
    pub(super) fn new(pins: Arc<Pins>, listed: Arc<Listed>) -> Self {
        Self { listed, pins }
    }

    /// Logs that the device has written `len` bytes at `offset`.
    #[inline]
    fn wrote(&self, offset: usize, len: usize) {
        let iova = self.listed.range.iova() + offset as u64;
        self.pins.logging.wrote(iova, len);
    }

    /// Passes the point at which copies of a device can be made to fail. Call it once for each copy.
    #[inline]
    pub(super) fn pass_fault(&self) -> Result {
        self.pins.faults.dma.pass(EFAULT)
    }

    /// Returns whether the memory was unmapped. It may be unmapped at any moment.
    pub(super) fn is_revoked(&self) -> bool {
        self.listed.range.is_withdrawn()
    }

    /// Copies from the range.
    #[inline]
    pub(super) fn read_at(&self, offset: usize, data: &mut [u8]) -> Result {
        // SAFETY: The slice is valid for writes of its length.
        unsafe { self.read_raw_at(offset, data.as_mut_ptr(), data.len()) }
    }

    /// [`PinnedRange::read_at`] to memory that others may access at the same time.
    ///
    /// # Safety
    ///
    /// `to` must be valid for writes of `len` bytes by C.
    #[inline]
    pub(super) unsafe fn read_raw_at(&self, offset: usize, to: *mut u8, len: usize) -> Result {
        let (_, result) = self.listed.range.each(offset, len, |done, from, n| {
            // SAFETY: `done + n <= len`, and `each` guarantees `n` bytes at `from`. C copies them, so
            // they may change meanwhile.
            unsafe {
                bindings::memcpy(to.add(done).cast::<c_void>(), from.cast::<c_void>(), n);
            }
        });
        result
    }

    /// Returns `crc` continued over bytes of the range.
    pub(super) fn crc32c_at(&self, offset: usize, len: usize, mut crc: u32) -> Result<u32> {
        let (_, result) = self.listed.range.each(offset, len, |_, from, n| {
            // SAFETY: `each` guarantees `n` bytes at `from`. C reads them, so they may change meanwhile.
            crc = unsafe { bindings::crc32c(crc, from.cast::<c_void>(), n) };
        });
        result.map(|()| crc)
    }

    /// Fills bytes of the range with repetitions of `value`, little endian.
    pub(super) fn fill_at(&self, offset: usize, len: usize, value: u64) -> Result {
        self.listed.range.writable()?;
        let (done, result) = self.listed.range.each(offset, len, |done, to, n| {
            // Rotate so that the next byte of `value` comes first.
            let value = value.rotate_right(8 * (done % size_of::<u64>()) as u32);
            // SAFETY: `each` guarantees `n` bytes at `to`.
            unsafe { fill(to, n, value) };
        });
        self.wrote(offset, done);
        result
    }

    /// Copies to the range.
    #[inline]
    pub(super) fn write_at(&self, offset: usize, data: &[u8]) -> Result {
        // SAFETY: The slice is valid for reads of its length.
        unsafe { self.write_raw_at(offset, data.as_ptr(), data.len()) }
    }

    /// [`PinnedRange::write_at`] from memory that others may access at the same time.
    ///
    /// # Safety
    ///
    /// `from` must be valid for reads of `len` bytes by C.
    #[inline]
    pub(super) unsafe fn write_raw_at(&self, offset: usize, from: *const u8, len: usize) -> Result {
        self.listed.range.writable()?;
        let (done, result) = self.listed.range.each(offset, len, |done, to, n| {
            // SAFETY: As in `read_raw_at`, with source and destination exchanged; the caller guarantees
            // `from`.
            unsafe {
                bindings::memcpy(to.cast::<c_void>(), from.add(done).cast::<c_void>(), n);
            }
        });
        self.wrote(offset, done);
        result
    }

    /// Writes a little-endian word in one access. The guest sees earlier writes before it.
    pub(super) fn write_u64(&self, offset: usize, value: u64) -> Result {
        self.listed.range.writable()?;
        self.listed.range.word(offset, |word| {
            // SAFETY: `word` is valid and aligned, and accessed as a whole.
            unsafe { AtomicU64::from_ptr(word) }.store(value.to_le(), Ordering::Release);
        })?;
        self.wrote(offset, size_of::<u64>());
        Ok(())
    }
}

/// Fills `len` bytes with repetitions of `value`, little endian, at memory that others may access at the same time.
///
/// # Safety
///
/// `to` must be valid for writes of `len` bytes by C.
unsafe fn fill(to: *mut u8, len: usize, value: u64) {
    let copy = |at: usize, value: u64, n: usize| {
        let bytes = value.to_le_bytes();
        // SAFETY: `n` is less than the size of the word, and the callers below have `at + n <= len`.
        unsafe {
            let to = to.add(at).cast::<c_void>();
            bindings::memcpy(to, bytes.as_ptr().cast::<c_void>(), n);
        }
    };
    let rotated = |bytes: usize| value.rotate_right(8 * (bytes % size_of::<u64>()) as u32);
    let head = to.align_offset(size_of::<u64>()).min(len);
    copy(0, value, head);
    let words = (len - head) / size_of::<u64>();
    // SAFETY: These words are among the `len` bytes, and aligned. C writes them, so they may change meanwhile.
    unsafe { bindings::vfio_rs_memset64(to.add(head).cast::<u64>(), rotated(head).to_le(), words) };
    let done = head + words * size_of::<u64>();
    copy(done, rotated(done), len - done);
}

impl Drop for PinnedRange {
    fn drop(&mut self) {
        self.pins.release(&self.listed);
    }
}
