// SPDX-License-Identifier: GPL-2.0

//! Device DMA logging: which guest pages the device has written, by its own account.
//!
//! `VFIO_DEVICE_FEATURE_DMA_LOGGING_*`, for kernels that have what its bitmaps are written with
//! (`CONFIG_IOMMUFD_DRIVER`). A VMM that binds the device through iommufd has no type1 to ask, and
//! without this would have to take all of memory for dirty. It says the same as type1: what is copied
//! is logged to the page and reported once, what is pinned for writing is reported for as long as it
//! is pinned (P30, P31).
//!
//! Only what may have been written is logged, and only inside the ranges that logging was started for.
//! What that takes is charged to the user and limited to [`MAX_LEAVES`]; a device that has written in
//! more places than that reports all as dirty.
//!
//! # Locks
//!
//! The log is taken inside `pins`. Neither is held while a user's bitmap is written, which may wait in
//! a page fault of the user's: what is found is collected before and reported after.

use super::pins::Pins;
use crate::{
    bindings,
    instance::Instance, //
};
use core::sync::atomic::{
    fence,
    AtomicBool,
    Ordering, //
};
use kernel::{
    ffi::{
        c_int,
        c_ulong, //
    },
    new_mutex,
    page::PAGE_SIZE,
    prelude::*,
    rbtree::RBTree,
    sync::Mutex, //
};

/// Words of one leaf.
const WORDS: usize = 64;

/// Pages of one leaf: 16 MiB of guest memory.
const PAGES: u64 = WORDS as u64 * 64;

/// The most leaves of a log: 64 MiB of them, for up to 1 TiB of guest memory.
const MAX_LEAVES: usize = 1 << 16;

/// The most runs of pages collected at once.
const RUNS: usize = 256;

/// The pages of a part of guest memory, a bit each.
type Leaf = [u64; WORDS];

/// First and last byte of a range.
type Bytes = (u64, u64);

/// What was written since it was reported.
struct Log {
    /// What is logged at all, in ascending order.
    ranges: KVec<Bytes>,
    /// By page number over [`PAGES`].
    leaves: RBTree<u64, Leaf>,
    /// How many there are.
    count: usize,
    /// There was no memory to write something down: all is dirty from then on.
    lost: bool,
}

/// The log of one device.
#[pin_data]
pub(super) struct Logging {
    /// Whether there is a log, for those who would have to write into it.
    active: AtomicBool,
    #[pin]
    log: Mutex<Option<Log>>,
}

impl Logging {
    /// Nothing is logged.
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            active: AtomicBool::new(false),
            log <- new_mutex!(None, "dma logging"),
        })
    }

    /// Begins to log what is in `ranges`. `EINVAL` if that was done before.
    fn start(&self, ranges: KVec<Bytes>) -> Result {
        let mut log = self.log.lock();
        if log.is_some() {
            return Err(EINVAL);
        }
        *log = Some(Log {
            ranges,
            leaves: RBTree::new(),
            count: 0,
            lost: false,
        });
        self.active.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Forgets what was logged and logs no more.
    pub(super) fn stop(&self) {
        self.active.store(false, Ordering::SeqCst);
        let log = self.log.lock().take();
        // Not with the lock held.
        drop(log);
    }

    /// Whether something is logged: for those who find out exactly what they have written only then.
    pub(super) fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }

    /// Calls `f` for the log if there is one, with each page of `len` bytes at `iova` that is logged.
    fn each_page(&self, iova: u64, len: usize, f: impl Fn(&mut Log, u64)) {
        // Either this sees that logging is on, or who turned it on sees what was written.
        fence(Ordering::SeqCst);
        if len == 0 || !self.is_active() {
            return;
        }
        if let Some(log) = &mut *self.log.lock() {
            let last = iova.saturating_add(len as u64 - 1);
            let mut at = 0;
            while let Some(&(start, end)) = log.ranges.get(at) {
                at += 1;
                if start <= last && iova <= end {
                    let pages =
                        iova.max(start) / PAGE_SIZE as u64..=last.min(end) / PAGE_SIZE as u64;
                    pages.for_each(|page| f(log, page));
                }
            }
        }
    }

    /// Writes down that the device may have written `len` bytes at `iova`; called behind the write.
    pub(super) fn wrote(&self, iova: u64, len: usize) {
        self.each_page(iova, len, Log::mark);
    }

    /// Makes room for a later [`Logging::wrote`] of the same: that may be called by a worker, whose
    /// memory is charged to nobody.
    pub(super) fn reserve(&self, iova: u64, len: usize) {
        self.each_page(iova, len, |log, page| {
            log.leaf(page);
        });
    }

    /// Hands `report` what was written in `iova..=last`, as ranges inside of it, and forgets it.
    fn read_and_clear(&self, iova: u64, last: u64, mut report: impl FnMut(u64, u64)) -> Result {
        let mut runs = KVec::with_capacity(RUNS, GFP_KERNEL_ACCOUNT)?;
        let mut next = Some(iova / PAGE_SIZE as u64);
        while let Some(first) = next {
            {
                let mut log = self.log.lock();
                let Some(log) = &mut *log else {
                    return Err(EINVAL);
                };
                if log.lost {
                    // Those that were taken out above are among them.
                    next = None;
                    let _ = runs.push_within_capacity((iova, last));
                } else {
                    next = log.take(first, last / PAGE_SIZE as u64, &mut runs);
                }
            }
            for (start, end) in runs.drain_all() {
                report(start.max(iova), end.min(last));
            }
        }
        Ok(())
    }
}

