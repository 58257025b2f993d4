// SPDX-License-Identifier: GPL-2.0

//! Registered memory: guest memory that is pinned once and used often.
//!
//! The memory is pinned in ranges of up to 2 MiB that end at multiples of 2 MiB, one for each call of
//! [`RegisteredMemory::pin_next`]. So the caller can spread a large registration over units of work, and
//! an access finds its range by a division.

use super::{
    guest_memory::Dma,
    list::{
        Unmapped,
        MAX_BYTES,
        MAX_REGISTERED, //
    },
    pieces::Pieces,
    pinned::PinnedRange,
    range::Access, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};
use kernel_ext::sched::{
    cond_resched,
    not_killed, //
};

/// Guest memory that is pinned once and used often.
///
/// It remains pinned until it is dropped, the user unmaps a part of it, or the device is closed. An unmap
/// unpins the ranges of up to 2 MiB that overlap the unmapped memory, without asking the holder (P35). From
/// then on all accesses fail with `ENODEV`, also to the rest, and [`RegisteredMemory::is_unmapped`] says
/// why.
///
/// Accesses fail with `EINVAL` if a byte is outside the memory, with `EPERM` if they write to memory that
/// is registered for reading, and with `ENODEV` if not all of the memory is pinned. The guest may access
/// the memory at the same time. No access waits for a page fault.
pub struct RegisteredMemory {
    pieces: Pieces<{ MAX_BYTES as u64 }>,
    access: Access,
    /// The pinned pieces, in order, from the first.
    pinned: KVVec<PinnedRange>,
    /// Whether the user has unmapped a part.
    unmapped: Arc<Unmapped>,
}

impl RegisteredMemory {
    /// Returns the registration of `len` bytes at `iova`. Nothing is pinned yet.
    ///
    /// If `unmapped`, a part of the memory was unmapped before the device was saved: it cannot be used.
    /// `EOVERFLOW` if the range wraps, `EINVAL` if it is empty, and `EBUSY` if it is more than any device may
    /// register.
    pub fn new(iova: u64, len: u64, access: Access, unmapped: bool) -> Result<Self> {
        if len == 0 {
            return Err(EINVAL);
        }
        let pieces = Pieces::new(iova, len).ok_or(EOVERFLOW)?;
        if pieces.count() > MAX_REGISTERED {
            return Err(EBUSY);
        }
        Ok(Self {
            pieces,
            access,
            pinned: KVVec::new(),
            unmapped: Unmapped::new(unmapped)?,
        })
    }

    /// Returns the IOVA of the first byte.
    pub fn iova(&self) -> u64 {
        self.pieces.iova()
    }

