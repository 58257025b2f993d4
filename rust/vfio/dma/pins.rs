// SPDX-License-Identifier: GPL-2.0

//! The list of pinned ranges, and their states.
//!
//! ```text
//!             pin()          vfio_pin_pages() done
//!   (none) ─────────► Pinning ───────────────────► Pinned ────────► Condemned
//!                        │                            │    unmap        │
//!                        │  unmapped meanwhile        │ drop, close     │ work item
//!                        └─────────────────────────► Unpinning ◄────────┘
//!                                                        │ vfio_unpin_pages() done
//!                                                        ▼
//!                                                      (none)
//! ```
//!
//! A range is in the list from before its first page is pinned until after its last is unpinned.
//! The thread that makes it `Unpinning` unpins it, so it is unpinned once.
//!
//! # Unmapping
//!
//! type1 calls the unmap callback with `device_list_lock` held and without `iommu->lock`. Unpinning
//! takes `iommu->lock`. A second thread that unmaps may hold `iommu->lock` by then and wait for
//! `device_list_lock`, so a callback that unpins could deadlock. Therefore a work item of the device
//! unpins, and the callback waits for it while it makes progress. If the callback returns early, type1
//! finds pages still pinned and looks again. At the twelfth look it panics the host (P35). This cannot
//! happen:
//!
//! - `unmaps` refuses new pins until the unmap is over, so each look finds at most what the last found.
//! - The callback returns early only if the work item has unpinned nothing for [`PATIENCE`]. If no
//!   second thread unmaps, that happens only while somebody holds `iommu->lock` for so long.
//! - From look number [`LAST_LOOK`] on the callback waits without limit. Then threads of the user who
//!   unmaps may hang, but the host does not panic.
//!
//! An unmap takes one call of `vfio_unpin_pages()` for each range in the mapping, and each range has at
//! most 512 pages. So its time grows with what is pinned there, and with nothing else.
//!
//! iommufd has no such cycle of locks. It calls back once and refuses pins itself until it is done. There
//! the callback unpins, by [`Pins::revoke`], and returns when nothing is pinned.

use super::{
    faults::Faults,
    list::{
        pages_of,
        List,
        Listed,
        Request,
        State, //
    },
    logging::Logging,
    range::Range,
    unmaps::Unmaps, //
};
use core::ptr;
use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc,
        Mutex, //
    },
    time::{
        Instant,
        Monotonic, //
    },
    workqueue::{
        impl_has_work,
        new_work,
        Work,
        WorkItem, //
    },
};
use kernel_ext::{
    event::Event,
    sched::cond_resched, //
};

/// How long the callback waits for a work item that unpins nothing, because it may itself wait for
/// type1, in milliseconds.
const PATIENCE: i64 = 1_000;

/// The look of type1 from which on the callback waits without limit.
const LAST_LOOK: u32 = 9;

/// The work item wakes the callback after so many ranges.
const NOTIFY: u64 = 256;

/// The pinned ranges of one device's guest memory.
#[pin_data]
pub(super) struct Pins {
    /// The log of written pages.
    #[pin]
    pub(super) logging: Logging,
    /// The points at which accesses can be made to fail.
    pub(super) faults: Faults,
    #[pin]
    list: Mutex<List>,
    /// Notified when the last condemned range is unpinned, and when any other range leaves the list.
    #[pin]
    changed: Event,
    /// Unpins the condemned ranges.
    #[pin]
    work: Work<Self>,
    /// The number of ranges that were ever listed.
    numbers: Atomic<u64>,
    /// The number of ranges that the work item has unpinned.
    unpinned: Atomic<u64>,
    /// The unmaps in progress.
    unmaps: Arc<Unmaps>,
    /// An unmap could not be reported. Nothing is pinned until the device is closed.
    unreported: Atomic<bool>,
}

impl_has_work! {
    impl HasWork<Self> for Pins { self.work }
}

impl WorkItem for Pins {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        this.unpin_condemned();
    }
}

