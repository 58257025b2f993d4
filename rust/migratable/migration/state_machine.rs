// SPDX-License-Identifier: GPL-2.0

//! The migration state of a device, and its session.
//!
//! All front ends drive the same state. A session is open while a device is saved or
//! loaded. It belongs to the front end that opened it; another one gets `EBUSY` (P48).
//!
//! # Locks
//!
//! ```text
//!   inner              this file's mutex: the state, the session, what is staged
//!     worker.control   while the worker is stopped or run
//!     driver's locks   in the callbacks of a migration, reset(), prepare_stop(), stopped()
//!       dma.pins, type1's iommu->lock     when a driver unpins memory
//!       memory.lock    write protection, discarding
//! ```
//!
//! A thread holds `inner` while it waits for the worker's unit in progress. So a unit of work must not take
//! `inner`, and has no access to it. That wait can take as long as a page fault of the user, so a thread
//! that waits for `inner` can be killed. Nobody holds `inner` over a copy to or from the user that waits for
//! a page. The user may give memory whose page faults take `memory.lock` or never end. A register read
//! computes its value under the lock and copies it afterwards; a register write copies first.
//!
//! A reset waits for the change of state or the staging in progress. Each of them ends by itself. The
//! threads that wait behind the reset find the device running. So the reset is neither lost nor stuck.

use super::{
    data_section_config::DataSectionConfig,
    link::Link,
    owner::{
        Owner,
        Staged, //
    },
    times::Times, //
};
use crate::{
    memory::{
        DeviceMemory,
        DirtyNotifier, //
    },
    part_changes::PartChanges, //
};
use core::sync::atomic::AtomicU64;
use kernel::{
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    },
    time::{
        delay::fsleep,
        Delta, //
    },
};
use kernel_ext::mutex::{
    new_killable_mutex,
    Guard,
    Mutex, //
};
use migration::{
    dirty::DirtyMap,
    dirty_query::Query,
    generation::Generation,
    load, save,
    state::State,
    stream::{
        self,
        Changes,
        Identity,
        PartTable, //
    },
    v2018::Registers,
};

/// How often [`StateMachine::lock_briefly`] tries.
const TRIES: u32 = 500;

/// The time between two tries.
const TRY: Delta = Delta::from_millis(1);

/// How long [`StateMachine::lock`] lets such threads in: several tries.
const LET_IN: Delta = Delta::from_millis(5);

/// The part under the mutex.
pub(super) struct Inner {
    /// The state.
    pub(super) state: State,
    /// The device is open.
    pub(super) open: bool,
    /// The device was opened before, so its generation and its data section stay.
    pub(super) was_open: bool,
    /// How long the device was in each state.
    pub(super) times: Times,
    /// The front end with the open session.
    pub(super) owner: Owner,
    /// Buffers staged so far.
    pub(super) number: u64,
    /// What the user asked of the dirty pages of guest memory.
    pub(super) query: Query,
    /// The registers of the region of 2018.
    pub(super) v2018: Registers,
    /// The totals of the last save.
    pub(super) saved: save::Stats,
    /// The totals of the last load.
    pub(super) loaded: load::Stats,
}

/// The migration state of one device.
#[pin_data]
pub(crate) struct StateMachine {
    pub(super) identity: Identity,
    /// The parts of the device's state.
    pub(super) parts: PartTable,
    /// The parts that have changed.
    pub(super) part_changes: PartChanges,
    /// The dirty map of a device without memory.
    pub(super) no_pages: DirtyMap<KVVec<AtomicU64>>,
    /// Wakes the threads that poll for something to send.
    pub(super) dirty_notifier: Arc<DirtyNotifier>,
    /// The last close leaves the device as it is. Changed with `inner` locked.
    pub(super) keep: Atomic<bool>,
    /// Whether memory in a stream has checksums. The next save looks at it.
    checksums: Atomic<bool>,
    /// The generation of the region, by number. Changed with `inner` locked, before the first open.
    generation: Atomic<u32>,
    /// The state. Locking it fails with `EINTR` if the task is killed before it gets it.
    #[pin]
    pub(super) inner: Mutex<Inner>,
    /// The threads that try to lock the state only to look at it.
    onlookers: Atomic<u32>,
}

/// The locked state.
pub(super) type Locked<'a> = Guard<'a, Inner>;

impl Inner {
    /// Returns the data file of a v2 session.
    pub(super) fn file(&self) -> Option<&dyn Link> {
        match &self.owner {
            Owner::V2 { file, .. } => Some(&**file),
            Owner::None | Owner::Region { .. } => None,
        }
    }

    /// Returns whether `file` is the session's data file.
    pub(super) fn is_file<T: Link>(&self, file: &T) -> bool {
        self.file()
            .is_some_and(|mine| core::ptr::addr_eq(mine, file))
    }

    /// Returns the buffer that a region has staged and not consumed.
    pub(super) fn staged(&self) -> Option<Staged> {
        match self.owner {
            Owner::Region { staged, .. } => staged,
            Owner::None | Owner::V2 { .. } => None,
        }
    }

