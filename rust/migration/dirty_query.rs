// SPDX-License-Identifier: GPL-2.0

//! A question for dirty pages of guest memory, in the regions of 2018 and of v7.
//!
//! The user names a range, and the device answers with bitmaps in the data section. A range whose bitmap
//! is longer than its place there is answered in parts. A bit stands for one page of the size that the
//! user chose. It is set if the device wrote any byte of the page. An answer stays until the user has it,
//! so a failed read loses no page.

use crate::error::EINVAL;
use core::{
    fmt,
    ops::DerefMut, //
};

/// The smallest page of a bitmap, in bytes, and the size of all pages in the region of 2018.
pub const PAGE_SIZE: u64 = 4096;

/// `VFIO_DEVICE_DIRTY_PFNS_NONE` of v7.
pub const NONE: u64 = 0;

/// `VFIO_DEVICE_DIRTY_PFNS_ALL` of v7.
pub const ALL: u64 = !0;

/// A question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// The first page, in pages (v7) or in bytes (2018).
    pub start: u64,
    /// The size of a page, in bytes. 0 if the user has not chosen one.
    pub page_size: u64,
    /// The number of pages.
    pub total: u64,
    /// The pages that former answers covered.
    pub done: u64,
    /// The answer that was not read yet, or not replaced.
    pub answer: Option<Answer>,
}

/// An answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The pages that the bitmap covers, from [`Query::done`] on.
    pub pages: u64,
    /// How many of them are dirty.
    pub dirty: u64,
    /// The user has read it.
    pub read: bool,
}

/// A part of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its first byte.
    pub first: u64,
    /// Its last byte.
    pub last: u64,
    /// The number of pages.
    pub pages: u64,
    /// The size of a page, in bytes: a power of two.
    pub page_size: u64,
}

/// Why a question has no answer: always `EINVAL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryError {
    /// The size is not a power of two, or below [`PAGE_SIZE`].
    PageSize(u64),
    /// The range does not start at a page.
    Unaligned(u64),
    /// The range ends beyond the last address.
    Wraps,
}

impl QueryError {
    /// Returns the positive errno of this error.
    pub const fn errno(self) -> i32 {
        EINVAL
    }
}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QueryError::PageSize(size) => {
                write!(
                    f,
                    "page_size {size:#x} is not a power of two from {PAGE_SIZE:#x} on"
                )
            }
            QueryError::Unaligned(start) => write!(f, "start_addr {start:#x} is not a page's"),
            QueryError::Wraps => f.write_str("the range ends beyond 2^64"),
        }
    }
}

/// Checks a size of pages.
pub const fn check_page_size(size: u64) -> Result<(), QueryError> {
    match size.is_power_of_two() && size >= PAGE_SIZE {
        true => Ok(()),
        false => Err(QueryError::PageSize(size)),
    }
}

/// Returns the bytes of the bitmap of `pages` pages: whole words, and a word more, because the user of
/// 2018 reads one more.
pub const fn bitmap_bytes(pages: u64) -> u64 {
    pages.div_ceil(64).saturating_add(1).saturating_mul(8)
}

/// Returns the most pages whose bitmap fits into `bytes`.
pub const fn max_pages(bytes: u64) -> u64 {
    (bytes / 8).saturating_sub(1).saturating_mul(64)
}

impl Query {
    /// Returns the next part of the range, of at most `max` pages, whose first page has the address
    /// `start`. `None` if all of the range is done.
    pub fn part(&self, start: Option<u64>, max: u64) -> Result<Option<Part>, QueryError> {
        let page_size = self.page_size;
        check_page_size(page_size)?;
        let start = start.ok_or(QueryError::Wraps)?;
        if start % page_size != 0 {
            return Err(QueryError::Unaligned(start));
        }
        if self.total == 0 {
            return Ok(None);
        }
        // The last byte of the range, so that it may end at 2^64.
        let size = u128::from(self.total) * u128::from(page_size);
        if u128::from(start) + size > 1 << 64 {
            return Err(QueryError::Wraps);
        }
        let pages = self.total.saturating_sub(self.done).min(max);
        if pages == 0 {
            return Ok(None);
        }
        let first = start.wrapping_add(self.done.wrapping_mul(page_size));
        Ok(Some(Part {
            first,
            last: first.wrapping_add((pages - 1).wrapping_mul(page_size)) | (page_size - 1),
            pages,
            page_size,
        }))
    }

    /// The address of the first page, for v7.
    pub fn start_of_pfn(&self) -> Option<u64> {
        self.start.checked_mul(self.page_size)
    }

    /// Changes the question. Its answer is void.
    pub fn ask(&mut self, change: impl FnOnce(&mut Self)) {
        self.done = 0;
        self.answer = None;
        change(self);
    }
}

/// The bitmap of a part.
pub struct Bitmap<B> {
    part: Part,
    bytes: B,
}

impl<B: DerefMut<Target = [u8]>> Bitmap<B> {
    /// Returns a bitmap in `bytes`, which are 0.
    pub fn new(part: Part, bytes: B) -> Self {
        Bitmap { part, bytes }
    }

    /// Marks the pages with the bytes from `first` to `last` that are in the part.
    pub fn mark(&mut self, first: u64, last: u64) {
        let (first, last) = (first.max(self.part.first), last.min(self.part.last));
        let page =
            |byte: u64| byte.wrapping_sub(self.part.first) >> self.part.page_size.trailing_zeros();
        if first > last {
            return;
        }
        let (first, last) = (page(first), page(last));
        for at in first / 8..=last / 8 {
            let from = first.max(at * 8) % 8;
            let to = last.min(at * 8 + 7) % 8;
            if let Some(byte) = usize::try_from(at)
                .ok()
                .and_then(|at| self.bytes.get_mut(at))
            {
                *byte |= (0xff << from) & (0xff >> (7 - to));
            }
        }
    }

    /// Returns the bytes, and how many pages are dirty.
    pub fn finish(self) -> (B, u64) {
        let dirty = self
            .bytes
            .iter()
            .map(|byte| u64::from(byte.count_ones()))
            .sum();
        (self.bytes, dirty)
    }
}
