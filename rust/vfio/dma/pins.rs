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
//! `device_list_lock`, so a callback that unpins could deadlock. Therefore work items unpin, and the
//! callback waits for them for a limited time. If it returns early, type1 finds pages still pinned and
//! looks again. At the twelfth look it panics the host (P35). This cannot happen:
//!
//! - `unmaps` refuses new pins until the unmap is over, so each look finds at most what the last found.
//! - Each range has a work item, and the callback returns only after each item has begun. An item
//!   unpins its range in one call. So all items wait for `iommu->lock` before type1 does, and one look
//!   is enough for all.
//! - A thread that takes the lock between its release and the wake-up of the first waiter can cost a
//!   look. From look number [`LAST_LOOK`] on the callback waits without limit. Then threads of the user
//!   who unmaps may hang, but the host does not panic.
//!
//! iommufd has no such cycle of locks. It calls back once and refuses pins itself until it is done. There
//! the callback unpins, by [`Pins::revoke`], and returns when nothing is pinned.

use super::{
    device::OpenDevice,
    logging::Logging,
    range::{
        Access,
        Range, //
    },
    unmaps::Unmaps, //
};
use core::ptr;
use kernel::{
    new_mutex,
    page::{
        PAGE_MASK,
        PAGE_SIZE, //
    },
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
use kernel_ext::event::Event;

/// The most pages of one range: as many as type1 pins in one call.
const MAX_PAGES: usize = 512;

/// The most ranges of one device.
const MAX_RANGES: usize = 4;

/// How long the callback waits for work items that may themselves wait for type1, in milliseconds.
const PATIENCE: i64 = 1_000;

/// The look of type1 from which on the callback waits without limit.
const LAST_LOOK: u32 = 9;

/// State of a range in the list.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Its pages are being pinned.
    Pinning {
        /// Whether it was unmapped meanwhile and must be unpinned.
        revoked: bool,
    },
    /// Its pages are pinned.
    Pinned,
    /// Its work item is to unpin its pages.
    Condemned,
    /// Its pages are being unpinned.
    Unpinning,
}

/// A range. The list, its holder and its work item share it.
#[pin_data]
pub(super) struct Listed {
    #[pin]
    pub(super) range: Range,
    /// The list that the range is in.
    pins: Arc<Pins>,
    /// Unpins the range when its memory is unmapped.
    #[pin]
    work: Work<Self>,
}

impl_has_work! {
    impl HasWork<Self> for Listed { self.work }
}

impl WorkItem for Listed {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        this.pins.unpin_condemned(&this.range);
    }
}

impl Listed {
    /// Returns a range for the list of `pins`.
    fn new(pins: Arc<Pins>, range: impl PinInit<Range>) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                range <- range,
                pins,
                work <- new_work!("dma unpin"),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Unpins the range, unless another thread does.
    pub(super) fn release(&self) {
        self.pins.release(&self.range);
    }
}

/// A range in the list.
struct Entry {
    listed: Arc<Listed>,
    state: State,
    /// How many looks of type1 found it.
    looks: u32,
}

/// The part of `Pins` under its lock.
struct List {
    entries: KVec<Entry>,
}

/// The pinned ranges of one device's guest memory.
#[pin_data]
pub(super) struct Pins {
    /// The log of written pages.
    #[pin]
    pub(super) logging: Logging,
    #[pin]
    list: Mutex<List>,
    /// Notified when an entry leaves the list, and when a work item begins.
    #[pin]
    changed: Event,
    /// The unmaps in progress.
    unmaps: Arc<Unmaps>,
    /// An unmap could not be reported. Nothing is pinned until the device is closed.
    unreported: Atomic<bool>,
}

impl List {
    /// Returns the index of a range in the list.
    fn find(&mut self, range: &Range) -> Option<usize> {
        self.entries
            .iter()
            .position(|entry| ptr::eq(&entry.listed.range, range))
    }

    /// Returns the ranges with a page in `first..=last`.
    fn overlapping(&mut self, first: u64, last: u64) -> impl Iterator<Item = &mut Entry> {
        self.entries
            .iter_mut()
            .filter(move |entry| entry.listed.range.overlaps(first, last))
    }

    /// Removes a range from the list.
    fn remove(&mut self, range: &Range) -> Option<Entry> {
        let at = self.find(range)?;
        self.entries.remove(at).ok()
    }
}

