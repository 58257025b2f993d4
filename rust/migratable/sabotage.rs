// SPDX-License-Identifier: GPL-2.0

//! A mistake made on purpose: a page of device memory that is written and not marked.
//!
//! A test that nothing is lost in a migration proves something only if it fails when something is. `make
//! BREAK=memory-page` builds a module that loses a page in each migration; no other module has this file.
//!
//! It is the page that the device wrote last before it stops, if the page was sent before. What is written
//! is left out, and the page that was left out before is marked instead. It is one page, as it is known
//! here whether a page is marked anyway. What a guest accesses by itself is no choice: the access may be a
//! read, and a page that was only read is not lost.
//!
//! At the end of a save the log has a line that begins with "sabotage:" for the page left out, or one that
//! says that there was none.

use core::sync::atomic::{
    AtomicU64,
    AtomicUsize,
    Ordering, //
};
use kernel::prelude::*;
use migration::dirty::DirtyMap;

/// No page.
const NONE: u64 = u64::MAX;

/// The memory that a page is left out of, as a number.
static MEMORY: AtomicUsize = AtomicUsize::new(0);
/// The page.
static LEFT_OUT: AtomicU64 = AtomicU64::new(NONE);

/// Whether a memory is tracked.
pub(crate) fn saving(memory: usize, tracked: bool) {
    let (from, to) = if tracked { (0, memory) } else { (memory, 0) };
    if MEMORY
        .compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst)
        .is_ok()
    {
        let page = LEFT_OUT.swap(NONE, Ordering::SeqCst);
        if page != NONE {
            pr_warn!("sabotage: page {page} of the device memory was not marked\n");
        } else if !tracked {
            pr_warn!("sabotage: no page of the device memory was left out\n");
        }
    }
}

/// Whether a page is left out, so that an access of the guest must not mark it.
pub(crate) fn is_left_out(memory: usize, page: usize) -> bool {
    MEMORY.load(Ordering::SeqCst) == memory && LEFT_OUT.load(Ordering::SeqCst) == page as u64
}

/// The page to mark in place of `page`, which the device has written.
pub(crate) fn leave_out(
    memory: usize,
    dirty: &DirtyMap<KVVec<AtomicU64>>,
    page: usize,
) -> Option<usize> {
    // One that is marked will be sent in any case.
    if MEMORY.load(Ordering::SeqCst) != memory || dirty.test(page as u64) {
        return Some(page);
    }
    let before = LEFT_OUT.swap(page as u64, Ordering::SeqCst);
    (before != NONE && before != page as u64).then_some(before as usize)
}
