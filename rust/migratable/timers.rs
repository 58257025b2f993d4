// SPDX-License-Identifier: GPL-2.0

//! The timers of a device, and the pause of its worker.
//!
//! A timer is one deadline. Time passes for it only while the device runs: a stop keeps the time that is
//! left, which is part of the saved state, and the timer goes on when the device runs again, here or at
//! the destination. An expired timer schedules work and is taken by the unit that it causes, so neither a
//! stop nor [`Device::schedule`](crate::Device::schedule) shortens or loses it.
//!
//! # Locks
//!
//! `state` is a spinlock below all other locks.

use crate::stream::{
    Reader,
    Writer, //
};
use kernel::{
    prelude::*,
    time::{
        Delta,
        Instant,
        Monotonic, //
    },
};
use kernel_ext::lock::{
    new_irq_lock,
    IrqLock, //
};

/// The most timers of a device.
pub(crate) const TIMERS_MAX: usize = 8;

/// The longest time of a timer: over 30 years.
const LONGEST: Delta = Delta::from_secs(1 << 30);

/// The saved time of a timer that is not set.
const OFF: u64 = u64::MAX;

/// Bytes of a saved timer.
const SAVED_SIZE: usize = 8;

/// One timer.
#[derive(Clone, Copy)]
enum Deadline {
    /// Not set.
    Off,
    /// The device runs: the time at which it expires.
    At(Instant<Monotonic>),
    /// The device is stopped: the time that is left.
    Left(Delta),
}

impl Deadline {
    /// Returns a deadline after the time `left`.
    fn after(left: Delta, runs: bool) -> Self {
        match runs {
            true => Deadline::At(Instant::now() + left),
            false => Deadline::Left(left),
        }
    }

    /// Returns the time that is left, which is not negative. `None` if it is not set.
    fn left(self, now: Instant<Monotonic>) -> Option<Delta> {
        match self {
            Deadline::Off => None,
            Deadline::At(at) => Some((at - now).max(Delta::ZERO)),
            Deadline::Left(left) => Some(left),
        }
    }
}

/// The data under the lock.
struct State {
    /// Time passes.
    runs: bool,
    timers: [Deadline; TIMERS_MAX],
    /// The end of a pause between two units of work.
    pause: Option<Instant<Monotonic>>,
    /// The end of the worker's sleep, as it planned when it last looked. It looks before each sleep.
    planned: Option<Instant<Monotonic>>,
}

/// The timers of one device, and the pause of its worker.
#[pin_data]
pub(crate) struct Timers {
    #[pin]
    state: IrqLock<State>,
}

impl Timers {
    /// Returns timers that are not set.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            state <- new_irq_lock!(
                State {
                    runs: false,
                    timers: [Deadline::Off; TIMERS_MAX],
                    pause: None,
                    planned: None,
                },
                c"vfio timers"
            ),
        })
    }

    /// Sets a timer, or switches it off. Returns whether the worker has to be woken: it would sleep too long.
    pub(crate) fn set(&self, index: usize, after: Option<Delta>) -> bool {
        let mut state = self.state.lock();
        let (runs, planned) = (state.runs, state.planned);
        let Some(timer) = state.timers.get_mut(index) else {
            return false;
        };
        *timer = after.map_or(Deadline::Off, |after| {
            Deadline::after(after.clamp(Delta::ZERO, LONGEST), runs)
        });
        match *timer {
            Deadline::At(at) => planned.is_none_or(|planned| at - planned < Delta::ZERO),
            Deadline::Off | Deadline::Left(_) => false,
        }
    }

    /// Returns the time that is left of a timer.
    pub(crate) fn left(&self, index: usize) -> Option<Delta> {
        let timer = self.state.lock().timers.get(index).copied();
        timer?.left(Instant::now())
    }

    /// Lets time pass, or not.
    pub(crate) fn run(&self, runs: bool) {
        let mut state = self.state.lock();
        let now = Instant::now();
        state.runs = runs;
        for timer in &mut state.timers {
            if let Some(left) = timer.left(now) {
                *timer = Deadline::after(left, runs);
            }
        }
    }

    /// Switches all timers off.
    pub(crate) fn reset(&self) {
        self.state.lock().timers = [Deadline::Off; TIMERS_MAX];
    }

    /// Begins a pause.
    pub(crate) fn pause(&self, pause: Delta) {
        self.state.lock().pause = Some(Instant::now() + pause);
    }

    /// Returns whether the pause is over.
    pub(crate) fn pause_is_over(&self) -> bool {
        let pause = self.state.lock().pause;
        pause.is_none_or(|end| Instant::now() - end >= Delta::ZERO)
    }

    /// Returns the time until a timer expires, or until the end of the pause if `pause`. The worker plans to
    /// sleep as long.
    pub(crate) fn next(&self, pause: bool) -> Option<Delta> {
        let mut state = self.state.lock();
        let now = Instant::now();
        let timers = state.timers.iter().filter_map(|timer| timer.left(now));
        let pause = state.pause.filter(|_| pause).map(|end| end - now);
        let next = Iterator::chain(timers, pause).min();
        state.planned = next.map(|left| now + left);
        next
    }

    /// Takes the timers that have expired: a bit for each.
    pub(crate) fn take_expired(&self) -> u32 {
        let mut state = self.state.lock();
        let now = Instant::now();
        let mut expired = 0;
        for (index, timer) in state.timers.iter_mut().enumerate() {
            if timer.left(now) == Some(Delta::ZERO) {
                *timer = Deadline::Off;
                expired |= 1 << index;
            }
        }
        expired
    }
}

/// The times that are left, as they are saved. [`Option`] for each timer.
pub(crate) type Saved = [Option<Delta>; TIMERS_MAX];

/// Returns the bytes of `count` saved timers.
pub(crate) const fn saved_size(count: usize) -> usize {
    count * SAVED_SIZE
}

impl Timers {
    /// Saves the first `count` timers.
    pub(crate) fn save(&self, count: usize, out: &mut Writer<'_>) -> Result {
        for index in 0..count {
            out.put_u64(self.left(index).map_or(OFF, |left| left.as_nanos() as u64))?;
        }
        Ok(())
    }

    /// Decodes `count` saved timers. `EINVAL` for a time that no timer can have.
    pub(crate) fn decode(count: usize, input: &mut Reader<'_>) -> Result<Saved> {
        let mut saved = Saved::default();
        for timer in saved.iter_mut().take(count) {
            *timer = match input.get_u64()? {
                OFF => None,
                nanos if nanos <= LONGEST.as_nanos() as u64 => {
                    Some(Delta::from_nanos(nanos as i64))
                }
                _ => return Err(input.illegal("timer").into()),
            };
        }
        Ok(saved)
    }

    /// Sets all timers to saved times. The device is stopped.
    pub(crate) fn restore(&self, saved: &Saved) {
        for (index, left) in saved.iter().enumerate() {
            self.set(index, *left);
        }
    }
}
