// SPDX-License-Identifier: GPL-2.0

//! Device DMA logging: the device's own log of the guest pages that it wrote.
//!
//! This is `VFIO_DEVICE_FEATURE_DMA_LOGGING_*`, for kernels with `CONFIG_IOMMUFD_DRIVER`, which contains
//! the functions that write its bitmaps. A VMM that binds the device through iommufd has no type1 to
//! ask. Without this log it would have to assume that all memory is dirty.
//!
//! The log contains exactly the pages that the device has written, and only in the ranges that logging
//! was started for. A pinned page is in it only if the device has written to it, where type1 reports it
//! at every look (P31). Its memory is charged to the user and limited to [`MAX_LEAVES`]. A device that writes in
//! more places reports all pages as dirty.
//!
//! # Locks
//!
//! The log's lock is taken inside `pins`. Neither lock is held while a user's bitmap is written, because
//! that may wait in a page fault of the user. The pages are collected under the locks and reported after.

use core::sync::atomic::{
    fence,
    AtomicBool,
    Ordering, //
};
use kernel::{
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

/// The most leaves of a log: 64 MiB, for up to 1 TiB of guest memory.
const MAX_LEAVES: usize = 1 << 16;

/// The most runs of pages collected at once.
const RUNS: usize = 256;

/// A part of guest memory: one bit for each page.
type Leaf = [u64; WORDS];

/// First and last byte of a range.
type Bytes = (u64, u64);

/// The pages that were written since the last report.
struct Log {
    /// The logged ranges, in ascending order.
    ranges: KVec<Bytes>,
    /// The leaves, by page number divided by [`PAGES`].
    leaves: RBTree<u64, Leaf>,
    /// Number of leaves.
    count: usize,
    /// A leaf could not be allocated. From then on all pages are dirty.
    lost: bool,
}

/// The log of one device.
#[pin_data]
pub(super) struct Logging {
    /// Whether there is a log. Read without the lock before a write to guest memory.
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

    /// Begins to log writes in `ranges`. `EINVAL` if logging has begun before.
    pub(super) fn start(&self, ranges: KVec<Bytes>) -> Result {
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

    /// Ends logging and discards the log.
    pub(super) fn stop(&self) {
        self.active.store(false, Ordering::SeqCst);
        let log = self.log.lock().take();
        // Free the log without the lock.
        drop(log);
    }

    /// Returns whether there is a log. Without one nobody needs to know which pages a write changed.
    pub(super) fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }

    /// Logs that the device has written `len` bytes at `iova`. Called after the write.
    #[inline]
    pub(super) fn wrote(&self, iova: u64, len: usize) {
        // Either this sees that logging is on, or the thread that turned it on sees the write.
        fence(Ordering::SeqCst);
        if len != 0 && self.is_active() {
            self.mark(iova, len);
        }
    }

    /// Marks the logged pages of `len` bytes at `iova`, if there is a log.
    fn mark(&self, iova: u64, len: usize) {
        if let Some(log) = &mut *self.log.lock() {
            let last = iova.saturating_add(len as u64 - 1);
            let mut at = 0;
            while let Some(&(start, end)) = log.ranges.get(at) {
                at += 1;
                if start <= last && iova <= end {
                    let pages =
                        iova.max(start) / PAGE_SIZE as u64..=last.min(end) / PAGE_SIZE as u64;
                    pages.for_each(|page| log.mark(page));
                }
            }
        }
    }

    /// Calls `report` with the ranges in `iova..=last` that were written, and forgets them.
    pub(super) fn read_and_clear(
        &self,
        iova: u64,
        last: u64,
        mut report: impl FnMut(u64, u64),
    ) -> Result {
        let mut runs = KVec::with_capacity(RUNS, GFP_KERNEL_ACCOUNT)?;
        let mut next = Some(iova / PAGE_SIZE as u64);
        while let Some(first) = next {
            {
                let mut log = self.log.lock();
                let Some(log) = &mut *log else {
                    return Err(EINVAL);
                };
                if log.lost {
                    // The pages that were taken out above are among them.
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
    /// Returns the leaf of a page and the page's bit in it; `None` if there is no memory for the leaf.
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
                // All pages are dirty, so the leaves are of no use any more.
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

    /// Clears marked pages from `first` to `last` and adds them to the runs, until there is no room for
    /// another run. Returns the page to continue with.
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
