// SPDX-License-Identifier: GPL-2.0

//! The worker of a device: when its units of work run.
//!
//! A device works in units, each a call of [`Driver::work`] by the [`Worker`]. It runs while all
//! [`RunCondition`]s hold. Clearing one returns when the unit in progress has ended and no other can
//! start (P9). A [`schedule`](DeviceWorker::schedule) meanwhile is remembered and acts when all
//! conditions hold (P52).
//!
//! The [`Worker`] is a task of the process that enables the device: that sets bus master, or I/O or memory
//! enable if the device does no DMA. It stays while bus master is off, so that a guest that turns bus master
//! off and on does not create a task each time. It goes when the device is closed, when its process ends,
//! and when another process enables the device.
//!
//! # Locks
//!
//! `control` serialises the threads that clear conditions. It is held while they wait for the unit in
//! progress. So a unit must not clear a condition, and must not take a lock under which one is cleared:
//! neither `control` nor the mutex of the migration state.
//!
//! Each condition is set and cleared under the lock of its owner: the configuration space, the migration
//! state, or VFIO (open and close).
//!
//! [`Driver::work`]: crate::Driver::work

use crate::timers::Timers;
use core::{
    ptr::NonNull,
    sync::atomic::{
        AtomicBool,
        AtomicU32,
        Ordering::SeqCst, //
    },
};
use kernel::{
    prelude::*,
    time::Delta, //
};
use kernel_ext::{
    event::Event,
    kcov::KcovRemote,
    mutex::{
        self,
        new_killable_mutex, //
    },
    sched::{
        cond_resched,
        run_task_works, //
    },
    worker::{
        AtomicMm,
        Due,
        Job,
        Mm,
        Worker, //
    },
};

/// What a unit of work left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkResult {
    /// Nothing: sleep until [`Device::schedule`](crate::Device::schedule).
    Idle,
    /// More: run the next unit as soon as the worker may.
    Again,
    /// More, after that many milliseconds, or as soon as work is scheduled. For a time that must not be
    /// cut short there are timers: [`Device::timer`](crate::Device::timer).
    After(u32),
}

/// Why a unit of work runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wakeup {
    scheduled: bool,
    timers: u32,
}

impl Wakeup {
    /// Returns whether work was scheduled: by [`Device::schedule`](crate::Device::schedule), by the result of the
    /// last unit, or by the framework after a load.
    pub fn scheduled(self) -> bool {
        self.scheduled
    }

    /// Returns whether the timer with number `index` has expired. It is off now.
    pub fn timer(self, index: usize) -> bool {
        self.timers & (1 << index) != 0
    }
}

/// A condition for the device to run. All must hold.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum RunCondition {
    /// The device is open.
    Open = 1 << 0,
    /// The migration state is one in which the device may do DMA. The only one that holds at first.
    Running = 1 << 1,
    /// The device is bus master, or needs not be and was enabled once.
    Enabled = 1 << 2,
}

/// All conditions.
const ALL: u32 =
    RunCondition::Open as u32 | RunCondition::Running as u32 | RunCondition::Enabled as u32;

/// The device has failed: no unit begins.
const FAILED: u32 = 1 << 28;

/// The worker runs units. Set by the worker while all conditions hold, and cleared by the worker.
const WORKING: u32 = 1 << 29;

/// There is something to do after the pause, or when all conditions hold again.
const LATER: u32 = 1 << 30;

/// There is something to do.
const SCHEDULED: u32 = 1 << 31;

/// The most units that are run without giving up the worker.
const UNITS: u32 = 64;

/// Runs the units of work of one device, which is `J`.
#[pin_data]
pub(crate) struct DeviceWorker<J> {
    /// The conditions that hold, `WORKING`, `LATER` and `SCHEDULED`.
    state: AtomicU32,
    /// The timers.
    #[pin]
    timers: Timers,
    /// Runs the units.
    #[pin]
    worker: Worker<J>,
    /// Serialises the clearing of conditions.
    #[pin]
    control: mutex::Mutex<()>,
    /// Notified when `WORKING` is cleared and a condition does not hold.
    #[pin]
    rested: Event,
    /// For fuzzers: the task for which the units are run.
    user: KcovRemote,
    /// The process that opened the device.
    opener: AtomicMm,
    /// The log has said that another process has set bus master.
    foreign: AtomicBool,
}

