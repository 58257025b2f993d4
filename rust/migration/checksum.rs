// SPDX-License-Identifier: GPL-2.0

//! CRC-32C, as a caller provides it.

/// CRC-32C (Castagnoli) as a running value, without inversions: the kernel's `crc32c()`.
pub trait Checksum {
    /// Returns `crc` continued over `bytes`. The first call passes [`CRC_SEED`].
    fn crc32c(crc: u32, bytes: &[u8]) -> u32;
}

/// The initial value of a running checksum.
pub const CRC_SEED: u32 = !0;

/// Returns the value that the stream stores for a running checksum.
pub const fn crc_finish(crc: u32) -> u32 {
    !crc
}

/// Returns a running checksum continued over `bytes`; `None` if nobody wants one.
pub(crate) fn crc_continue<C: Checksum + ?Sized>(crc: Option<u32>, bytes: &[u8]) -> Option<u32> {
    crc.map(|crc| C::crc32c(crc, bytes))
}

/// Returns the stored checksum of `bytes`.
pub(crate) fn crc_of<C: Checksum + ?Sized>(bytes: &[u8]) -> u32 {
    crc_finish(C::crc32c(CRC_SEED, bytes))
}