    /// Returns the number of bytes.
    #[expect(
        clippy::len_without_is_empty,
        reason = "registered memory is never empty"
    )]
    pub fn len(&self) -> u64 {
        self.pieces.len()
    }

    /// Returns the access that it is registered for.
    pub fn access(&self) -> Access {
        self.access
    }

    /// Returns whether the user has unmapped a part of it. It may be unmapped at any moment.
    pub fn is_unmapped(&self) -> bool {
        self.unmapped.get()
    }

    /// Marks it as unusable, as an unmap does.
    pub fn set_unmapped(&self) {
        self.unmapped.set();
    }

    /// Returns how many bytes from the start are pinned.
    pub fn pinned(&self) -> u64 {
        self.pieces.start(self.pinned.len())
    }

    /// Returns whether all of it was pinned.
    #[inline]
    pub fn is_pinned(&self) -> bool {
        self.pinned() == self.len()
    }

    /// Pins the next range, of at most 2 MiB, and returns whether all of the memory is pinned.
    ///
    /// Errors are those of [`Dma::read`] and:
    ///
    /// - `EBUSY`: the device has registered as much as it may.
    /// - `EAGAIN`: memory there is being unmapped: try again later.
    /// - `ENODEV`: a part of the memory was unmapped.
    /// - `ENOMEM`: the user's `RLIMIT_MEMLOCK` is reached, or was reached in the last ten seconds, or there
    ///   is no memory.
    /// - `EINTR`: the task is killed.
    /// - `EFAULT`: the memory cannot be pinned, because it is a shared mapping of a file or another
    ///   device's BAR.
    ///
    /// # Context
    ///
    /// May wait for a page of the user's memory, and can be killed while it does.
    pub fn pin_next(&mut self, dma: &Dma) -> Result<bool> {
        not_killed()?;
        cond_resched();
        if self.is_unmapped() {
            return Err(ENODEV);
        }
        let start = self.pieces.start(self.pinned.len());
        let end = self.pieces.start(self.pinned.len() + 1);
        if start < end {
            let (iova, len) = (self.iova() + start, (end - start) as usize);
            self.pinned.reserve(1, GFP_KERNEL_ACCOUNT)?;
            dma.touch(iova, len)?;
            let range = dma.pin(iova, len, self.access, Some(self.unmapped.clone()))?;
            self.pinned.push(range, GFP_KERNEL_ACCOUNT)?;
        }
        Ok(self.is_pinned())
    }

    /// Unpins up to `count` ranges, the last first, and returns whether any is left.
    pub fn unpin(&mut self, count: usize) -> bool {
        for _ in 0..count {
            if self.pinned.pop().is_none() {
                return false;
            }
            cond_resched();
        }
        !self.pinned.is_empty()
    }

    /// Calls `access` with each pinned range of `len` bytes at `offset`, the offset in that range, the
    /// number of bytes there, and the number of bytes before.
    #[inline]
    fn each(
        &self,
        offset: u64,
        len: usize,
        mut access: impl FnMut(&PinnedRange, usize, usize, usize) -> Result,
    ) -> Result {
        match offset.checked_add(len as u64) {
            Some(end) if end <= self.len() => (),
            _ => return Err(EINVAL),
        }
        if self.is_unmapped() || !self.is_pinned() {
            return Err(ENODEV);
        }
        if let Some(first) = self.pinned.first() {
            first.pass_fault()?;
        }
        let mut done = 0;
        while done < len {
            let at = offset + done as u64;
            let index = self.pieces.index(at);
            let range = self.pinned.get(index).ok_or(ENODEV)?;
            let within = at - self.pieces.start(index);
            let n = (self.pieces.start(index + 1) - at).min((len - done) as u64) as usize;
            access(range, within as usize, n, done)?;
            done += n;
        }
        Ok(())
    }

    /// Copies from the memory.
    #[inline]
    pub fn read_at(&self, offset: u64, data: &mut [u8]) -> Result {
        // SAFETY: The slice is valid for writes of its length.
        unsafe { self.read_raw_at(offset, data.as_mut_ptr(), data.len()) }
    }

    /// [`RegisteredMemory::read_at`] to memory that others may access at the same time.
    ///
    /// # Safety
    ///
    /// `to` must be valid for writes of `len` bytes by C.
    #[inline]
    pub unsafe fn read_raw_at(&self, offset: u64, to: *mut u8, len: usize) -> Result {
        self.each(offset, len, |range, at, n, done| {
            // SAFETY: `done + n <= len`, so the caller guarantees these bytes.
            unsafe { range.read_raw_at(at, to.add(done), n) }
        })
    }

    /// Copies to the memory. The pages that were written before an error are logged as well.
    #[inline]
    pub fn write_at(&self, offset: u64, data: &[u8]) -> Result {
        // SAFETY: The slice is valid for reads of its length.
        unsafe { self.write_raw_at(offset, data.as_ptr(), data.len()) }
    }

    /// [`RegisteredMemory::write_at`] from memory that others may access at the same time.
    ///
    /// # Safety
    ///
    /// `from` must be valid for reads of `len` bytes by C.
    #[inline]
    pub unsafe fn write_raw_at(&self, offset: u64, from: *const u8, len: usize) -> Result {
        self.each(offset, len, |range, at, n, done| {
            // SAFETY: `done + n <= len`, so the caller guarantees these bytes.
            unsafe { range.write_raw_at(at, from.add(done), n) }
        })
    }

    /// Fills `len` bytes of the memory with repetitions of `value`, little endian. The pages that were written
    /// before an error are logged as well.
    pub fn fill_at(&self, offset: u64, len: usize, value: u64) -> Result {
        self.each(offset, len, |range, at, n, done| {
            range.fill_at(at, n, value.rotate_right(8 * (done % 8) as u32))
        })
    }

    /// Returns `crc` continued over `len` bytes of the memory by CRC-32C.
    pub fn crc32c_at(&self, offset: u64, len: usize, mut crc: u32) -> Result<u32> {
        self.each(offset, len, |range, at, n, _| {
            crc = range.crc32c_at(at, n, crc)?;
            Ok(())
        })?;
        Ok(crc)
    }
}

impl Drop for RegisteredMemory {
    fn drop(&mut self) {
        self.unpin(usize::MAX);
    }
}
