// SPDX-License-Identifier: GPL-2.0

//! A page of data for the host.

/// Puts bytes into a page.
pub(crate) fn put(page: &mut [u8], at: usize, bytes: &[u8]) {
    page[at..at + bytes.len()].copy_from_slice(bytes);
}