impl Pins {
    /// Returns an empty list.
    pub(super) fn new(unmaps: Arc<Unmaps>) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                logging <- Logging::new(),
                list <- new_mutex!(
                    List {
                        entries: KVec::new(),
                    },
                    "dma pins"
                ),
                changed <- Event::new(),
                unmaps,
                unreported: Atomic::new(false),
            }),
            GFP_KERNEL,
        )
    }

    /// Pins `len` bytes at `iova`.
    ///
    /// The range is not empty and does not wrap, and the device is open for the length of the call.
    /// `EAGAIN` if memory there is being unmapped: this does not wait for an unmap.
    pub(super) fn pin(
        this: &Arc<Self>,
        device: OpenDevice,
        iova: u64,
        len: usize,
        access: Access,
    ) -> Result<Arc<Listed>> {
        let start = iova & PAGE_MASK as u64;
        let head = (iova - start) as usize;
        let count = (head + len).div_ceil(PAGE_SIZE);
        if count > MAX_PAGES {
            return Err(E2BIG);
        }

        let mut pages = KVVec::from_elem(ptr::null_mut(), count, GFP_KERNEL_ACCOUNT)?;
        let range = Range::new(device, start, count, head, len, access);
        let listed = Listed::new(this.clone(), range)?;
        let range = &listed.range;
        let (first, last) = range.span();

        {
            let mut list = this.list.lock();
            this.admits(&list, first, last)?;
            list.entries.push(
                Entry {
                    listed: listed.clone(),
                    state: State::Pinning { revoked: false },
                    looks: 0,
                },
                GFP_KERNEL_ACCOUNT,
            )?;
        }

        // SAFETY: The device is open for the length of this call.
        let result = unsafe { range.pin(&mut pages) };

        let mut list = this.list.lock();
        let entry = list.find(range).and_then(|at| list.entries.get_mut(at));
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
                if range.writable().is_ok() {
                    this.logging.reserve(start, count * PAGE_SIZE);
                }
                return Ok(listed);
            }
            entry.state = State::Unpinning;
        }
        drop(list);

        if let Ok(done) = result {
            // SAFETY: `done` pages were pinned above, and nobody else knows of them.
            unsafe { range.unpin(done) };
        }
        this.leave(range);
        Err(match result {
            Err(error) => error,
            Ok(done) if done < count => EFAULT,
            Ok(_) => ENODEV,
        })
    }

    /// Fails as `pin` would if nothing may be pinned in `first..=last` at this moment.
    pub(super) fn admit(&self, first: u64, last: u64) -> Result {
        self.admits(&self.list.lock(), first, last)
    }

    /// Returns `EBUSY` or `EAGAIN` if no range in `first..=last` may enter the list.
    fn admits(&self, list: &List, first: u64, last: u64) -> Result {
        if list.entries.len() >= MAX_RANGES {
            return Err(EBUSY);
        }
        // With the list locked, because `unmap` reports first and then reads the list.
        if self.unreported.load(Relaxed) || self.unmaps.overlaps(first, last) {
            return Err(EAGAIN);
        }
        Ok(())
    }

    /// Takes a range off the list, once all of it is unpinned.
    fn leave(&self, range: &Range) {
        let entry = self.list.lock().remove(range);
        self.changed.notify();
        // Free it without the lock of the list.
        drop(entry);
    }

    /// Unpins a range, unless another thread does.
    fn release(&self, range: &Range) {
        {
            let mut list = self.list.lock();
            let Some(at) = list.find(range) else { return };
            let Some(entry) = list.entries.get_mut(at) else {
                return;
            };
            if entry.state != State::Pinned {
                return;
            }
            entry.state = State::Unpinning;
        }
        self.unpin(range);
    }

    /// Unpins a range that the caller made `Unpinning` when it was `Pinned` or `Condemned`.
    fn unpin(&self, range: &Range) {
        let count = range.withdraw();
        // It was reported for as long as it was pinned, and the device may have written since.
        if range.writable().is_ok() {
            self.logging.wrote(range.start, count * PAGE_SIZE);
        }
        // SAFETY: A pinned range has all its pages pinned, and after `withdraw` nobody uses them.
        unsafe { range.unpin(count) };
        self.leave(range);
    }

    /// Unpins what overlaps a mapping that is being unmapped, and keeps it from being pinned again.
    ///
    /// Called by type1. Returns when nothing there is pinned, or when unpinning may be waiting for
    /// type1.
    pub(super) fn unmap(&self, first: u64, last: u64) {
        if self.unmaps.report(first, last).is_err() {
            self.unreported.store(true, Relaxed);
        }

        let mut looks = 0;
        {
            let mut list = self.list.lock();
            for entry in list.overlapping(first, last) {
                entry.looks += 1;
                looks = looks.max(entry.looks);
                match &mut entry.state {
                    State::Pinning { revoked } => *revoked = true,
                    state @ State::Pinned => {
                        *state = State::Condemned;
                        // The range was not condemned before, so its item is not queued.
                        let _ = self.unmaps.queue().enqueue(entry.listed.clone());
                    }
                    State::Condemned | State::Unpinning => {}
                }
            }
        }
        self.unmaps.looked(looks);

        let mut began: Option<Instant<Monotonic>> = None;
        loop {
            let seen = self.changed.generation();
            let (mut clear, mut waiting) = (true, false);
            for entry in self.list.lock().overlapping(first, last) {
                clear = false;
                waiting |= entry.state == State::Condemned;
            }
            if clear {
                return;
            }
            // A work item always begins: for that it needs no lock that type1 holds.
            if waiting || looks >= LAST_LOOK {
                self.changed.wait(seen, None);
                continue;
            }
            let spent = began.get_or_insert_with(Instant::now).elapsed().as_millis();
            let left = PATIENCE - spent;
            if left <= 0 {
                return;
            }
            self.changed.wait(seen, Some(left as u32));
        }
    }

    /// The work item of a range: unpins a condemned range.
    fn unpin_condemned(&self, range: &Range) {
        {
            let mut list = self.list.lock();
            let entry = list.find(range).and_then(|at| list.entries.get_mut(at));
            match entry {
                Some(entry) if entry.state == State::Condemned => entry.state = State::Unpinning,
                _ => return,
            }
        }
        self.changed.notify();
        self.unpin(range);
    }

    /// Allows pins again. Called when the device is closed.
    pub(super) fn closed(&self) {
        self.unreported.store(false, Relaxed);
    }

    /// Returns how many looks of type1 found the same pages pinned: the maximum of all devices.
    pub(super) fn looks_max(&self) -> u32 {
        self.unmaps.looks_max()
    }

    /// Unpins what overlaps `first..=last`. Returns when nothing there is pinned.
    ///
    /// For iommufd's unmap callback. In that of type1 it could deadlock.
    pub(super) fn revoke(&self, first: u64, last: u64) {
        loop {
            let seen = self.changed.generation();
            let mut list = self.list.lock();
            let mut found = None;

            for entry in list.overlapping(first, last) {
                if let State::Pinning { revoked } = &mut entry.state {
                    *revoked = true;
                }
                // Unpin all before waiting for any.
                if found.is_none() || entry.state == State::Pinned {
                    found = Some(entry);
                }
            }
            match found {
                None => return,
                Some(entry) if entry.state == State::Pinned => {
                    entry.state = State::Unpinning;
                    let listed = entry.listed.clone();
                    drop(list);
                    self.unpin(&listed.range);
                }
                Some(_) => {
                    drop(list);
                    self.changed.wait(seen, None);
                }
            }
        }
    }
}

