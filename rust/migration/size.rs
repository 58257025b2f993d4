// SPDX-License-Identifier: GPL-2.0

//! How many bytes a save takes.

use crate::format::{END_SIZE, HEADER_SIZE, IDENTITY_SIZE};
use crate::identity::Identity;
use crate::part::PartTable;
use crate::source::Source;

/// Returns the size in bytes of the smallest buffer that [`SaveSession::fill`](crate::save::SaveSession::fill) accepts.
pub fn min_output(identity: &Identity) -> u64 {
    u64::from(identity.page_size)
        .max(IDENTITY_SIZE as u64)
        .saturating_add(HEADER_SIZE as u64)
}

/// Returns how many bytes a save of the stopped device would send now (P47). Needs no session.
///
/// This is an upper bound, except for the headers of additional buffers and for what the device estimates of
/// its state. It takes constant time: it does not look at the populated pages, but counts a header for each
/// of them, or for each gap between holes if there are fewer gaps.
pub fn estimate<S: Source + ?Sized>(identity: &Identity, parts: PartTable, src: &S) -> u64 {
    let populated = src.populated_pages();
    let holes = identity.pages().saturating_sub(populated);
    let runs = populated.min(holes.saturating_add(1));
    control_bytes(IDENTITY_SIZE)
        .saturating_add(state_bytes(unread_state(identity, src)))
        .saturating_add(control_bytes(END_SIZE))
        .saturating_add(parts.bytes(u32::MAX, |part| src.part_bytes(part)))
        .saturating_add(memory_bytes(identity, populated, runs))
}

/// Returns the size of a record with `payload` bytes.
#[inline]
pub(crate) fn control_bytes(payload: usize) -> u64 {
    (payload as u64).saturating_add(HEADER_SIZE as u64)
}

/// Returns how many bytes the state has that was not read yet.
#[inline]
pub(crate) fn unread_state<S: Source + ?Sized>(identity: &Identity, src: &S) -> u64 {
    let max = identity.state_size_max;
    src.state_size(max).min(max.into())
}

/// Returns the size of the record with `left` bytes of the device's state; 0 if there are none.
#[inline]
pub(crate) fn state_bytes(left: u64) -> u64 {
    match left {
        0 => 0,
        left => left.saturating_add(HEADER_SIZE as u64),
    }
}

/// Returns the size of the records of `pages` pages in `runs` runs.
#[inline]
pub(crate) fn memory_bytes(identity: &Identity, pages: u64, runs: u64) -> u64 {
    pages
        .saturating_mul(u64::from(identity.page_size))
        .saturating_add(runs.saturating_mul(HEADER_SIZE as u64))
}