impl<J: Job> DeviceWorker<J> {
    /// Creates a worker whose task is called `name`.
    pub(crate) fn new(name: &'static CStr) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            state: AtomicU32::new(RunCondition::Running as u32),
            timers <- Timers::new(),
            worker <- Worker::new(name),
            control <- new_killable_mutex!((), "worker control"),
            rested <- Event::new(),
            user: KcovRemote::nobody(),
            opener: AtomicMm::nobody(),
            foreign: AtomicBool::new(false),
        })
    }

    /// Runs the units in a task of the current process.
    ///
    /// Does nothing if such a task runs them already. Call it before
    /// `RunCondition::Enabled` is set, and from one thread at a time. The errors are those of
    /// [`Worker::adopt`]: the caller leaves the condition as it is.
    ///
    /// # Safety
    ///
    /// `device` must be valid until [`DeviceWorker::stop`] has returned.
    pub(crate) unsafe fn adopt(&self, device: NonNull<J>) -> Result {
        // SAFETY: By the requirement of this function.
        unsafe { self.worker.adopt(device) }
    }
}

impl<J> DeviceWorker<J> {
    /// Notes that the current task opens the device. Fuzzers attribute the units to it from now on.
    pub(crate) fn opened(&self) {
        self.user.set_current();
        self.opener.store(Mm::current());
        self.foreign.store(false, SeqCst);
    }

    /// Returns whether a worker is alive.
    pub(crate) fn has_worker(&self) -> bool {
        self.worker.lives()
    }

    /// Returns whether a condition holds.
    pub(crate) fn holds(&self, condition: RunCondition) -> bool {
        self.state.load(SeqCst) & condition as u32 != 0
    }

    /// Returns, once after an opening, whether the current process is not the one that opened the device.
    pub(crate) fn is_foreign(&self) -> bool {
        Mm::current() != self.opener.load() && !self.foreign.swap(true, SeqCst)
    }

    /// Sets a condition. If all hold then, the device runs if work was scheduled.
    pub(crate) fn set_condition(&self, condition: RunCondition) {
        let condition = condition as u32;
        let before = self.state.fetch_or(condition, SeqCst);
        if before & condition == 0 {
            // The worker may be asleep until the end of a pause. A stop in the pause ends it.
            if before & (SCHEDULED | LATER) != 0 {
                self.state.fetch_or(SCHEDULED, SeqCst);
            }
            // There may be a timer.
            self.worker.wake();
        }
    }

    /// Returns the timers. Call [`DeviceWorker::wake`] after one is set.
    pub(crate) fn timers(&self) -> &Timers {
        &self.timers
    }

    /// The device has failed: no unit begins before [`DeviceWorker::mend`]. Does not wait for the unit in
    /// progress, so a unit may call this.
    pub(crate) fn fail(&self) {
        self.state.fetch_or(FAILED, SeqCst);
    }

    /// The device has been reset.
    pub(crate) fn mend(&self) {
        self.state.fetch_and(!FAILED, SeqCst);
    }

