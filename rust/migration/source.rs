// SPDX-License-Identifier: GPL-2.0

//! The device that a save reads.

use crate::checksum::Checksum;
use crate::dirty::{DirtyMap, Run};
use crate::part::{Changes, Part};
use crate::record::Header;
use core::ops::Deref;
use core::sync::atomic::AtomicU64;

/// The device that a save reads. Methods return errnos of either sign.
///
/// Methods may sleep: the session takes no lock.
pub trait Source: Checksum {
    /// The buffer that the session fills: raw memory in the kernel.
    type Out: ?Sized;
    /// The words of the dirty map.
    type Words: Deref<Target = [AtomicU64]>;

    /// Returns the dirty map of device memory; it has 0 pages if the device has no memory.
    fn dirty(&self) -> &DirtyMap<Self::Words>;

    /// Returns the first run of populated pages within `run`. A page is populated once it was
    /// touched. All others read 0 and are not sent.
    fn populated(&self, run: Run) -> Option<Run>;

    /// Returns the number of populated pages. Must not depend on the size of device memory.
    fn populated_pages(&self) -> u64;

    /// Returns whether the calling task is being killed. Called for each record and for each 32768
    /// pages.
    fn interrupted(&self) -> bool;

    /// Copies `bytes` to `out` at offset `at`.
    fn put(&self, out: &mut Self::Out, at: usize, bytes: &[u8]) -> Result<(), i32>;

    /// Copies `len` bytes of device memory at `position` to `out` at offset `at`. Returns `crc`
    /// ([`Checksum`]) continued over the bytes stored in `out`; `None` if it is `None`, because nobody wants a
    /// checksum. `position` and `len` are whole pages.
    ///
    /// The session cleared the dirty bits of these pages just before. If the device runs and guests
    /// can map the pages, write-protect them before reading ([`crate::dirty`]).
    fn copy_memory(
        &self,
        out: &mut Self::Out,
        at: usize,
        position: u64,
        len: usize,
        crc: Option<u32>,
    ) -> Result<Option<u32>, i32>;

    /// Writes the device's own state to `buf` and returns its length in bytes. Called after
    /// [`SaveSession::stop`](crate::save::SaveSession::stop), and again only if it failed. `buf` has
    /// [`state_size_max`](crate::stream::Identity::state_size_max) bytes.
    fn save_state(&self, buf: &mut [u8]) -> Result<usize, i32>;

    /// Returns an estimate of the bytes that [`Source::save_state`] would write now. They are at most `max`. Must
    /// neither wait for the device nor depend on the size of its memory.
    fn state_size(&self, max: u32) -> u64 {
        max.into()
    }

    /// Returns what has changed since [`Source::take_changes`].
    fn changes(&self) -> Changes {
        Changes::default()
    }

    /// Returns what has changed since the last call. A later change is not lost.
    fn take_changes(&self) -> Changes {
        Changes::default()
    }

    /// Returns an estimate of the bytes that [`Source::save_part`] would write.
    fn part_bytes(&self, part: &Part) -> u64 {
        part.size_max.into()
    }

    /// Writes a part of the device's own state to `buf`, which has [`Part::size_max`] bytes, and returns its
    /// length; 0 if the part is not needed. Called while the device runs for a part of pre-copy.
    fn save_part(&self, _part: &Part, _buf: &mut [u8]) -> Result<usize, i32> {
        Ok(0)
    }

    /// Called when all of a record is in the buffer. An errno is the result of writing the record.
    fn admit(&self) -> Result<(), i32> {
        Ok(())
    }

    /// Called after a record was written to the buffer. `extent` is the number of bytes that it sends,
    /// clears or restores.
    fn saved(&self, _header: &Header, _extent: u64) {}

    /// Called when pass number `pass` begins, from 0. `taken` pages are no longer marked, because they are
    /// sent first.
    fn pass_starts(&self, _pass: u64, _taken: u64) {}

    /// Called when pass number `pass` has ended, which has sent `pages`.
    fn pass_ended(&self, _pass: u64, _pages: u64) {}
}
