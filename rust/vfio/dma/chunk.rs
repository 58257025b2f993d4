// SPDX-License-Identifier: GPL-2.0

//! How a chunk is written so that every page that may have changed is reported.
//!
//! type1 marks the pages of a copy only when all of it succeeded. A copy that stops at a hole in the
//! user's memory has written the pages before the hole, and type1 reports none of them. So
//! [`write()`] does such a copy again page by page: type1 marks each page by itself then.
//!
//! This file imports `core` only: it is compiled into the module and into a test in userspace.

/// Splits `len` bytes at `iova` at the borders of pages; returns offset and length of each piece.
///
/// The range does not wrap.
pub(super) fn pages(iova: u64, len: usize, page: usize) -> impl Iterator<Item = (usize, usize)> {
    let head = (iova % page as u64) as usize;
    let mut done = 0;
    core::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = done;
        let n = (page - (head + at) % page).min(len - at);
        done += n;
        Some((at, n))
    })
}

/// Writes `len` bytes at `iova` by calls of `write`, which takes an offset and a length.
///
/// If the first attempt fails, each page is written again, whatever became of the pages before it:
/// the user may have unmapped one of those since, and the pages behind it were written all the same.
/// The first error of these is returned. If there is none, all was written.
pub(super) fn write<E>(
    iova: u64,
    len: usize,
    page: usize,
    mut write: impl FnMut(usize, usize) -> Result<(), E>,
) -> Result<(), E> {
    let Err(error) = write(0, len) else {
        return Ok(());
    };
    if pages(iova, len, page).nth(1).is_none() {
        // A page is written as a whole or not at all.
        return Err(error);
    }
    let mut result = Ok(());
    for (at, n) in pages(iova, len, page) {
        let written = write(at, n);
        result = result.and(written);
    }
    result
}
