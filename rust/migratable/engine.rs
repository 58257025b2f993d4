// SPDX-License-Identifier: GPL-2.0

//! The engine runs a device.
//!
//! A device works in units, each a call of [`Driver::work`] by the [`Worker`]. It runs while all
//! [`Gate`]s are open. Closing a gate returns when the unit in progress has ended and no other can
//! start (P9). A [`kick`](Engine::kick) meanwhile is remembered and acts when the last gate opens (P52).
//!
//! The worker is a task of the process that sets bus master. It stays while bus master is off, so that a
//! guest that turns bus master off and on does not create a task each time. It goes when the device is
//! closed, when its process ends, and when another process sets bus master.
//!
//! # Locks
//!
//! `control` serialises the threads that close gates. It is held while they wait for the unit in
//! progress. So a unit must not close a gate, and must not take a lock under which a gate is closed:
//! neither `control` nor the mutex of the migration state.
//!
//! Each gate is opened and closed under the lock of its owner: the configuration space, the migration
//! state, or VFIO (open and close).
//!
//! [`Driver::work`]: crate::Driver::work

use core::{
    ptr::NonNull,
    sync::atomic::{
        AtomicBool,
        AtomicU32,
        Ordering::SeqCst, //
    },
};
use kernel::prelude::*;
use kernel_ext::{
    event::Event,
    kcov::Beneficiary,
    mutex::{
        self,
        new_killable_mutex, //
    },
    sched::cond_resched,
    worker::{
        AtomicMm,
        Job,
        Mm,
        Turn,
        Worker, //
    },
};

/// What a unit of work left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkResult {
    /// Nothing: sleep until [`Device::kick`](crate::Device::kick).
    Idle,
    /// More: run the next unit as soon as the worker may.
    Again,
    /// More, but not before that many milliseconds have passed.
    After(u32),
}

/// A condition for the device to run. All must hold.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Gate {
    /// The device is open.
    Open = 1 << 0,
    /// The migration state is one in which the device may do DMA. The only gate open at first.
    Running = 1 << 1,
    /// The device is bus master.
    BusMaster = 1 << 2,
}

/// All gates open.
const OPEN: u32 = Gate::Open as u32 | Gate::Running as u32 | Gate::BusMaster as u32;

/// The worker runs units. Set by the worker while all gates are open, and cleared by the worker.
const WORKING: u32 = 1 << 29;

/// There is something to do after a time that the worker knows, or when the last gate opens.
const LATER: u32 = 1 << 30;

/// There is something to do.
const KICKED: u32 = 1 << 31;

/// The most units that are run without giving up the worker.
const UNITS: u32 = 64;

/// Runs the units of work of one device, which is `J`.
#[pin_data]
pub(crate) struct Engine<J> {
    /// The open gates, `WORKING`, `LATER` and `KICKED`.
    gates: AtomicU32,
    /// Runs the units.
    #[pin]
    worker: Worker<J>,
    /// Serialises the closing of gates.
    #[pin]
    control: mutex::Mutex<()>,
    /// Notified when `WORKING` is cleared and a gate is closed.
    #[pin]
    rested: Event,
    /// For fuzzers: the task for which the units are run.
    user: Beneficiary,
    /// The process that opened the device.
    opener: AtomicMm,
    /// The log has said that another process has set bus master.
    foreign: AtomicBool,
}

impl<J: Job> Engine<J> {
    /// Creates an engine whose worker is called `name`.
    pub(crate) fn new(name: &'static CStr) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            gates: AtomicU32::new(Gate::Running as u32),
            worker <- Worker::new(name),
            control <- new_killable_mutex!((), "engine control"),
            rested <- Event::new(),
            user: Beneficiary::nobody(),
            opener: AtomicMm::nobody(),
            foreign: AtomicBool::new(false),
        })
    }

    /// Runs the units in a task of the current process.
    ///
    /// Does nothing if such a task runs them already. Call it before `Gate::BusMaster` opens, and from
    /// one thread at a time. The errors are those of [`Worker::adopt`]: the caller leaves the gate as it
    /// is.
    ///
    /// # Safety
    ///
    /// `device` must be valid until [`Engine::stop`] has returned.
    pub(crate) unsafe fn adopt(&self, device: NonNull<J>) -> Result {
        // SAFETY: By the requirement of this function.
        unsafe { self.worker.adopt(device) }
    }
}

impl<J> Engine<J> {
    /// The current task opens the device. Fuzzers count the units for it from now on.
    pub(crate) fn opened(&self) {
        self.user.set_current();
        self.opener.store(Mm::current());
        self.foreign.store(false, SeqCst);
    }

    /// Returns whether a worker is alive.
    pub(crate) fn has_worker(&self) -> bool {
        self.worker.lives()
    }

    /// Returns, once after an opening, whether the current process is not the one that opened the device.
    pub(crate) fn is_foreign(&self) -> bool {
        Mm::current() != self.opener.load() && !self.foreign.swap(true, SeqCst)
    }