    /// Returns whether the device has failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.state.load(SeqCst) & FAILED != 0
    }

    /// Wakes the worker, which checks whether a unit is due. Any context.
    pub(crate) fn wake(&self) {
        if self.state.load(SeqCst) & ALL == ALL {
            self.worker.wake();
        }
    }

    /// Clears a condition. If all held, waits for the unit in progress and then calls `stopped`.
    ///
    /// `EINTR` if the caller is killed while it waits: the condition holds then, as before.
    pub(crate) fn clear_condition(
        &self,
        condition: RunCondition,
        stopped: impl FnOnce(),
    ) -> Result {
        let _control = self.control.lock()?;
        if self.shut(condition) {
            if let Err(error) = self.rest(|seen| self.rested.wait_killable(seen)) {
                self.set_condition(condition);
                return Err(error);
            }
            stopped();
        }
        Ok(())
    }

    /// The device is being closed: clears the conditions of its user, and gives up the task. Calls `stopped`
    /// if the device could run.
    ///
    /// Drops scheduled work, because the next user may own the queue by now. If the state is kept over the
    /// close, the device does nothing before that user schedules work.
    ///
    /// Waits for the unit in progress without a limit. If the worker is a task of the process that closes
    /// the device, and that process is killed, the unit ends.
    pub(crate) fn close(&self, stopped: impl FnOnce()) {
        let _control = self.control.lock_closing();
        let ran = self.shut(RunCondition::Open);
        self.shut(RunCondition::Enabled);
        if ran {
            let _ = self.rest(|seen| {
                self.rested.wait(seen, None);
                Ok(())
            });
            stopped();
        }
        self.state.fetch_and(!(SCHEDULED | LATER), SeqCst);
        self.worker.retire();
    }

    /// Ends the worker, and returns when it does not use the device any more.
    ///
    /// The device is closed. A unit must not call this.
    pub(crate) fn stop(&self) {
        self.worker.stop();
    }

    /// Clears a condition, and returns whether the device could run until then.
    ///
    /// No unit starts after this: `run` looks at the conditions before each.
    fn shut(&self, condition: RunCondition) -> bool {
        let before = self.state.fetch_and(!(condition as u32), SeqCst);
        before & ALL == ALL
    }

    /// Waits, by `wait`, until the worker runs no units. A condition does not hold.
    fn rest(&self, wait: impl Fn(u64) -> Result) -> Result {
        loop {
            let seen = self.rested.generation();
            if self.state.load(SeqCst) & WORKING == 0 {
                return Ok(());
            }
            wait(seen)?;
        }
    }

    /// Runs a unit soon, or remembers to run one once the device may run.
    ///
    /// May be called in any context.
    pub(crate) fn schedule(&self) {
        let before = self.state.fetch_or(SCHEDULED, SeqCst);
        // Only the first call wakes the worker; if a condition does not hold, setting the last one does.
        if before & (ALL | SCHEDULED) == ALL {
            self.worker.wake();
        }
    }

    /// Returns when the next unit is due. See [`Job::due`].
    pub(crate) fn due(&self) -> Due {
        let state = self.state.load(SeqCst);
        if state & (ALL | FAILED) != ALL {
            return Due::Never;
        }
        if state & SCHEDULED != 0 {
            return Due::Now;
        }
        match self.timers.next(state & LATER != 0) {
            None => Due::Never,
            Some(left) if left <= Delta::ZERO => Due::Now,
            Some(left) => Due::In(left),
        }
    }

    /// Runs units by `work`, in the worker. See [`Job::run`].
    pub(crate) fn run(&self, work: impl FnMut(Wakeup) -> WorkResult) {
        {
            let _coverage = self.user.section();
            self.units(work);
        }
        let before = self.state.fetch_and(!WORKING, SeqCst);
        if before & ALL != ALL {
            self.rested.notify();
        }
    }

    /// Takes the right to run a unit, if all conditions hold and there is something to do.
    fn begin(&self) -> Option<Wakeup> {
        // One atomic access: a call of `schedule` between a look and the clearing would be lost to the
        // thread that clears a condition.
        let before = self
            .state
            .fetch_update(SeqCst, SeqCst, |state| {
                (state & (ALL | FAILED) == ALL).then_some(state & !SCHEDULED | WORKING)
            })
            .ok()?;
        let paused = before & LATER != 0;
        let scheduled = before & SCHEDULED != 0 || (paused && self.timers.pause_is_over());
        if paused && scheduled {
            self.state.fetch_and(!LATER, SeqCst);
        }
        // `WORKING` is set: a stop waits for the unit that gets these timers.
        let timers = self.timers.take_expired();
        (scheduled || timers != 0).then_some(Wakeup { scheduled, timers })
    }

    /// Runs units until nothing is left to do, a condition is cleared, or others should have a turn.
    fn units(&self, mut work: impl FnMut(Wakeup) -> WorkResult) {
        for _ in 0..UNITS {
            let Some(wakeup) = self.begin() else {
                return;
            };
            match work(wakeup) {
                WorkResult::Idle => return,
                WorkResult::Again => self.state.fetch_or(SCHEDULED, SeqCst),
                WorkResult::After(msecs) => {
                    self.timers.pause(Delta::from_millis(msecs.into()));
                    self.state.fetch_or(LATER, SeqCst);
                    return;
                }
            };
            // Between two turns the task handles the signal: it dies, freezes, stops or waits for its cgroup's
            // next period.
            run_task_works();
            if kernel::current!().signal_pending() {
                break;
            }
            // A worker may sleep here.
            cond_resched();
        }
    }
}
