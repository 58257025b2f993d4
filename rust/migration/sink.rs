// SPDX-License-Identifier: GPL-2.0

//! The device that a load writes.

use crate::checksum::Checksum;
use crate::part::SavedState;
use crate::record::Header;

/// The most bytes of payload between two calls of [`Sink::interrupted`].
pub const PIECE: usize = 1 << 20;

/// The device that a load writes. Methods return errnos of either sign.
///
/// Methods may sleep: the session takes no lock.
pub trait Sink: Checksum {
    /// The buffer in which the stream arrives. Its owner may change it at any time, so the session
    /// reads each byte once.
    type In: ?Sized;

    /// Fills `buf` from `input` at offset `at`.
    fn get(&self, input: &Self::In, at: usize, buf: &mut [u8]) -> Result<(), i32>;

    /// Copies `len` bytes from `input` at offset `at` to device memory at `position`. Returns `crc`
    /// ([`Checksum`]) continued over the bytes stored; `None` if it is `None`, because there is no checksum to
    /// compare with. Neither `position` nor `len` is aligned; the
    /// range lies inside device memory.
    fn copy_memory(
        &self,
        input: &Self::In,
        at: usize,
        position: u64,
        len: usize,
        crc: Option<u32>,
    ) -> Result<Option<u32>, i32>;

    /// Makes `len` bytes of device memory at `position` read 0. Both are whole pages.
    ///
    /// A record of 40 bytes requests this, so its cost must not depend on `len`: only pages that were
    /// written before may cost something, each of them once.
    fn zero_memory(&self, position: u64, len: u64) -> Result<(), i32>;

    /// Makes all of device memory read 0. The cost is limited as in [`Sink::zero_memory`].
    fn discard(&self) -> Result<(), i32>;

    /// Returns whether the calling task is being killed. Called for each record and for each
    /// [`PIECE`] of payload.
    fn interrupted(&self) -> bool;

    /// Checks the complete device's own state, and changes nothing.
    fn check_state(&self, state: &SavedState<'_>) -> Result<(), i32>;

    /// Applies a state that [`Sink::check_state`] accepted.
    fn commit_state(&self, state: &SavedState<'_>) -> Result<(), i32>;

    /// Called before a record is applied whose payload is complete and intact. An errno is the result of
    /// applying it.
    fn admit(&self) -> Result<(), i32> {
        Ok(())
    }

    /// Called after a record was applied. `extent` is the number of bytes that ZERO clears; for other kinds
    /// it is the length of the payload.
    fn loaded(&self, _header: &Header, _extent: u64) {}
}