    /// Opens a gate. If it is the last one, the device runs if it was kicked.
    pub(crate) fn open_gate(&self, gate: Gate) {
        let gate = gate as u32;
        let before = self.gates.fetch_or(gate, SeqCst);
        // The worker may be asleep until the end of a pause. A stop in the pause ends it.
        if before & gate == 0 && before & (KICKED | LATER) != 0 {
            self.gates.fetch_or(KICKED, SeqCst);
            self.worker.wake();
        }
    }

    /// Closes a gate. If all were open, waits for the unit in progress and then calls `stopped`.
    ///
    /// `EINTR` if the caller is killed while it waits: the gate is open then, as before.
    pub(crate) fn close_gate(&self, gate: Gate, stopped: impl FnOnce()) -> Result {
        let _control = self.control.lock()?;
        if self.shut(gate) {
            if let Err(error) = self.rest(|seen| self.rested.wait_killable(seen)) {
                self.open_gate(gate);
                return Err(error);
            }
            stopped();
        }
        Ok(())
    }

    /// The device is being closed: closes the gates of its user, and gives up the worker. Calls `stopped`
    /// if the device could run.
    ///
    /// Forgets a kick: the queue may be the next user's by now. If the state is kept over the close, the
    /// device does nothing before that user kicks it.
    ///
    /// Waits for the unit in progress without a limit. If the worker is a task of the process that closes
    /// the device, and that process is killed, the unit ends.
    pub(crate) fn close(&self, stopped: impl FnOnce()) {
        let _control = self.control.lock_closing();
        let ran = self.shut(Gate::Open);
        self.shut(Gate::BusMaster);
        if ran {
            let _ = self.rest(|seen| {
                self.rested.wait(seen, None);
                Ok(())
            });
            stopped();
        }
        self.gates.fetch_and(!(KICKED | LATER), SeqCst);
        self.worker.retire();
    }

    /// Ends the worker, and returns when it does not use the device any more.
    ///
    /// The device is closed. A unit must not call this.
    pub(crate) fn stop(&self) {
        self.worker.stop();
    }

    /// Closes a gate, and returns whether the device could run until then.
    ///
    /// No unit starts after this: `run` looks at the gates before each.
    fn shut(&self, gate: Gate) -> bool {
        let before = self.gates.fetch_and(!(gate as u32), SeqCst);
        before & OPEN == OPEN
    }

    /// Waits, by `wait`, until the worker runs no units. A gate is closed.
    fn rest(&self, wait: impl Fn(u64) -> Result) -> Result {
        loop {
            let seen = self.rested.generation();
            if self.gates.load(SeqCst) & WORKING == 0 {
                return Ok(());
            }
            wait(seen)?;
        }
    }

    /// Runs a unit soon, or remembers to run one once the device may run.
    ///
    /// May be called in any context.
    pub(crate) fn kick(&self) {
        let before = self.gates.fetch_or(KICKED, SeqCst);
        // Only the first kick wakes the worker; if a gate is closed, opening the last one does.
        if before & (OPEN | KICKED) == OPEN {
            self.worker.wake();
        }
    }

    /// Returns whether there is a unit to run now. See [`Job::is_due`].
    pub(crate) fn is_due(&self) -> bool {
        self.gates.load(SeqCst) & (OPEN | KICKED) == OPEN | KICKED
    }

    /// Runs units by `work`, in the worker. See [`Job::run`].
    pub(crate) fn run(&self, work: impl FnMut() -> WorkResult) -> Turn {
        let turn = {
            let _coverage = self.user.section();
            self.units(work)
        };
        let before = self.gates.fetch_and(!WORKING, SeqCst);
        if before & OPEN != OPEN {
            self.rested.notify();
        }
        turn
    }

    /// Takes the right to run a unit, if all gates are open.
    fn begin(&self) -> bool {
        // One atomic access: a kick between a look at the gates and the clearing would be lost to the
        // thread that closes a gate.
        self.gates
            .fetch_update(SeqCst, SeqCst, |gates| {
                (gates & OPEN == OPEN).then_some(gates & !(KICKED | LATER) | WORKING)
            })
            .is_ok()
    }

    /// Runs units until nothing is left to do, a gate closes, or others should have a turn.
    fn units(&self, mut work: impl FnMut() -> WorkResult) -> Turn {
        for _ in 0..UNITS {
            if !self.begin() {
                return Turn::Idle;
            }
            match work() {
                WorkResult::Idle => return Turn::Idle,
                WorkResult::Again => self.gates.fetch_or(KICKED, SeqCst),
                WorkResult::After(msecs) => {
                    self.gates.fetch_or(LATER, SeqCst);
                    return Turn::After(msecs);
                }
            };
            // Between two turns the task handles the signal: it dies, freezes or stops.
            if kernel::current!().signal_pending() {
                break;
            }
            // A worker may sleep here.
            cond_resched();
        }
        Turn::Again
    }
}