    /// Returns the value of `data_size` while saving: the bytes of the buffer that `data_offset` offered.
    pub(super) fn offered(&self) -> u64 {
        match self.staged() {
            Some(staged) if staged.offered => staged.len as u64,
            _ => 0,
        }
    }

    /// Drops a region's staged buffer if its number is `number` and `data_offset` was read.
    pub(super) fn consume(&mut self, number: u64) {
        if let Owner::Region { staged, .. } = &mut self.owner {
            if staged.is_some_and(|s| s.offered && s.number == number) {
                *staged = None;
            }
        }
    }

    /// Enters `state`. Returns whether it is another one.
    pub(super) fn enter(&mut self, state: State) -> bool {
        let changes = state != self.state;
        if changes {
            self.times.leave(self.state);
            self.state = state;
        }
        changes
    }
}

/// Converts an error of crate `migration`.
pub(super) fn errno(error: stream::Error) -> Error {
    Error::from_errno(-error.errno())
}

impl StateMachine {
    /// Returns the state of a device that is not open.
    ///
    /// `EINVAL` if a buffer of the data section is too small for a device of this identity.
    pub(crate) fn new(
        identity: Identity,
        parts: PartTable,
        memory: Option<&DeviceMemory>,
        section: DataSectionConfig,
    ) -> Result<impl PinInit<Self>> {
        identity.validate().map_err(errno)?;
        DataSectionConfig::check_room(section.size(), section.generation(), &identity)?;
        let no_pages = DirtyMap::new(KVVec::new(), 0).ok_or(EINVAL)?;
        let dirty_notifier = match memory {
            Some(memory) => memory.dirty_notifier(),
            None => DirtyNotifier::new()?,
        };
        Ok(pin_init!(Self {
            identity,
            parts,
            part_changes: PartChanges::new(),
            no_pages,
            dirty_notifier,
            keep: Atomic::new(false),
            checksums: Atomic::new(true),
            generation: Atomic::new(section.generation() as u32),
            inner <- new_killable_mutex!(
                Inner {
                    state: State::Running,
                    open: false,
                    was_open: false,
                    times: Times::new(),
                    owner: Owner::None,
                    number: 0,
                    query: Query::default(),
                    v2018: Registers::default(),
                    saved: save::Stats::default(),
                    loaded: load::Stats::default(),
                },
                "migration state"
            ),
            onlookers: Atomic::new(0),
        }))
    }

    /// Locks the state. `EINTR` if the task is killed before it gets it.
    ///
    /// A user who loads one buffer after the other leaves it unlocked too shortly for a thread that tries from
    /// time to time. So this lets such threads in before.
    pub(super) fn lock(&self) -> Result<Locked<'_>> {
        if self.onlookers.load(Relaxed) != 0 {
            fsleep(LET_IN);
        }
        self.inner.lock()
    }

    /// Locks the state for a thread that only looks at it. `None` if another thread keeps it locked, for
    /// example while it waits for the end of a unit of work.
    pub(super) fn lock_briefly(&self) -> Option<Locked<'_>> {
        let mut inner = self.inner.try_lock();
        if inner.is_none() {
            self.onlookers.fetch_add(1, Relaxed);
            for _ in 0..TRIES {
                fsleep(TRY);
                inner = self.inner.try_lock();
                if inner.is_some() {
                    break;
                }
            }
            self.onlookers.fetch_sub(1, Relaxed);
        }
        inner
    }

    /// Returns the bit of the part with this number; 0 if there is no such part.
    pub(crate) fn parts_bit(&self, number: u32) -> u32 {
        match self.parts.index(number.into()) {
            Some(index) => 1 << index,
            None => 0,
        }
    }

    /// Lets a save in progress know of changes, and wakes the threads that poll for them.
    pub(crate) fn change_parts(&self, changes: Changes) {
        self.part_changes.add(changes);
        self.notify();
    }

    /// Wakes the threads that poll.
    pub(crate) fn notify(&self) {
        self.dirty_notifier.notify();
    }

    /// Returns whether the last close leaves the device as it is.
    pub(super) fn keeps_state(&self) -> bool {
        self.keep.load(Relaxed)
    }

    /// Returns whether memory in the stream of the next save has checksums.
    pub(crate) fn has_checksums(&self) -> bool {
        self.checksums.load(Relaxed)
    }

    /// Sets what [`StateMachine::has_checksums`] returns.
    pub(crate) fn set_checksums(&self, on: bool) {
        self.checksums.store(on, Relaxed);
    }

    /// Returns the generation of the region.
    #[inline]
    pub(crate) fn generation(&self) -> Generation {
        Generation::from_number(self.generation.load(Relaxed)).unwrap_or_default()
    }

    /// Sets what [`StateMachine::generation`] returns. Called with `inner` locked.
    pub(super) fn set_generation(&self, generation: Generation) {
        self.generation.store(generation as u32, Relaxed);
    }

    /// Allocates a buffer for the state of the driver with its parts.
    pub(super) fn buffer(&self) -> Result<KVVec<u8>> {
        kernel_ext::zeroed(self.identity.state_size_max as usize + self.parts.buffer_size())
    }
}
