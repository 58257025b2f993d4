// SPDX-License-Identifier: GPL-2.0

//! Faults on demand: points at which root can make a call fail, or wait.
//!
//! As `fail-nth` of the kernel's fault injection, but in every build and without `CONFIG_FAULT_INJECTION`. A
//! point that is off costs one load.
//!
//! # Context
//!
//! A delay sleeps. So no call here may hold a spinlock, or a lock that a page fault takes.

use crate::{
    debugfs::{
        Counter,
        Number, //
    },
    event::Event, //
};
use core::sync::atomic::{
    AtomicU64,
    Ordering::Relaxed, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// The longest delay in milliseconds.
pub const MAX_DELAY: u64 = 60_000;

/// Where the delay is in the setting. The number of the call to fail is below it.
const DELAY_SHIFT: u32 = 32;

/// The bits of the number of the call to fail.
const NTH: u64 = (1 << DELAY_SHIFT) - 1;

/// A point at which calls can be made to fail or to wait.
#[pin_data]
pub struct FaultPoint {
    /// The delay and the number of the call to fail; 0 if the point is off.
    setting: AtomicU64,
    /// Notified when the delay is set: the waits in progress end.
    #[pin]
    delay_set: Event,
    /// The calls that failed.
    failed: Counter,
    /// The calls that waited, or began to.
    delayed: Counter,
}

impl FaultPoint {
    /// Returns a point that is off.
    pub fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                setting: AtomicU64::new(0),
                delay_set <- Event::new(),
                failed: Counter::default(),
                delayed: Counter::default(),
            }),
            GFP_KERNEL,
        )
    }

    /// Passes the point. If this is the call to fail, returns `error`.
    ///
    /// `EINTR` if the task is killed in a delay.
    #[inline(always)]
    pub fn pass(&self, error: Error) -> Result {
        match self.setting.load(Relaxed) {
            0 => Ok(()),
            _ => self.pass_on(error),
        }
    }

    /// [`FaultPoint::pass`], of a point that may be on.
    #[cold]
    #[inline(never)]
    fn pass_on(&self, error: Error) -> Result {
        if self.is_due()? {
            self.spend();
            return Err(error);
        }
        Ok(())
    }

    /// Passes the point. Returns whether this is the call to fail, and counts no further call until
    /// [`FaultPoint::spend`]: this returns `true` again.
    ///
    /// For a failure that its caller may not learn of at once. `EINTR` if the task is killed in a delay.
    #[inline(always)]
    pub fn due(&self) -> Result<bool> {
        match self.setting.load(Relaxed) {
            0 => Ok(false),
            _ => self.is_due(),
        }
    }

    /// Turns the failure off that [`FaultPoint::due`] has announced.
    pub fn spend(&self) {
        let spent = self.setting.fetch_update(Relaxed, Relaxed, |setting| {
            (setting & NTH == 1).then_some(setting & !NTH)
        });
        if spent.is_ok() {
            self.failed.add_one();
        }
    }

    /// [`FaultPoint::due`], of a point that may be on.
    #[cold]
    #[inline(never)]
    fn is_due(&self) -> Result<bool> {
        self.wait()?;
        let before = self.setting.fetch_update(Relaxed, Relaxed, |setting| {
            (setting & NTH > 1).then(|| setting - 1)
        });
        // What is not counted down is the last call, or none.
        Ok(matches!(before, Err(setting) if setting & NTH == 1))
    }

    /// Waits as long as the setting says. A new delay ends the wait.
    fn wait(&self) -> Result {
        let seen = self.delay_set.generation();
        let delay = self.setting.load(Relaxed) >> DELAY_SHIFT;
        if delay == 0 {
            return Ok(());
        }
        self.delayed.add_one();
        self.delay_set.wait_killable_for(seen, delay as u32)
    }

    /// Returns how many calls failed.
    pub fn failed(&self) -> u64 {
        self.failed.get()
    }

    /// Returns how many calls waited, or wait now.
    pub fn delayed(&self) -> u64 {
        self.delayed.get()
    }
}

/// The file `fail_nth`: how many calls it takes until one fails; 0 if none is to fail.
pub struct Nth(pub Arc<FaultPoint>);

impl Number for Nth {
    fn get(&self) -> u64 {
        self.0.setting.load(Relaxed) & NTH
    }

    fn set(&self, value: u64) -> Result {
        if value > NTH {
            return Err(EINVAL);
        }
        let _ = self
            .0
            .setting
            .fetch_update(Relaxed, Relaxed, |setting| Some(setting & !NTH | value));
        Ok(())
    }
}

/// The file `delay_ms`: how long each call waits, in milliseconds.
pub struct Delay(pub Arc<FaultPoint>);

impl Number for Delay {
    fn get(&self) -> u64 {
        self.0.setting.load(Relaxed) >> DELAY_SHIFT
    }

    fn set(&self, value: u64) -> Result {
        if value > MAX_DELAY {
            return Err(EINVAL);
        }
        let _ = self.0.setting.fetch_update(Relaxed, Relaxed, |setting| {
            Some(setting & NTH | value << DELAY_SHIFT)
        });
        self.0.delay_set.notify();
        Ok(())
    }
}