impl Pins {
    /// Returns the ranges that are pinned for writing, by their first and last bytes.
    fn written(&self) -> [Option<(u64, u64)>; MAX_RANGES] {
        let mut written = [None; MAX_RANGES];
        let list = self.list.lock();
        for (place, entry) in written.iter_mut().zip(&list.entries) {
            *place = entry
                .listed
                .range
                .writable()
                .is_ok()
                .then(|| entry.listed.range.span());
        }
        written
    }

    /// Begins to log writes in `ranges`, which are in ascending order. `EINVAL` if logging has begun before.
    pub(super) fn start_logging(&self, ranges: KVec<(u64, u64)>) -> Result {
        self.logging.start(ranges)?;
        // Pinned ranges are logged when they are unpinned.
        for (start, end) in self.written().into_iter().flatten() {
            self.logging.reserve(start, (end - start + 1) as usize);
        }
        Ok(())
    }

    /// Reports what the device has written in `iova..=last`.
    pub(super) fn report_written(
        &self,
        iova: u64,
        last: u64,
        mut report: impl FnMut(u64, u64),
    ) -> Result {
        // Before the log is read: a range that is unpinned in between is in the log then.
        for (start, end) in self.written().into_iter().flatten() {
            if start <= last && iova <= end {
                report(start.max(iova), end.min(last));
            }
        }
        self.logging.read_and_clear(iova, last, report)
    }
}
