// SPDX-License-Identifier: GPL-2.0

//! Guest memory of a ring: pinned where it can be, copied where it cannot.

use super::{
    check,
    Access,
    Dma,
    PinnedRange, //
};
use kernel::{
    page::PAGE_SIZE,
    prelude::*, //
};

/// Guest memory that is accessed in small pieces, such as a ring.
///
/// The memory is pinned if that is possible. Else each access is a copy by IOVA. Both ways give the
/// same results. A copy reports dirty exactly what it wrote; a pinned range is reported for as long
/// as it is pinned (P31).
pub struct RingMemory {
    iova: u64,
    len: usize,
    access: Access,
    pinned: Option<PinnedRange>,
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
        let (pinned, reason) = match self.pin(iova, len, access) {
            Ok(range) => (Some(range), None),
            Err(error) if error == EAGAIN || error == EBUSY => (None, None),
            Err(error) if error == ENOMEM || error == EFAULT || error == E2BIG => {
                self.probe(iova, len)?;
                (None, self.tell_once().then_some(error))
            }
            Err(error) => return Err(error),
        };
        let memory = RingMemory {
            iova,
            len,
            access,
            pinned,
        };
        Ok((memory, reason))
    }

    /// Reads a byte of each page of a range: fails if some of the user's memory is not there.
    fn probe(&self, iova: u64, len: usize) -> Result {
        check(iova, len)?;
        let mut at = 0;
        while at < len {
            let byte = iova + at as u64;
            self.read(byte, &mut [0])?;
            at += PAGE_SIZE - byte as usize % PAGE_SIZE;
        }
        Ok(())
    }
}

impl RingMemory {
    /// Whether this is `len` bytes at `iova`.
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

    /// Copies from the memory. Fails with `ENODEV` if it was pinned and has been unmapped, and with
    /// the errors of [`Dma::read`].
    pub fn read_at(&self, dma: &Dma, offset: usize, data: &mut [u8]) -> Result {
        match &self.pinned {
            Some(range) => range.read_at(offset, data),
            None => dma.read(self.at(offset, data.len())?, data),
        }
    }

    /// Copies to the memory. Errors are those of [`RingMemory::read_at`], and `EPERM` if the memory is
    /// for reading only.
    pub fn write_at(&self, dma: &Dma, offset: usize, data: &[u8]) -> Result {
        match &self.pinned {
            Some(range) => range.write_at(offset, data),
            None if self.access == Access::Read => Err(EPERM),
            None => dma.write(self.at(offset, data.len())?, data),
        }
    }

    /// Writes a little-endian word, seen not before what was written earlier. Errors are those of
    /// [`RingMemory::write_at`], and `EINVAL` if the word is not aligned.
    pub fn write_u64(&self, dma: &Dma, offset: usize, value: u64) -> Result {
        match &self.pinned {
            Some(range) => range.write_u64(offset, value),
            None => {
                let iova = self.at(offset, size_of::<u64>())?;
                if iova % size_of::<u64>() as u64 != 0 {
                    return Err(EINVAL);
                }
                // type1 copies an aligned word in one access, after all that was copied before.
                self.write_at(dma, offset, &value.to_le_bytes())
            }
        }
    }
}
