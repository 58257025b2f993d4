// SPDX-License-Identifier: GPL-2.0

//! The list of what is pinned, and its states.
//!
//! ```text
//!             pin()          vfio_pin_pages() done
//!   (none) ─────────► Pinning ───────────────────► Pinned ────────► Condemned
//!                        │                            │    unmap        │
//!                        │  unmapped meanwhile        │ drop, close     │ worker
//!                        └─────────────────────────► Unpinning ◄────────┘
//!                                                        │ vfio_unpin_pages() done
//!                                                        ▼
//!                                                      (none)
//! ```
//!
//! A range is in the list from before its first page is pinned until after its last is unpinned.
//! Who makes it `Unpinning` unpins it, so it happens once.
//!
//! # Unmapping
//!
//! type1 asks for pages to be unpinned with its `device_list_lock` held and `iommu->lock`, which
//! unpinning takes, given up. But another thread that unmaps may hold the latter by then and wait
//! for the former: whoever unpins in the callback, or waits there for someone who does, then waits
//! for ever. So a worker unpins, and the callback waits for that, but not for long once the worker is
//! at it. If it returns early type1 finds the pages still pinned, waits for its lock behind the
//! worker, and looks again; it would take ten such looks, each longer than the one before, for it
//! to panic the host (P35).

use super::{
    hold::{
        self,
        Holds, //
    },
    pinned::{
        PinnedRange,
        Range, //
    },
    Access,
    Logging,
    OpenDevice, //
};
use crate::{
    bindings,
    event::Event, //
};
use core::ptr;
use kernel::{
    error::to_result,
    new_mutex,
    page::{
        PAGE_MASK,
        PAGE_SIZE, //
    },
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    },
    types::Opaque, //
};

/// The most pages type1 pins in one call.
const BATCH: usize = 512;

/// The most pages of one range.
const MAX_PAGES: usize = (64 << 20) / PAGE_SIZE;

/// How long type1 is kept waiting at first, in nanoseconds, for what may be waiting for type1.
const PATIENCE: i64 = 1_000_000_000;

/// The number of times that doubles, one for each time type1 looks again: ten looks are more than
/// half a minute, in which a worker gets to run. Less than what [`hold`] remembers in the end.
const DOUBLINGS: u32 = 2;

/// State of a range in the list.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Its pages are being pinned.
    Pinning {
        /// It was unmapped meanwhile, and must be unpinned.
        revoked: bool,
    },
    /// Its pages are pinned.
    Pinned,
    /// Its pages are for the worker to unpin.
    Condemned,
    /// Its pages are being unpinned.
    Unpinning,
}

/// A range in the list.
struct Entry {
    range: Arc<Range>,
    state: State,
}

/// What `Pins` locks.
struct List {
    entries: KVec<Entry>,
    holds: Holds,
    /// The worker is at it.
    working: bool,
}

/// What is pinned of one device's guest memory.
#[pin_data(PinnedDrop)]
pub(super) struct Pins {
    /// What was written of it.
    #[pin]
    pub(super) logging: Logging,
    #[pin]
    list: Mutex<List>,
    /// Notified when an entry leaves the list, and when the worker begins.
    #[pin]
    changed: Event,
    /// The work item, which is `work`.
    #[pin]
    work: Opaque<bindings::work_struct>,
}

// SAFETY: A work item may be queued, and waited for, on any thread.
unsafe impl Send for Pins {}

// SAFETY: As above; all that changes is behind the lock.
unsafe impl Sync for Pins {}

impl List {
    /// Where a range is in the list.
    fn find(&mut self, range: &Range) -> Option<usize> {
        self.entries
            .iter()
            .position(|entry| ptr::eq(&*entry.range, range))
    }

    /// The ranges with a page in `first..=last`.
    fn overlapping(&mut self, first: u64, last: u64) -> impl Iterator<Item = &mut Entry> {
        self.entries
            .iter_mut()
            .filter(move |entry| entry.range.overlaps(first, last))
    }

    /// Removes a range from the list.
    fn remove(&mut self, range: &Range) -> Option<Entry> {
        let at = self.find(range)?;
        self.entries.remove(at).ok()
    }
}

