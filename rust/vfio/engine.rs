// SPDX-License-Identifier: GPL-2.0

//! The engine: what runs a device.
//!
//! A device works in steps, each a call of [`Runnable::step`] by the [`Worker`]. It
//! runs while all [`Gate`]s are open. Closing one returns when the step in flight has ended and none can
//! start (P9). A [`kick`](Engine::kick) meanwhile is remembered and acts when the last gate opens (P52).
//!
//! The worker is a task of the process that sets bus master. It stays while bus master is off, so that a
//! guest that turns bus master off and on does not make a task each time. It goes when the device is
//! closed, when its process ends, and when another process sets bus master.
//!
//! # Locks
//!
//! `control` serialises those who close gates, and is held while a step in flight is waited for. A step
//! therefore must not close a gate, and takes none of the locks that a gate is closed under: not
//! `control`, and not the migration state's mutex.
//!
//! Each gate is moved under a lock of its owner: that of the configuration space, the migration state's,
//! or VFIO's for opening and closing.

use crate::{
    bindings,
    event::Event,
    kcov::Beneficiary,
    mutex::{
        self,
        new_killable_mutex, //
    },
    worker::{
        AtomicMm,
        Job,
        Mm,
        Turn,
        Worker, //
    },
};
use core::{
    ptr::NonNull,
    sync::atomic::{
        AtomicBool,
        AtomicU32,
        Ordering::SeqCst, //
    },
};
use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    },
};

/// What a step left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: sleep until [`Handle::kick`](crate::Handle::kick).
    Idle,
    /// More: run the next step as soon as the worker may.
    Again,
    /// More, but not before that many milliseconds have passed.
    After(u32),
}

/// A device, as far as the engine needs to know it.
pub(crate) trait Runnable: Send + Sync {
    /// Does one bounded unit of work. May sleep.
    fn step(&self) -> Step;

    /// The device was stopped: the last step has ended.
    fn stopped(&self);
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

/// Next to the gates: the worker is at the steps. Set by the worker while all gates are open, and cleared
/// by the worker.
const STEPPING: u32 = 1 << 29;

/// There is something to do after a time that the worker knows, or when the last gate opens.
const LATER: u32 = 1 << 30;

/// There is something to do.
const KICKED: u32 = 1 << 31;

/// Steps run without giving up the worker.
const STEPS: u32 = 64;

/// Runs the steps of one device.
#[pin_data(PinnedDrop)]
pub(crate) struct Engine {
    /// The gates that are open, `STEPPING`, `LATER` and `KICKED`.
    gates: AtomicU32,
    /// What runs the steps.
    #[pin]
    worker: Worker<Engine>,
    /// Serialises the closing of gates.
    #[pin]
    control: mutex::Mutex<()>,
    /// Notified when `STEPPING` goes and a gate is closed.
    #[pin]
    rested: Event,
    /// For fuzzers: whom the steps are for.
    user: Beneficiary,
    /// The process that opened the device.
    opener: AtomicMm,
    /// It was said that another process has set bus master.
    foreign: AtomicBool,
    /// The device. Locked for as long as it takes to copy the reference.
    #[pin]
    device: Mutex<Option<Arc<dyn Runnable>>>,
}

impl Engine {
    /// Makes an engine whose worker is called `name`.
    pub(crate) fn new(name: &'static CStr) -> Result<Arc<Self>> {
        Arc::pin_init(
            try_pin_init!(Self {
                gates: AtomicU32::new(Gate::Running as u32),
                worker <- Worker::new(name),
                control <- new_killable_mutex!((), "engine control"),
                rested <- Event::new(),
                user: Beneficiary::nobody(),
                opener: AtomicMm::nobody(),
                foreign: AtomicBool::new(false),
                device <- new_mutex!(None, "engine device"),
            }),
            GFP_KERNEL,
        )
    }

    /// Gives the engine the device to run.
    pub(crate) fn attach(&self, device: Arc<dyn Runnable>) {
        *self.device.lock() = Some(device);
    }

    /// Takes the device away, after its last step. The device is closed.
    pub(crate) fn detach(&self) {
        self.close();
        // Not in one expression with the lock: the device may go with the reference.
        let device = self.device.lock().take();
        // A turn that found a gate closed has a reference too. Were it the last one, the engine would be
        // dropped by its worker.
        self.worker.stop();
        drop(device);
    }

    /// The current task opens the device. From now on steps are for it, as fuzzers see it.
    pub(crate) fn opened(&self) {
        self.user.set_current();
        self.opener.store(Mm::current());
        self.foreign.store(false, SeqCst);
    }

    /// Whether there is a worker that lives.
    pub(crate) fn has_worker(&self) -> bool {
        self.worker.lives()
    }

    /// Whether the current process is not the one that opened the device. Says so once after an opening.
    pub(crate) fn is_foreign(&self) -> bool {
        Mm::current() != self.opener.load() && !self.foreign.swap(true, SeqCst)
    }

    /// Has the steps run in a task of the current process.
    ///
    /// Does nothing if they do already. To be called before `Gate::BusMaster` opens, and by one thread at
    /// a time. Then the errors are those of [`Worker::adopt`]: the caller has to leave the gate as it is.
    pub(crate) fn adopt(&self) -> Result {
        // SAFETY: The engine is not dropped before `stop` has returned.
        unsafe { self.worker.adopt(NonNull::from(self)) }
    }

