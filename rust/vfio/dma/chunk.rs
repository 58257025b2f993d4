// SPDX-License-Identifier: GPL-2.0

//! Writes a chunk so that type1 reports every page that may have changed.
//!
//! type1 marks the pages of a copy only if the whole copy succeeds. A copy that stops at a hole in the
//! user's memory has written the pages before the hole, but type1 reports none of them. So [`write()`]
//! repeats a failed copy page by page, and type1 marks each page.
//!
//! This file imports `core` only: it is compiled into the module and into a test in userspace.

/// Splits `len` bytes at `iova` at page boundaries. Returns offset and length of each piece.
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
/// If the first attempt fails, each page is written again, also after a page that fails: the user may
/// have unmapped that page since, and the first attempt wrote the pages behind it. Returns the first
/// error of the second attempt, if any.
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
        // type1 writes a page as a whole or not at all.
        return Err(error);
    }
    let mut result = Ok(());
    for (at, n) in pages(iova, len, page) {
        let written = write(at, n);
        result = result.and(written);
    }
    result
}