impl Pins {
    /// Returns an empty list.
    pub(super) fn new(unmaps: Arc<Unmaps>, faults: Faults) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                logging <- Logging::new(),
                faults,
                list <- new_mutex!(List::new(), "dma pins"),
                changed <- Event::new(),
                work <- new_work!("dma unpin"),
                numbers: Atomic::new(0),
                unpinned: Atomic::new(0),
                unmaps,
                unreported: Atomic::new(false),
            }),
            GFP_KERNEL,
        )
    }

    /// Pins a range.
    ///
    /// The device is open for the length of the call. `EAGAIN` if memory there is being unmapped: this does
    /// not wait for an unmap.
    pub(super) fn pin(this: &Arc<Self>, request: Request) -> Result<Arc<Listed>> {
        let (start, count, head) = pages_of(request.iova, request.len)?;
        let registered = request.unmapped.is_some();

        let mut pages = KVVec::from_elem(ptr::null_mut(), count, GFP_KERNEL_ACCOUNT)?;
        let range = Range::new(
            request.device,
            start,
            count,
            head,
            request.len,
            request.access,
        );
        let number = this.numbers.fetch_add(1, Relaxed);
        let listed = Listed::new(number, range, start, request.unmapped)?;
        let range = &listed.range;
        let (first, last) = range.span();

        {
            let mut list = this.list.lock();
            this.admits(&mut list, first, last, registered)?;
            list.add(&listed)?;
        }

        // SAFETY: The device is open for the length of this call.
        let result = unsafe { range.pin(&mut pages) };

        let mut list = this.list.lock();
        let entry = list.get_mut(&listed);
        let revoked = !matches!(
            entry.as_ref().map(|entry| entry.state),
            Some(State::Pinning { revoked: false })
        );
        if let Some(entry) = entry {
            if result == Ok(count) && !revoked {
                // SAFETY: All pages were pinned, and stay so until `withdraw`.
                unsafe { range.publish(pages) };
                entry.state = State::Pinned;
                drop(list);
                return Ok(listed);
            }
            entry.state = State::Unpinning;
        }
        drop(list);

        if let Ok(done) = result {
            // SAFETY: `done` pages were pinned above, and nobody else knows of them.
            unsafe { range.unpin(done) };
        }
        this.leave(&listed);
        this.changed.notify();
        Err(match result {
            Err(error) => error,
            Ok(done) if done < count => EFAULT,
            Ok(_) => ENODEV,
        })
    }

    /// Fails as `pin` would if no ring may be pinned in `first..=last` at this moment.
    pub(super) fn admit(&self, first: u64, last: u64) -> Result {
        self.admits(&mut self.list.lock(), first, last, false)
    }

    /// Returns `EBUSY` or `EAGAIN` if no range in `first..=last` may enter the list.
    fn admits(&self, list: &mut List, first: u64, last: u64, registered: bool) -> Result {
        list.has_room(registered)?;
        // With the list locked, because `unmap` reports first and then reads the list.
        if self.unreported.load(Relaxed) || self.unmaps.overlaps(first, last) {
            return Err(EAGAIN);
        }
        Ok(())
    }

    /// Returns whether nothing in `first..=last` is pinned.
    #[cfg(mutation_dirty_page)]
    pub(super) fn is_clear(&self, first: u64, last: u64) -> bool {
        self.list.lock().is_clear(first, last)
    }

    /// Takes a range off the list, once all of it is unpinned.
    fn leave(&self, listed: &Listed) {
        let entry = self.list.lock().remove(listed);
        // Free it without the lock of the list.
        drop(entry);
    }

    /// Unpins a range, unless another thread does.
    pub(super) fn release(&self, listed: &Listed) {
        {
            let mut list = self.list.lock();
            match list.get_mut(listed) {
                Some(entry) if entry.state == State::Pinned => entry.state = State::Unpinning,
                _ => return,
            }
        }
        self.unpin(listed);
        self.changed.notify();
    }

    /// Unpins a range that the caller made `Unpinning` when it was `Pinned` or `Condemned`.
    fn unpin(&self, listed: &Listed) {
        let count = listed.range.withdraw();
        // SAFETY: A pinned range has all its pages pinned, and after `withdraw` nobody uses them.
        unsafe { listed.range.unpin(count) };
        self.leave(listed);
    }

    /// Unpins what overlaps a mapping that is being unmapped, and keeps it from being pinned again.
    ///
    /// Called by type1. Returns when nothing there is pinned, or when unpinning may be waiting for
    /// type1.
    pub(super) fn unmap(this: &Arc<Self>, first: u64, last: u64) {
        if this.unmaps.report(first, last).is_err() {
            this.unreported.store(true, Relaxed);
        }

        let looks = this.list.lock().condemn(first, last);
        this.unmaps.looked(looks);
        if looks == 0 {
            return;
        }
        // If the item is queued or runs already, it finds these ranges too.
        let _ = this.unmaps.queue().enqueue(this.clone());

        let mut progress = this.unpinned.load(Relaxed);
        let mut since = Instant::<Monotonic>::now();
        loop {
            let seen = this.changed.generation();
            if this.list.lock().is_clear(first, last) {
                return;
            }
            if looks >= LAST_LOOK {
                this.changed.wait(seen, None);
                continue;
            }
            let unpinned = this.unpinned.load(Relaxed);
            if unpinned != progress {
                progress = unpinned;
                since = Instant::now();
            }
            let left = PATIENCE - since.elapsed().as_millis();
            if left <= 0 {
                return;
            }
            this.changed.wait(seen, Some(left as u32));
        }
    }

    /// The work item: unpins the condemned ranges.
    fn unpin_condemned(&self) {
        let mut from = (0, 0);
        loop {
            let Some(listed) = self.list.lock().take_condemned(from) else {
                self.changed.notify();
                return;
            };
            from = listed.place;
            self.unpin(&listed);
            if self.unpinned.fetch_add(1, Relaxed) % NOTIFY == 0 {
                self.changed.notify();
            }
            cond_resched();
        }
    }

    /// Allows pins again. Called when the device is closed.
    pub(super) fn closed(&self) {
        self.unreported.store(false, Relaxed);
    }

    /// Returns how many looks of type1 found the same pages pinned: the maximum of all devices.
    pub(super) fn looks_max(&self) -> u32 {
        self.unmaps.looks_max()
    }

    /// Unpins what overlaps `first..=last`. Returns when nothing there is pinned. `unmapped` tells whether
    /// the memory goes, and not the device.
    ///
    /// For iommufd's unmap callback. In that of type1 it could deadlock.
    pub(super) fn revoke(&self, first: u64, last: u64, unmapped: bool) {
        self.list.lock().overlapping(first, last, |entry| {
            if unmapped {
                entry.listed.note_unmapped();
            }
            if let State::Pinning { revoked } = &mut entry.state {
                *revoked = true;
            }
            true
        });
        loop {
            let seen = self.changed.generation();
            let mut from = (0, 0);
            // Unpin all before waiting for any.
            loop {
                let found = self.list.lock().take_pinned(from, first, last);
                let Some(listed) = found else { break };
                from = listed.place;
                self.unpin(&listed);
                cond_resched();
            }
            if self.list.lock().is_clear(first, last) {
                self.changed.notify();
                return;
            }
            self.changed.wait(seen, None);
        }
    }
}