impl Pins {
    /// Nothing is pinned.
    pub(super) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                logging <- Logging::new(),
                list <- new_mutex!(
                    List {
                        entries: KVec::new(),
                        holds: Holds::new(),
                        working: false,
                    },
                    "dma pins"
                ),
                changed <- Event::new(),
                work <- Opaque::ffi_init(|slot| {
                    // SAFETY: `slot` is valid for writes and pinned.
                    unsafe { bindings::vfio_rs_init_work(slot, Some(Self::work)) }
                }),
            }),
            GFP_KERNEL,
        )
    }

    /// Pins `len` bytes at `iova`; `None` if that must not be tried yet.
    ///
    /// The range is not empty and does not wrap. The device is open for the length of the call.
    pub(super) fn pin(
        this: &Arc<Self>,
        device: OpenDevice,
        iova: u64,
        len: usize,
        access: Access,
    ) -> Result<Option<PinnedRange>> {
        let start = iova & PAGE_MASK as u64;
        let head = (iova - start) as usize;
        let count = (head + len).div_ceil(PAGE_SIZE);
        if count > MAX_PAGES {
            return Err(E2BIG);
        }
        let last = iova + (len as u64 - 1);

        let mut pages = KVVec::from_elem(ptr::null_mut(), count, GFP_KERNEL)?;
        let range = Range::new(device, start, count, head, len, access)?;

        {
            let mut list = this.list.lock();
            if list.holds.until(iova, last, hold::now()).is_some() {
                return Ok(None);
            }
            list.entries.push(
                Entry {
                    range: range.clone(),
                    state: State::Pinning { revoked: false },
                },
                GFP_KERNEL,
            )?;
        }

        let (done, result) = this.pin_batches(&range, &mut pages);

        let mut list = this.list.lock();
        let entry = list.find(&range).and_then(|at| list.entries.get_mut(at));
        let revoked = !matches!(
            entry.as_ref().map(|entry| entry.state),
            Some(State::Pinning { revoked: false })
        );
        if let Some(entry) = entry {
            if result.is_ok() && !revoked {
                // SAFETY: All pages were pinned, and stay so until `withdraw`.
                unsafe { range.publish(pages) };
                entry.state = State::Pinned;
                drop(list);
                return Ok(Some(PinnedRange::new(range, this.clone())));
            }
            entry.state = State::Unpinning;
        }
        drop(list);

        // SAFETY: `done` pages were pinned above, and were given to nobody.
        unsafe { range.unpin(done) };
        this.leave(&range);
        result?;
        Err(ENODEV)
    }

    /// Pins the pages of a range, in batches; returns how many it pinned and whether that is all.
    fn pin_batches(&self, range: &Range, pages: &mut [*mut bindings::page]) -> (usize, Result) {
        let mut done = 0;
        for batch in pages.chunks_mut(BATCH) {
            // The first batch is tried in any case. A hold began before the entry was listed.
            let revoked = {
                let mut list = self.list.lock();
                match list.find(range).and_then(|at| list.entries.get(at)) {
                    Some(entry) => entry.state != State::Pinning { revoked: false },
                    None => true,
                }
            };
            if revoked {
                return (done, Err(ENODEV));
            }
            match range.pin_batch(done, batch) {
                Ok(n) => {
                    done += n;
                    if n != batch.len() {
                        return (done, Err(EFAULT));
                    }
                }
                Err(error) => return (done, Err(error)),
            }
        }
        (done, Ok(()))
    }

    /// Takes a range off the list, once all of it is unpinned.
    fn leave(&self, range: &Range) {
        let entry = self.list.lock().remove(range);
        self.changed.notify();
        // Not with the list locked.
        drop(entry);
    }

    /// Unpins a range, unless somebody else does.
    pub(super) fn release(&self, range: &Range) {
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
        // It was reported for as long as it was pinned, and may have been written since.
        if range.writable().is_ok() {
            self.logging.wrote(range.start, count * PAGE_SIZE);
        }
        // SAFETY: A pinned range has all its pages pinned, and after `withdraw` nobody uses them.
        unsafe { range.unpin(count) };
        self.leave(range);
    }

    /// Has what overlaps a mapping that is being unmapped unpinned, and keeps it from being pinned
    /// again.
    ///
    /// Returns when nothing there is pinned, or when it has taken longer than it should.
    pub(super) fn unmap(&self, first: u64, last: u64) {
        let patience = {
            let mut list = self.list.lock();
            let mut condemned = false;

            let times = list.holds.report(first, last, hold::now());
            for entry in list.overlapping(first, last) {
                match &mut entry.state {
                    State::Pinning { revoked } => *revoked = true,
                    state @ State::Pinned => {
                        *state = State::Condemned;
                        condemned = true;
                    }
                    State::Condemned | State::Unpinning => {}
                }
            }
            if condemned {
                // SAFETY: The work item was initialised and is pinned, until `drop` has cancelled it.
                unsafe { bindings::vfio_rs_queue_unbound_work(self.work.get()) };
            }
            PATIENCE << times.min(DOUBLINGS)
        };

        let mut deadline = None;
        loop {
            let seen = self.changed.generation();
            let working = {
                let mut list = self.list.lock();
                let (mut clear, mut condemned) = (true, false);

                for entry in list.overlapping(first, last) {
                    clear = false;
                    condemned |= entry.state == State::Condemned;
                }
                if clear {
                    return;
                }
                !condemned || list.working
            };
            if !working {
                // The worker begins in any case: it needs nothing that type1 holds for that.
                self.changed.wait(seen, None);
                continue;
            }

            let now = hold::now();
            let left = *deadline.get_or_insert(now + patience) - now;
            if left <= 0 {
                return;
            }
            self.changed.wait(seen, Some((left / 1_000_000) as u32 + 1));
        }
    }

    /// Unpins what overlaps `first..=last`; returns when nothing there is pinned.
    ///
    /// Not to be called by type1.
    pub(super) fn revoke(&self, first: u64, last: u64) {
        loop {
            let seen = self.changed.generation();
            let mut list = self.list.lock();
            let mut found = None;

            for entry in list.overlapping(first, last) {
                if let State::Pinning { revoked } = &mut entry.state {
                    *revoked = true;
                }
                // One to unpin before those to wait for.
                if found.is_none() || entry.state == State::Pinned {
                    found = Some(entry);
                }
            }
            match found {
                None => return,
                Some(entry) if entry.state == State::Pinned => {
                    entry.state = State::Unpinning;
                    let range = entry.range.clone();
                    drop(list);
                    self.unpin(&range);
                }
                Some(_) => {
                    drop(list);
                    self.changed.wait(seen, None);
                }
            }
        }
    }

    /// Hands `report` the ranges in `first..=last` that are pinned for writing.
    #[cfg(CONFIG_IOMMUFD_DRIVER)]
    pub(super) fn each_written(&self, first: u64, last: u64, mut report: impl FnMut(u64, u64)) {
        for entry in self.list.lock().overlapping(first, last) {
            let (start, end) = entry.range.span();
            if entry.range.writable().is_ok() {
                report(start.max(first), end.min(last));
            }
        }
    }

    /// The work function.
    ///
    /// # Safety
    ///
    /// Called for the `work` field of a [`Pins`].
    unsafe extern "C" fn work(work: *mut bindings::work_struct) {
        // SAFETY: By the requirement of this function, and the list is not dropped before the work item
        // has ended.
        let this = unsafe { &*kernel::container_of!(Opaque::cast_from(work), Self, work) };

        this.list.lock().working = true;
        this.changed.notify();
        loop {
            let range = {
                let mut list = this.list.lock();
                let condemned = list
                    .entries
                    .iter_mut()
                    .find(|entry| entry.state == State::Condemned);
                let Some(entry) = condemned else {
                    list.working = false;
                    return;
                };
                entry.state = State::Unpinning;
                entry.range.clone()
            };
            this.unpin(&range);
        }
    }

    /// Sleeps until a range may be pinned.
    pub(super) fn wait_for_hold(&self, iova: u64, len: usize) {
        let last = iova.saturating_add((len as u64).saturating_sub(1));
        let now = hold::now();
        let until = self.list.lock().holds.until(iova, last, now);
        if let Some(until) = until {
            let msecs = (until - now) / 1_000_000 + 1;
            // SAFETY: Nothing is held that forbids sleeping. At most 256 ms fit in the type.
            unsafe { bindings::msleep(msecs as u32) };
        }
    }
}

