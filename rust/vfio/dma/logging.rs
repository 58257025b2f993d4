// SPDX-License-Identifier: GPL-2.0

//! Device DMA logging: which guest pages the device has written, by its own account.
//!
//! `VFIO_DEVICE_FEATURE_DMA_LOGGING_*`, for kernels that have what its bitmaps are written with
//! (`CONFIG_IOMMUFD_DRIVER`). A VMM that binds the device through iommufd has no type1 to ask, and
//! without this would have to take all of memory for dirty. It says the same as type1: what is copied
//! is logged to the page and reported once, what is pinned for writing is reported for as long as it
//! is pinned (P30, P31).
//!
//! All that the device writes is logged while logging is on, whichever ranges it was asked for.
//!
//! # Locks
//!
//! The log is taken inside `pins`, which is taken inside the core's lock of a user's bitmap.

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

/// The pages of a part of guest memory, a bit each.
type Leaf = [u64; WORDS];

/// What was written since it was reported.
struct Log {
    /// By page number over [`PAGES`].
    leaves: RBTree<u64, Leaf>,
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

    /// Begins to log. `EINVAL` if that was done before.
    fn start(&self) -> Result {
        let mut log = self.log.lock();
        if log.is_some() {
            return Err(EINVAL);
        }
        *log = Some(Log {
            leaves: RBTree::new(),
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

    /// Writes down that the device has written `len` bytes at `iova`; called behind the write.
    pub(super) fn wrote(&self, iova: u64, len: usize) {
        // Either this sees that logging is on, or who turned it on sees what was written.
        fence(Ordering::SeqCst);
        if len == 0 || !self.active.load(Ordering::Relaxed) {
            return;
        }
        if let Some(log) = &mut *self.log.lock() {
            let first = iova / PAGE_SIZE as u64;
            let last = iova.saturating_add(len as u64 - 1) / PAGE_SIZE as u64;
            for page in first..=last {
                log.mark(page);
            }
        }
    }

    /// Hands `report` what was written in `iova..=last`, as ranges inside of it, and forgets it.
    fn read_and_clear(&self, iova: u64, last: u64, mut report: impl FnMut(u64, u64)) -> Result {
        let mut log = self.log.lock();
        let Some(log) = &mut *log else {
            return Err(EINVAL);
        };
        if log.lost {
            report(iova, last);
            return Ok(());
        }
        let (first_page, last_page) = (iova / PAGE_SIZE as u64, last / PAGE_SIZE as u64);
        for (&index, leaf) in log.leaves.iter_mut() {
            let base = index * PAGES;
            for page in base.max(first_page)..=(base + PAGES - 1).min(last_page) {
                let word = &mut leaf[((page - base) / 64) as usize];
                let bit = 1 << (page % 64);
                if *word & bit != 0 {
                    *word &= !bit;
                    let start = page * PAGE_SIZE as u64;
                    report(start.max(iova), (start + (PAGE_SIZE as u64 - 1)).min(last));
                }
            }
        }
        Ok(())
    }
}

impl Log {
    /// Marks a page.
    fn mark(&mut self, page: u64) {
        let (index, at) = (page / PAGES, (page % PAGES) as usize);
        let bit = 1 << (at % 64);
        if let Some(leaf) = self.leaves.get_mut(&index) {
            leaf[at / 64] |= bit;
            return;
        }
        let mut leaf = [0; WORDS];
        leaf[at / 64] = bit;
        if self
            .leaves
            .try_create_and_insert(index, leaf, GFP_KERNEL_ACCOUNT)
            .is_err()
        {
            self.lost = true;
        }
    }
}

/// The operations for `vfio_device.log_ops`.
pub(crate) const OPERATIONS: &bindings::vfio_log_ops = &bindings::vfio_log_ops {
    log_start: Some(log_start),
    log_stop: Some(log_stop),
    log_read_and_clear: Some(log_read_and_clear),
};

impl Pins {
    /// Reports what the device has written in `iova..=last`.
    fn report(&self, iova: u64, last: u64, mut report: impl FnMut(u64, u64)) -> Result {
        // Before the log: what is unpinned in between is in there by then.
        self.each_written(iova, last, &mut report);
        self.logging.read_and_clear(iova, last, report)
    }
}

/// # Safety
///
/// Called by VFIO for an open device; `page_size` is valid.
unsafe extern "C" fn log_start(
    vdev: *mut bindings::vfio_device,
    _ranges: *mut bindings::rb_root_cached,
    _nnodes: u32,
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
    match core.dma.pins.logging.start() {
        Ok(()) => {
            *page_size = PAGE_SIZE as u64;
            0
        }
        Err(e) => {
            crate::refuse!(core, "DMA logging: started twice");
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
