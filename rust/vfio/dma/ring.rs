// SPDX-License-Identifier: GPL-2.0

//! Guest memory of a ring: pinned where it can be, copied where it cannot.

use super::{
    guest_memory::Dma,
    pinned::PinnedRange,
    range::Access, //
};
use kernel::prelude::*;

/// Guest memory that is accessed in small pieces, such as a ring.
///
/// The memory is pinned if that is possible. Else each access is a copy by IOVA. Both ways give the
/// same results. A copy reports dirty exactly what it wrote; a pinned range is reported for as long
/// as it is pinned (P31). Only a copy may wait, in a page fault of the user's: hold no lock over an
/// access that others need, except over those that end in `_pinned`.
pub struct RingMemory {
    iova: u64,
    len: usize,
    access: Access,
    pinned: Option<PinnedRange>,
    /// It may be possible to pin it later.
    later: bool,
}

impl Dma {
    /// Gives access to `len` bytes at `iova`, and why they are not pinned if the log is to say so.
    ///
    /// Memory that nothing is mapped at, or that does not allow `access`, is refused; the errors are
    /// those of [`Dma::read`]. Memory that only cannot be pinned is copied: the user's
    /// `RLIMIT_MEMLOCK` may be too low, the memory may be a shared mapping of a file, or some of it
    /// may be about to be unmapped. In the first two cases the second value is the error of
    /// [`Dma::pin`], once for each time that the device is open.
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
    /// Pins the memory if it was unmapped, or could not be pinned for the moment. For the beginning of
    /// a step; the results are those of [`Dma::ring`].
    #[inline]
    pub fn refresh(&mut self, dma: &Dma) -> Result<Option<Error>> {
        if !self.is_pinned() && self.pinned.take().is_some() {
            // Something else may be mapped there by now.
            self.later = true;
        }
        if !self.later {
            return Ok(None);
        }
        let pinned = dma.may_pin(self.iova, self.len).and_then(|()| {
            dma.touch(self.iova, self.len)?;
            dma.pin(self.iova, self.len, self.access)
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

    /// Whether the memory is pinned. It may be unmapped at any moment.
    #[inline]
    pub fn is_pinned(&self) -> bool {
        matches!(&self.pinned, Some(range) if !range.is_revoked())
    }

    /// Hands `access` the range if it is pinned; `None` if it is not, or was unmapped meanwhile.
    fn pinned(&self, access: impl FnOnce(&PinnedRange) -> Result) -> Option<Result> {
        let result = access(self.pinned.as_ref()?);
        (result != Err(ENODEV)).then_some(result)
    }

    /// Whether this is `len` bytes at `iova`.
    #[inline]
    pub fn is(&self, iova: u64, len: usize) -> bool {
        (self.iova, self.len) == (iova, len)
    }

    /// The IOVA of `len` bytes at `offset`, which `EINVAL` refuses if they are outside.
    fn at(&self, offset: usize, len: usize) -> Result<u64> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok(self.iova + offset as u64),
            _ => Err(EINVAL),
        }
    }

    /// Copies from the memory. Errors are those of [`Dma::read`], and `EINVAL` for what is outside.
    #[inline]
    pub fn read_at(&self, dma: &Dma, offset: usize, data: &mut [u8]) -> Result {
        let iova = self.at(offset, data.len())?;
        match self.pinned(|range| range.read_at(offset, data)) {
            Some(result) => result,
            None => dma.read(iova, data),
        }
    }

    /// Copies to the memory, after what was written earlier. Errors are those of [`Dma::write`],
    /// `EINVAL` for what is outside, and `EPERM` if the memory is for reading only.
    ///
    /// A guest may see a part of a copy before the rest, also of an aligned word. So it must wait for
    /// the value it expects, not for a change.
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

    /// Copies to the memory without waiting; `ENODEV` if it is not pinned.
    #[inline]
    pub fn write_at_pinned(&self, offset: usize, data: &[u8]) -> Result {
        self.pinned.as_ref().ok_or(ENODEV)?.write_at(offset, data)
    }

    /// Writes a little-endian word without waiting, seen not before what was written earlier; `ENODEV`
    /// if the memory is not pinned.
    #[inline]
    pub fn write_u64_pinned(&self, offset: usize, value: u64) -> Result {
        self.pinned.as_ref().ok_or(ENODEV)?.write_u64(offset, value)
    }
}
