// SPDX-License-Identifier: GPL-2.0

//! The list of pinned ranges of one device: a tree, ordered by IOVA.
//!
//! A range has at most [`MAX_PAGES`] pages, so the ranges that overlap an IOVA start less than that
//! before it. So a search takes O(log n), and a walk over the ranges of a mapping does not visit others.

use super::{
    device::OpenDevice,
    range::{
        Access,
        Range, //
    },
};
use kernel::{
    page::PAGE_SIZE,
    prelude::*,
    rbtree::RBTree,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    },
};
use kernel_ext::sched::cond_resched;

/// The most pages of one range: as many as type1 pins in one call.
pub(super) const MAX_PAGES: usize = 512;

/// The most bytes of one range whose start is aligned to a page.
pub(super) const MAX_BYTES: usize = MAX_PAGES * PAGE_SIZE;

/// The most ranges of one device that are not registered memory, such as rings.
const MAX_RINGS: usize = 4;

/// The most ranges of one device that are registered memory: 256 GiB in whole ranges.
pub(super) const MAX_REGISTERED: usize = 1 << 17;

/// The ranges that a walk visits before it lets other tasks run.
const WALK: usize = 1024;

/// State of a range in the list.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Its pages are being pinned.
    Pinning {
        /// Whether it was unmapped meanwhile and must be unpinned.
        revoked: bool,
    },
    /// Its pages are pinned.
    Pinned,
    /// The work item is to unpin its pages.
    Condemned,
    /// Its pages are being unpinned.
    Unpinning,
}

/// Whether a part of some registered memory was unmapped.
pub(super) struct Unmapped(Atomic<bool>);

impl Unmapped {
    /// Nothing was unmapped.
    pub(super) fn new(unmapped: bool) -> Result<Arc<Self>> {
        Ok(Arc::new(Self(Atomic::new(unmapped)), GFP_KERNEL_ACCOUNT)?)
    }

    /// Notes that a part was unmapped.
    pub(super) fn set(&self) {
        self.0.store(true, Relaxed);
    }

