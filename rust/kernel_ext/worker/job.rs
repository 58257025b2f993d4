// SPDX-License-Identifier: GPL-2.0

//! The job of a worker.

/// The work that is left after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// None, until the worker is woken.
    Idle,
    /// More, at once.
    Again,
    /// More, after so many milliseconds, or when the worker is woken.
    After(u32),
}

/// Work for a [`Worker`](super::Worker).
pub trait Job: Send + Sync {
    /// Returns whether the job is due. Does not sleep.
    ///
    /// Code that makes this true calls [`Worker::wake`](super::Worker::wake) afterwards.
    fn is_due(&self) -> bool;

    /// Works for a short time. May sleep. Never runs in two threads at once.
    fn run(&self) -> Turn;
}
