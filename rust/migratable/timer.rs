// SPDX-License-Identifier: GPL-2.0

//! A timer, as a driver uses it.

use crate::{
    device::Device,
    driver::Driver,
    timers::TIMERS_MAX, //
};
use kernel::time::Delta;

/// A timer of a device: one deadline, at which [`Driver::work`] runs.
///
/// Its functions can be called in any context.
pub struct Timer<'a, T> {
    dev: &'a Device<T>,
    index: usize,
}

impl<T: Driver> Device<T> {
    /// Returns the timer with number `INDEX`, which is less than [`Driver::TIMERS`].
    pub fn timer<const INDEX: usize>(&self) -> Timer<'_, T> {
        const {
            assert!(T::TIMERS <= TIMERS_MAX);
            assert!(INDEX < T::TIMERS);
        }
        Timer {
            dev: self,
            index: INDEX,
        }
    }
}

impl<T> Timer<'_, T> {
    /// Sets the timer: it expires after `after`, whatever it was set to before.
    ///
    /// A negative time counts as 0, and the longest one is 30 years.
    pub fn set(&self, after: Delta) {
        let worker = &self.dev.worker;
        if worker.timers().set(self.index, Some(after)) {
            worker.wake();
        }
    }

    /// Switches the timer off.
    pub fn cancel(&self) {
        self.dev.worker.timers().set(self.index, None);
    }

    /// Returns the time that is left; `None` if the timer is not set. It is no longer set when the unit of work
    /// that it causes is about to begin.
    pub fn left(&self) -> Option<Delta> {
        self.dev.worker.timers().left(self.index)
    }
}