impl Log {
    /// The leaf of a page, and its place there; none if there is no memory for it.
    fn leaf(&mut self, page: u64) -> Option<(&mut Leaf, usize)> {
        let (index, at) = (page / PAGES, (page % PAGES) as usize);
        if self.leaves.get(&index).is_none() {
            if self.lost {
                return None;
            }
            let made = self.count < MAX_LEAVES
                && self
                    .leaves
                    .try_create_and_insert(index, [0; WORDS], GFP_KERNEL_ACCOUNT)
                    .is_ok();
            if !made {
                self.lost = true;
                // All is dirty: what is written down is of no use any more.
                self.leaves = RBTree::new();
                self.count = 0;
                return None;
            }
            self.count += 1;
        }
        self.leaves.get_mut(&index).map(|leaf| (leaf, at))
    }

    /// Marks a page.
    fn mark(&mut self, page: u64) {
        if let Some((leaf, at)) = self.leaf(page) {
            leaf[at / 64] |= 1 << (at % 64);
        }
    }

    /// Takes out marked pages from `first` to `last`, as runs of bytes, while there is room for a run.
    /// Returns the page to go on with.
    fn take(&mut self, first: u64, last: u64, runs: &mut KVec<Bytes>) -> Option<u64> {
        let mut cursor = self.leaves.cursor_lower_bound_mut(&(first / PAGES));
        while let Some(mut leaf) = cursor {
            let (&index, words) = leaf.current_mut();
            let base = index * PAGES;
            if base > last {
                break;
            }
            for page in base.max(first)..=(base + (PAGES - 1)).min(last) {
                let (word, bit) = ((page - base) as usize / 64, 1 << (page % 64));
                if words[word] & bit == 0 {
                    continue;
                }
                let start = page * PAGE_SIZE as u64;
                let end = start + (PAGE_SIZE as u64 - 1);
                let before = runs.last_mut();
                if let Some(run) = before.filter(|run| run.1.checked_add(1) == Some(start)) {
                    run.1 = end;
                } else if runs.push_within_capacity((start, end)).is_err() {
                    return Some(page);
                }
                words[word] &= !bit;
            }
            cursor = leaf.move_next();
        }
        None
    }
}

/// The operations for `vfio_device.log_ops`.
pub(crate) const OPERATIONS: &bindings::vfio_log_ops = &bindings::vfio_log_ops {
    log_start: Some(log_start),
    log_stop: Some(log_stop),
    log_read_and_clear: Some(log_read_and_clear),
};

