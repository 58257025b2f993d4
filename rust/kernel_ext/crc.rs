// SPDX-License-Identifier: GPL-2.0

//! Checksums, for drivers whose devices compute them.
//!
//! C header: [`include/linux/crc32c.h`](srctree/include/linux/crc32c.h)

use kernel::ffi::c_void;
use vfio_bindings as bindings;

/// Continues a CRC-32C (Castagnoli) over `bytes`, without inversions: start from `!0`, and invert
/// the last value.
#[inline]
pub fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
    // SAFETY: The slice is valid for reads of its length.
    unsafe { bindings::crc32c(crc, bytes.as_ptr().cast::<c_void>(), bytes.len()) }
}
