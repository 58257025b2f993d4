// SPDX-License-Identifier: GPL-2.0

//! What a worker does.

/// What a turn of work left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing, until the worker is woken.
    Idle,
    /// More, at once.
    Again,
    /// More, after so many milliseconds, or when the worker is woken.
    After(u32),
}

/// Work for a [`Worker`](super::Worker).
pub trait Job: Send + Sync {
    /// Whether there is something to do now. Does not sleep.
    ///
    /// Whoever makes this true calls [`Worker::wake`](super::Worker::wake) afterwards.
    fn is_due(&self) -> bool;

    /// Works for a short while. May sleep. Is never called by two threads at once.
    fn run(&self) -> Turn;
}