    /// Opens a gate. If it is the last one, the device runs if it was kicked.
    pub(crate) fn open_gate(&self, gate: Gate) {
        let gate = gate as u32;
        let before = self.gates.fetch_or(gate, SeqCst);
        // The worker may be asleep until the end of a pause, which is over if the device was stopped in it.
        if before & gate == 0 && before & (KICKED | LATER) != 0 {
            self.gates.fetch_or(KICKED, SeqCst);
            self.worker.wake();
        }
    }

    /// Closes a gate. If it is the first one, waits for the step in flight and then tells the device that
    /// it was stopped.
    ///
    /// `EINTR` if the caller is killed while it waits: the gate is open then, as before.
    pub(crate) fn close_gate(&self, gate: Gate) -> Result {
        let _control = self.control.lock()?;
        if self.shut(gate) {
            if let Err(error) = self.rest(|seen| self.rested.wait_killable(seen)) {
                self.open_gate(gate);
                return Err(error);
            }
            self.stopped();
        }
        Ok(())
    }

    /// The device is being closed: closes the gates of its user, and gives the worker up.
    ///
    /// What the device was kicked for is forgotten: it may be the next user's queue by now. If the state is
    /// kept over the close, the device does nothing before that user kicks it.
    ///
    /// Waits for the step in flight without a limit. If the worker is a task of the process that closes
    /// the device, and that process is killed, the step ends.
    pub(crate) fn close(&self) {
        let _control = self.control.lock_closing();
        let ran = self.shut(Gate::Open);
        self.shut(Gate::BusMaster);
        if ran {
            let _ = self.rest(|seen| {
                self.rested.wait(seen, None);
                Ok(())
            });
            self.stopped();
        }
        self.gates.fetch_and(!(KICKED | LATER), SeqCst);
        self.worker.retire();
    }

    /// Closes a gate, and returns whether the device could run until then.
    ///
    /// No step starts after this: `run` looks at the gates before each.
    fn shut(&self, gate: Gate) -> bool {
        let before = self.gates.fetch_and(!(gate as u32), SeqCst);
        before & OPEN == OPEN
    }

    /// Waits, by `wait`, until the worker is not at the steps. A gate is closed.
    fn rest(&self, wait: impl Fn(u64) -> Result) -> Result {
        loop {
            let seen = self.rested.generation();
            if self.gates.load(SeqCst) & STEPPING == 0 {
                return Ok(());
            }
            wait(seen)?;
        }
    }

    /// Tells the device that it was stopped.
    fn stopped(&self) {
        let device = self.device.lock().clone();
        if let Some(device) = device {
            device.stopped();
        }
    }

    /// Has a step run soon, or remembers to once the device may run.
    ///
    /// May be called in any context.
    pub(crate) fn kick(&self) {
        let before = self.gates.fetch_or(KICKED, SeqCst);
        // Who set the bit first wakes the worker, or who opens the last gate.
        if before & (OPEN | KICKED) == OPEN {
            self.worker.wake();
        }
    }

    /// Takes the right to run a step, if all gates are open.
    fn begin(&self) -> bool {
        // In one access: a kick between a look at the gates and the clearing would be lost to whoever
        // closes one.
        self.gates
            .fetch_update(SeqCst, SeqCst, |gates| {
                (gates & OPEN == OPEN).then_some(gates & !(KICKED | LATER) | STEPPING)
            })
            .is_ok()
    }

    /// Runs steps until there is nothing to do, a gate closes or others should have a turn.
    fn steps(&self, device: &dyn Runnable) -> Turn {
        for _ in 0..STEPS {
            if !self.begin() {
                return Turn::Idle;
            }
            match device.step() {
                Step::Idle => return Turn::Idle,
                Step::Again => self.gates.fetch_or(KICKED, SeqCst),
                Step::After(msecs) => {
                    self.gates.fetch_or(LATER, SeqCst);
                    return Turn::After(msecs);
                }
            };
            // The task handles it between two turns: it dies, freezes or stops.
            if kernel::current!().signal_pending() {
                break;
            }
            // SAFETY: A worker may sleep here.
            unsafe { bindings::vfio_rs_cond_resched() };
        }
        Turn::Again
    }
}

impl Job for Engine {
    fn is_due(&self) -> bool {
        self.gates.load(SeqCst) & (OPEN | KICKED) == OPEN | KICKED
    }

    fn run(&self) -> Turn {
        let device = self.device.lock().clone();
        let Some(device) = device else {
            return Turn::Idle;
        };
        let turn = {
            let _coverage = self.user.section();
            self.steps(&*device)
        };
        let before = self.gates.fetch_and(!STEPPING, SeqCst);
        if before & OPEN != OPEN {
            self.rested.notify();
        }
        turn
    }
}

#[pinned_drop]
impl PinnedDrop for Engine {
    fn drop(self: Pin<&mut Self>) {
        // Nobody else has a reference any more. With the device detached it is not a step that drops it.
        self.worker.stop();
    }
}
