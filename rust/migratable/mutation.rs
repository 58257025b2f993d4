// SPDX-License-Identifier: GPL-2.0

//! A mutation: a write to device memory that is not marked as dirty.
//!
//! A migration test that finds no lost memory is evidence only if it fails when memory is lost. `make
//! MUTATION=memory-page` builds a module that loses a page of device memory in each migration. No other
//! build contains this file.
//!
//! The module leaves out one page: the last that the device writes before it stops and that was sent
//! before. When it leaves out another page, it marks the first. One page is enough, because the map tells
//! whether a page is marked anyway. Only the device's own writes count: an access of the guest may be a
//! read, and a page that is only read is not lost.
//!
//! At the end of a save the module logs the page that it left out, or that there was none. The line begins
//! with "mutation:".

use core::sync::atomic::{
    AtomicU64,
    AtomicUsize,
    Ordering, //
};
use kernel::prelude::*;
use migration::dirty::DirtyMap;

/// No page.
const NONE: u64 = u64::MAX;

/// Address of the tracked memory, or 0.
static MEMORY: AtomicUsize = AtomicUsize::new(0);
/// The page left out.
static LEFT_OUT: AtomicU64 = AtomicU64::new(NONE);

/// Notes that dirty tracking of `memory` begins or ends.
pub(crate) fn saving(memory: usize, tracked: bool) {
    let (from, to) = if tracked { (0, memory) } else { (memory, 0) };
    if MEMORY
        .compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst)
        .is_ok()
    {
        let page = LEFT_OUT.swap(NONE, Ordering::SeqCst);
        if page != NONE {
            pr_warn!("mutation: page {page} of the device memory was not marked\n");
        } else if !tracked {
            pr_warn!("mutation: no page of the device memory was left out\n");
        }
    }
}

/// Returns whether `page` is left out. If so, an access of the guest must not mark it.
pub(crate) fn is_left_out(memory: usize, page: usize) -> bool {
    MEMORY.load(Ordering::SeqCst) == memory && LEFT_OUT.load(Ordering::SeqCst) == page as u64
}

/// Returns the page to mark when the device writes to `page`.
pub(crate) fn leave_out(
    memory: usize,
    dirty: &DirtyMap<KVVec<AtomicU64>>,
    page: usize,
) -> Option<usize> {
    // A marked page is sent in any case.
    if MEMORY.load(Ordering::SeqCst) != memory || dirty.test(page as u64) {
        return Some(page);
    }
    let before = LEFT_OUT.swap(page as u64, Ordering::SeqCst);
    (before != NONE && before != page as u64).then_some(before as usize)
}
