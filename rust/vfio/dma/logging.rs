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
