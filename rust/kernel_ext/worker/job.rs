// SPDX-License-Identifier: GPL-2.0

//! The job of a worker.

use kernel::time::Delta;

/// When a job is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Now.
    Now,
    /// After that time, or when the worker is woken and the job is due earlier by then.
    In(Delta),
    /// Not before the worker is woken.
    Never,
}

/// Work for a [`Worker`](super::Worker).
pub trait Job: Send + Sync {
    /// Returns when the job is due. Does not sleep.
    ///
    /// Code that makes this earlier calls [`Worker::wake`](super::Worker::wake) afterwards.
    fn due(&self) -> Due;

    /// Works for a short time. May sleep. Never runs in two threads at once.
    fn run(&self);
}