impl Pins {
    /// Begins to log what is in `ranges`.
    fn start_logging(&self, ranges: KVec<Bytes>) -> Result {
        self.logging.start(ranges)?;
        // What is pinned is written down when it is unpinned.
        for (start, end) in self.written().into_iter().flatten() {
            self.logging.reserve(start, (end - start + 1) as usize);
        }
        Ok(())
    }

    /// Reports what the device has written in `iova..=last`.
    fn report(&self, iova: u64, last: u64, mut report: impl FnMut(u64, u64)) -> Result {
        // Before the log: what is unpinned in between is in there by then.
        for (start, end) in self.written().into_iter().flatten() {
            if start <= last && iova <= end {
                report(start.max(iova), end.min(last));
            }
        }
        self.logging.read_and_clear(iova, last, report)
    }
}

/// The ranges of a `log_start()`.
///
/// # Safety
///
/// `ranges` must be a valid interval tree that nobody changes.
unsafe fn intervals(ranges: *mut bindings::rb_root_cached, count: u32) -> Result<KVec<Bytes>> {
    let mut list = KVec::with_capacity(count as usize, GFP_KERNEL_ACCOUNT)?;
    // SAFETY: By the requirement of this function.
    let mut node = unsafe { bindings::interval_tree_iter_first(ranges, 0, c_ulong::MAX) };
    while !node.is_null() {
        // SAFETY: A node of the tree.
        let (start, last) = unsafe { ((*node).start, (*node).last) };
        list.push((start as u64, last as u64), GFP_KERNEL_ACCOUNT)?;
        // SAFETY: As above.
        node = unsafe { bindings::interval_tree_iter_next(node, 0, c_ulong::MAX) };
    }
    Ok(list)
}

/// # Safety
///
/// Called by VFIO for an open device; `ranges` and `page_size` are valid.
unsafe extern "C" fn log_start(
    vdev: *mut bindings::vfio_device,
    ranges: *mut bindings::rb_root_cached,
    nnodes: u32,
    page_size: *mut u64,
) -> c_int {
    // SAFETY: The device is registered.
    let core = unsafe { &Instance::from_raw(vdev).core };
    // SAFETY: By the requirement of this function.
    let page_size = unsafe { &mut *page_size };
    if !page_size.is_power_of_two() {
        crate::refuse!(core, "DMA logging: page size {:#x}", *page_size);
        return EINVAL.to_errno();
    }
    // SAFETY: By the requirement of this function; the tree is VFIO's, and local to its call.
    let ranges = unsafe { intervals(ranges, nnodes) };
    match ranges.and_then(|ranges| core.dma.pins.start_logging(ranges)) {
        Ok(()) => {
            *page_size = PAGE_SIZE as u64;
            0
        }
        Err(e) => {
            if e == EINVAL {
                crate::refuse!(core, "DMA logging: started twice");
            }
            e.to_errno()
        }
    }
}

/// # Safety
///
/// Called by VFIO for an open device.
unsafe extern "C" fn log_stop(vdev: *mut bindings::vfio_device) -> c_int {
    // SAFETY: The device is registered.
    unsafe { Instance::from_raw(vdev) }
        .core
        .dma
        .pins
        .logging
        .stop();
    0
}

/// # Safety
///
/// Called by VFIO for an open device; `dirty` is valid and covers `length` bytes at `iova`.
unsafe extern "C" fn log_read_and_clear(
    vdev: *mut bindings::vfio_device,
    iova: c_ulong,
    length: c_ulong,
    dirty: *mut bindings::iova_bitmap,
) -> c_int {
    // SAFETY: The device is registered.
    let core = unsafe { &Instance::from_raw(vdev).core };
    let iova = iova as u64;
    let Some(len) = (length as u64).checked_sub(1) else {
        return 0;
    };
    let set = |first: u64, last: u64| {
        // SAFETY: By the requirement of this function; the range is inside of what it covers.
        unsafe { bindings::iova_bitmap_set(dirty, first as c_ulong, (last - first + 1) as usize) };
    };
    match core.dma.pins.report(iova, iova.saturating_add(len), set) {
        Ok(()) => 0,
        Err(e) => {
            crate::refuse!(core, "DMA logging: report of what was not started");
            e.to_errno()
        }
    }
}
