// SPDX-License-Identifier: GPL-2.0

//! Guest memory of a ring: pinned if possible, else copied.

use super::{
    guest_memory::Dma,
    pinned::PinnedRange,
    range::Access, //
};
use kernel::prelude::*;

/// Guest memory that is accessed in small pieces, such as a ring.
///
/// The memory is pinned if that is possible. Else each access is a copy by IOVA. Both give the same
/// results. type1 reports exactly the pages that a copy wrote, and a pinned range for as long as it is
/// pinned (P31). A copy may wait in a page fault of the user, so hold no lock over an access that others
/// need. The functions that end in `_pinned` do not wait.
pub struct RingMemory {
    iova: u64,
    len: usize,
    access: Access,
    pinned: Option<PinnedRange>,
    /// Whether pinning may succeed later.
    later: bool,
}

impl Dma {
    /// Returns access to `len` bytes at `iova`, and the error to log if they cannot be pinned.
    ///
    /// IOVAs that are not mapped, or whose mapping does not allow `access`, are refused with the errors
    /// of [`Dma::read`]. Memory that cannot be pinned is copied: the user's `RLIMIT_MEMLOCK` may be too
    /// low, the memory may be a shared mapping of a file, or a part of it may be about to be unmapped.
    /// In the first two cases the second value is the error of [`Dma::pin`], once for each open.
    pub fn ring(
        &self,
        iova: u64,
        len: usize,
        access: Access,
    ) -> Result<(RingMemory, Option<Error>)> {
        let mut memory = RingMemory {
            iova,
            len,
            access,
            pinned: None,
            later: true,
        };
        let reason = memory.refresh(self)?;
        Ok((memory, reason))
    }
}

impl RingMemory {
    /// Tries to pin memory that was unmapped or could not be pinned before. Call it at the beginning of a
    /// unit of work. The results are those of [`Dma::ring`].
    #[inline]
    pub fn refresh(&mut self, dma: &Dma) -> Result<Option<Error>> {
        if !self.is_pinned() && self.pinned.take().is_some() {
            // Other memory may be mapped there by now.
            self.later = true;
        }
        if !self.later {
            return Ok(None);
        }
        let pinned = dma.may_pin(self.iova, self.len).and_then(|()| {
            dma.touch(self.iova, self.len)?;
            dma.pin(self.iova, self.len, self.access, None)
        });
        match pinned {
            Ok(range) => {
                self.pinned = Some(range);
                self.later = false;
                Ok(None)
            }
            Err(error) if error == EAGAIN || error == EBUSY => Ok(None),
            Err(error) if error == ENOMEM || error == EFAULT || error == E2BIG => {
                self.later = false;
                Ok(dma.tell_once().then_some(error))
            }
            Err(error) => Err(error),
        }
    }

    /// Returns whether the memory is pinned. It may be unmapped at any moment.
    #[inline]
    pub fn is_pinned(&self) -> bool {
        matches!(&self.pinned, Some(range) if !range.is_revoked())
    }

    /// Calls `access` with the pinned range. `None` if it is not pinned, or was unmapped meanwhile.
    fn pinned(&self, access: impl FnOnce(&PinnedRange) -> Result) -> Option<Result> {
        let result = access(self.pinned.as_ref()?);
        (result != Err(ENODEV)).then_some(result)
    }

    /// Returns whether this is the memory of `len` bytes at `iova`.
    #[inline]
    pub fn is(&self, iova: u64, len: usize) -> bool {
        (self.iova, self.len) == (iova, len)
    }

    /// Returns the IOVA of `len` bytes at `offset`. `EINVAL` if they are outside.
    fn at(&self, offset: usize, len: usize) -> Result<u64> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok(self.iova + offset as u64),
            _ => Err(EINVAL),
        }
    }

    /// Copies from the memory. Errors are those of [`Dma::read`], and `EINVAL` for bytes outside.
    #[inline]
    pub fn read_at(&self, dma: &Dma, offset: usize, data: &mut [u8]) -> Result {
        let iova = self.at(offset, data.len())?;
        match self.pinned(|range| range.read_at(offset, data)) {
            Some(result) => result,
            None => dma.read(iova, data),
        }
    }

    /// Copies to the memory. The guest sees earlier writes first. Errors are those of [`Dma::write`],
    /// `EINVAL` for bytes outside, and `EPERM` if the memory is for reading only.
    ///
    /// A guest may see a part of a copy before the rest, also of an aligned word. So it must wait for the
    /// value that it expects, not for any change.
    pub fn write_at(&self, dma: &Dma, offset: usize, data: &[u8]) -> Result {
        if self.access == Access::Read {
            return Err(EPERM);
        }
        let iova = self.at(offset, data.len())?;
        match self.pinned(|range| range.write_at(offset, data)) {
            Some(result) => result,
            None => dma.write(iova, data),
        }
    }

    /// Copies to the memory without waiting. `ENODEV` if it is not pinned.
    #[inline]
    pub fn write_at_pinned(&self, offset: usize, data: &[u8]) -> Result {
        self.pinned.as_ref().ok_or(ENODEV)?.write_at(offset, data)
    }

    /// Writes a little-endian word without waiting. The guest sees earlier writes first. `ENODEV` if the
    /// memory is not pinned.
    #[inline]
    pub fn write_u64_pinned(&self, offset: usize, value: u64) -> Result {
        self.pinned.as_ref().ok_or(ENODEV)?.write_u64(offset, value)
    }
}