    /// Returns whether a part was unmapped.
    pub(super) fn get(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// The place of a range in the list: the IOVA of its first page, and a number that no other range has.
pub(super) type Place = (u64, u64);

/// A range. The list and its holder share it.
#[pin_data]
pub(super) struct Listed {
    #[pin]
    pub(super) range: Range,
    /// Its place in the list.
    pub(super) place: Place,
    /// The registered memory that it is a part of, if any.
    unmapped: Option<Arc<Unmapped>>,
}

impl Listed {
    /// Returns a range that is in no list yet.
    pub(super) fn new(
        number: u64,
        range: impl PinInit<Range>,
        start: u64,
        unmapped: Option<Arc<Unmapped>>,
    ) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                range <- range,
                place: (start, number),
                unmapped,
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Notes that a part of its memory was unmapped.
    pub(super) fn note_unmapped(&self) {
        if let Some(unmapped) = &self.unmapped {
            unmapped.set();
        }
    }
}

/// A range in the list.
pub(super) struct Entry {
    pub(super) listed: Arc<Listed>,
    pub(super) state: State,
    /// How many looks of type1 found it.
    pub(super) looks: u32,
}

/// The ranges of one device.
pub(super) struct List {
    entries: RBTree<Place, Entry>,
    /// How many of them are not registered memory.
    rings: usize,
    /// How many of them are registered memory.
    registered: usize,
    /// How many of them are condemned.
    condemned: usize,
}

impl List {
    /// Returns an empty list.
    pub(super) fn new() -> Self {
        Self {
            entries: RBTree::new(),
            rings: 0,
            registered: 0,
            condemned: 0,
        }
    }

    /// Returns the count that a range belongs to, and its limit.
    fn count(&mut self, registered: bool) -> (&mut usize, usize) {
        if registered {
            (&mut self.registered, MAX_REGISTERED)
        } else {
            (&mut self.rings, MAX_RINGS)
        }
    }

    /// Returns `EBUSY` if no range may be added.
    pub(super) fn has_room(&mut self, registered: bool) -> Result {
        let (count, limit) = self.count(registered);
        if *count >= limit {
            return Err(EBUSY);
        }
        Ok(())
    }

    /// Adds a range that is about to be pinned. The caller has looked whether there is room.
    pub(super) fn add(&mut self, listed: &Arc<Listed>) -> Result {
        let entry = Entry {
            listed: listed.clone(),
            state: State::Pinning { revoked: false },
            looks: 0,
        };
        self.entries
            .try_create_and_insert(listed.place, entry, GFP_KERNEL_ACCOUNT)?;
        *self.count(listed.unmapped.is_some()).0 += 1;
        Ok(())
    }

    /// Returns the entry of a range.
    pub(super) fn get_mut(&mut self, listed: &Listed) -> Option<&mut Entry> {
        self.entries.get_mut(&listed.place)
    }

    /// Removes a range.
    pub(super) fn remove(&mut self, listed: &Listed) -> Option<Entry> {
        let entry = self.entries.remove(&listed.place)?;
        *self.count(listed.unmapped.is_some()).0 -= 1;
        Some(entry)
    }

    /// Calls `visit` with the ranges that have a page in `first..=last`, from `from` on, until it returns
    /// `false`.
    fn walk(
        &mut self,
        from: Place,
        first: u64,
        last: u64,
        mut visit: impl FnMut(&mut Entry) -> bool,
    ) {
        let mut cursor = self.entries.cursor_lower_bound_mut(&from);
        let mut visited = 0;
        while let Some(mut at) = cursor {
            let (place, entry) = at.current_mut();
            if place.0 > last || (entry.listed.range.overlaps(first, last) && !visit(entry)) {
                return;
            }
            visited += 1;
            if visited % WALK == 0 {
                cond_resched();
            }
            cursor = at.move_next();
        }
    }

    /// Calls `visit` with each range that has a page in `first..=last`, until it returns `false`.
    pub(super) fn overlapping(
        &mut self,
        first: u64,
        last: u64,
        visit: impl FnMut(&mut Entry) -> bool,
    ) {
        let from = first.saturating_sub(MAX_BYTES as u64);
        self.walk((from, 0), first, last, visit);
    }

    /// Returns whether a range has a page in `first..=last`.
    pub(super) fn is_clear(&mut self, first: u64, last: u64) -> bool {
        let mut clear = true;
        self.overlapping(first, last, |_| {
            clear = false;
            false
        });
        clear
    }

    /// Condemns the pinned ranges that have a page in `first..=last`, and revokes those that are being
    /// pinned. Returns how many looks have found the range that was found most often, with this one.
    pub(super) fn condemn(&mut self, first: u64, last: u64) -> u32 {
        let (mut looks, mut condemned) = (0, 0);
        self.overlapping(first, last, |entry| {
            entry.looks += 1;
            looks = looks.max(entry.looks);
            entry.listed.note_unmapped();
            match &mut entry.state {
                State::Pinning { revoked } => *revoked = true,
                state @ State::Pinned => {
                    *state = State::Condemned;
                    condemned += 1;
                }
                State::Condemned | State::Unpinning => {}
            }
            true
        });
        self.condemned += condemned;
        looks
    }

    /// Makes a condemned range `Unpinning` and returns it: the first from `from` on, or else the first of
    /// all.
    pub(super) fn take_condemned(&mut self, from: Place) -> Option<Arc<Listed>> {
        for from in [from, (0, 0)] {
            if self.condemned == 0 {
                return None;
            }
            if let Some(found) = self.take(from, 0, u64::MAX, State::Condemned) {
                self.condemned -= 1;
                return Some(found);
            }
        }
        None
    }

    /// Makes the first pinned range that has a page in `first..=last`, from `from` on, `Unpinning` and
    /// returns it.
    pub(super) fn take_pinned(
        &mut self,
        from: Place,
        first: u64,
        last: u64,
    ) -> Option<Arc<Listed>> {
        let from = from.max((first.saturating_sub(MAX_BYTES as u64), 0));
        self.take(from, first, last, State::Pinned)
    }

    /// Makes the first range in `state` `Unpinning` and returns it.
    fn take(&mut self, from: Place, first: u64, last: u64, state: State) -> Option<Arc<Listed>> {
        let mut found = None;
        self.walk(from, first, last, |entry| {
            if entry.state == state {
                entry.state = State::Unpinning;
                found = Some(entry.listed.clone());
            }
            found.is_none()
        });
        found
    }
}

/// Returns the first page, the number of pages and the bytes before the range of `len` bytes at `iova`.
/// `E2BIG` if there are too many pages.
pub(super) fn pages_of(iova: u64, len: usize) -> Result<(u64, usize, usize)> {
    let head = iova as usize % PAGE_SIZE;
    let count = (head + len).div_ceil(PAGE_SIZE);
    if count > MAX_PAGES {
        return Err(E2BIG);
    }
    Ok((iova - head as u64, count, head))
}

/// A range to pin.
pub(super) struct Request {
    /// The device that the pages are pinned for.
    pub(super) device: OpenDevice,
    /// IOVA of the first byte.
    pub(super) iova: u64,
    /// Number of bytes, not 0. The range does not wrap.
    pub(super) len: usize,
    /// The access to the pages.
    pub(super) access: Access,
    /// The registered memory that the range is a part of, if any.
    pub(super) unmapped: Option<Arc<Unmapped>>,
}