#[pinned_drop]
impl PinnedDrop for Pins {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: The work item was initialised and is pinned. It has no reference to this, so it is
        // not what drops it.
        unsafe { bindings::cancel_work_sync(self.work.get()) };
    }
}

impl Range {
    /// Pins one batch of pages from page `at` on; returns how many type1 pinned.
    fn pin_batch(&self, at: usize, pages: &mut [*mut bindings::page]) -> Result<usize> {
        let iova = self.start + (at * PAGE_SIZE) as u64;
        // SAFETY: The device is open for the length of `Pins::pin`; the array has this many places.
        let ret = unsafe {
            bindings::vfio_pin_pages(
                self.device.0.as_ptr(),
                iova,
                pages.len() as i32,
                self.prot(),
                pages.as_mut_ptr(),
            )
        };
        to_result(ret)?;
        Ok(ret as usize)
    }

    /// Unpins the first `count` pages, in the batches they were pinned in.
    ///
    /// # Safety
    ///
    /// These pages must be pinned, and nobody may use them any more. The device must be open.
    unsafe fn unpin(&self, count: usize) {
        let mut at = 0;
        while at < count {
            let n = BATCH.min(count - at);
            let iova = self.start + (at * PAGE_SIZE) as u64;
            // SAFETY: By the requirements of this function.
            unsafe { bindings::vfio_unpin_pages(self.device.0.as_ptr(), iova, n as i32) };
            at += n;
        }
    }
}
