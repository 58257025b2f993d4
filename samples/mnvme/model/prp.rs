// SPDX-License-Identifier: GPL-2.0

//! PRP entries and lists: where the data of a command is in guest memory.

use crate::host::Host;
use crate::status::Status;
use crate::{PAGE, TRANSFER_MAX};

/// The most pages of a transfer that does not begin at the start of a page.
const PAGES_MAX: usize = TRANSFER_MAX / PAGE + 1;

/// Bytes of an entry of a list.
const ENTRY: usize = 8;

/// The pages of a transfer.
pub struct Prps {
    /// IOVAs: the first may be inside a page, the others are starts of pages.
    pages: [u64; PAGES_MAX],
    /// Bytes of the transfer.
    len: usize,
}

impl Prps {
    /// Reads the entries for a transfer of `len` bytes, and checks all of them.
    pub fn new(host: &impl Host, prp1: u64, prp2: u64, len: usize) -> Result<Self, Status> {
        if len > TRANSFER_MAX {
            return Err(Status::InvalidField);
        }
        if prp1 % 4 != 0 {
            return Err(Status::InvalidPrpOffset);
        }
        let mut pages = [0; PAGES_MAX];
        pages[0] = prp1;
        let count = (offset(prp1) + len).div_ceil(PAGE);
        match count {
            0 | 1 => {}
            2 => pages[1] = whole(prp2)?,
            _ => read_list(host, prp2, &mut pages[1..count])?,
        }
        Ok(Self { pages, len })
    }

    /// Hands the pieces of the first `len` bytes to `each`: the IOVA, the number of bytes before the
    /// piece, and its length.
    pub fn for_each(
        &self,
        len: usize,
        mut each: impl FnMut(u64, usize, usize) -> Result<(), Status>,
    ) -> Result<(), Status> {
        let len = len.min(self.len);
        let mut done = 0;
        for page in self.pages {
            if done == len {
                break;
            }
            let n = (PAGE - offset(page)).min(len - done);
            each(page, done, n)?;
            done += n;
        }
        Ok(())
    }

    /// Copies to guest memory.
    pub fn write(&self, host: &impl Host, data: &[u8]) -> Result<(), Status> {
        self.for_each(data.len(), |iova, done, n| {
            Ok(host.write(iova, &data[done..done + n])?)
        })
    }

    /// Copies from guest memory, from byte `at` of the transfer on.
    pub fn read(&self, host: &impl Host, at: usize, data: &mut [u8]) -> Result<(), Status> {
        let end = at + data.len();
        self.for_each(end, |iova, done, n| {
            let first = at.max(done);
            if first < done + n {
                let skip = (first - done) as u64;
                host.read(iova + skip, &mut data[first - at..done + n - at])?;
            }
            Ok(())
        })
    }
}

/// Returns the offset of an IOVA in its page.
fn offset(iova: u64) -> usize {
    iova as usize % PAGE
}

/// Refuses an entry that is not the start of a page.
fn whole(iova: u64) -> Result<u64, Status> {
    match offset(iova) {
        0 => Ok(iova),
        _ => Err(Status::InvalidPrpOffset),
    }
}

/// Reads the entries of a list. The last entry of a page of the list points to the next page, unless
/// it is the last one of the transfer.
fn read_list(host: &impl Host, list: u64, pages: &mut [u64]) -> Result<(), Status> {
    let mut at = list;
    let mut done = 0;
    // At least one entry of each page is one of the transfer, but for a first page with one entry.
    for _ in 0..PAGES_MAX {
        if at % ENTRY as u64 != 0 {
            return Err(Status::InvalidPrpOffset);
        }
        let room = (PAGE - offset(at)) / ENTRY;
        let left = pages.len() - done;
        let count = left.min(room);
        let mut bytes = [[0; ENTRY]; PAGES_MAX];
        host.read(at, bytes[..count].as_flattened_mut())?;
        let ends = left <= room;
        let entries = if ends { count } else { count - 1 };
        for entry in &bytes[..entries] {
            pages[done] = whole(u64::from_le_bytes(*entry))?;
            done += 1;
        }
        if ends {
            return Ok(());
        }
        at = whole(u64::from_le_bytes(bytes[entries]))?;
    }
    Err(Status::InvalidPrpOffset)
}
