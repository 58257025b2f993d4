// SPDX-License-Identifier: GPL-2.0

//! What runs a device's work: a thread of its user.
//!
//! The thread is a `vhost_task`, a clone of the task that sets bus master. So the user's cgroups, limits,
//! nice value and memory policy hold for the work. Memory allocated there is charged to the user. The
//! thread dies when its process is killed or executes another program, and it freezes with its process.
//!
//! A kernel without `CONFIG_VHOST_TASK` has a work queue instead, which is nobody's. Its threads freeze
//! when the host suspends, and that is all.
//!
//! | file    | what is in it                                   |
//! |---------|-------------------------------------------------|
//! | `task`  | a `vhost_task`                                  |
//! | `tasks` | the worker that has one                         |
//! | `queue` | the worker of a kernel without                  |

#[cfg(any(not(CONFIG_VHOST_TASK), worker_queue))]
mod queue;
#[cfg(all(CONFIG_VHOST_TASK, not(worker_queue)))]
mod task;
#[cfg(all(CONFIG_VHOST_TASK, not(worker_queue)))]
mod tasks;

#[cfg(any(not(CONFIG_VHOST_TASK), worker_queue))]
pub(crate) use self::queue::Worker;
#[cfg(all(CONFIG_VHOST_TASK, not(worker_queue)))]
pub(crate) use self::tasks::Worker;

use crate::bindings;
use core::{
    ptr,
    sync::atomic::{
        AtomicUsize,
        Ordering::Relaxed, //
    },
};
use kernel::prelude::*;

/// What a turn of work left to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Nothing, until the worker is woken.
    Idle,
    /// More, at once.
    Again,
    /// More, after so many milliseconds, or when the worker is woken.
    After(u32),
}

/// Work for a [`Worker`].
pub(crate) trait Job: Send + Sync + 'static {
    /// Whether there is something to do now. Does not sleep.
    ///
    /// Whoever makes this true calls [`Worker::wake`] afterwards.
    fn is_due(&self) -> bool;

    /// Works for a short while. May sleep. Is never called by two threads at once.
    fn run(&self) -> Turn;
}

/// A process, told from others by its address space.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mm(usize);

impl Mm {
    /// No process: a thread of the kernel.
    pub(crate) const NOBODY: Self = Self(0);

    /// The process of the current task.
    pub(crate) fn current() -> Self {
        kernel::current!()
            .mm()
            .map_or(Self::NOBODY, |mm| Self(ptr::from_ref(mm).addr()))
    }
}

/// An [`Mm`] that may be changed through a shared reference.
pub(crate) struct AtomicMm(AtomicUsize);

impl AtomicMm {
    /// No process.
    pub(crate) const fn nobody() -> Self {
        Self(AtomicUsize::new(0))
    }

    /// The process.
    pub(crate) fn load(&self) -> Mm {
        Mm(self.0.load(Relaxed))
    }

    /// From now on it is another one.
    pub(crate) fn store(&self, mm: Mm) {
        self.0.store(mm.0, Relaxed);
    }
}

/// `EINTR` if the calling task has been killed.
///
/// A loop over a size that a user or a guest chose looks at this, as each round may wait for a page.
pub(crate) fn not_killed() -> Result {
    // SAFETY: Looks at the current task; may be called in any task.
    if unsafe { bindings::vfio_rs_fatal_signal_pending() } {
        return Err(EINTR);
    }
    Ok(())
}

/// Says in the log, when the driver `name` registers, whose the work of its devices is if not the user's.
pub(crate) fn announce(name: &CStr) {
    #[cfg(any(not(CONFIG_VHOST_TASK), worker_queue))]
    pr_warn!(
        "{}: the kernel has no vhost_task: a work queue does the work of the devices, \
         which is not charged to their users and cannot be killed\n",
        name.to_str().unwrap_or("?")
    );
    let _ = name;
}
