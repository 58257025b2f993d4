// SPDX-License-Identifier: GPL-2.0

//! A worker that is a task of the user.
//!
//! Stopping a task waits until it has ended, and a task of a frozen process does not end until it thaws.
//! Another user must be able to kill a task of theirs that waits for this. So a work item stops a task that
//! is no longer needed, and a caller who needs a new task waits for the work item.

use super::{
    job::Job,
    task::Task, //
};
use crate::{
    event::Event,
    lock::{
        new_irq_lock,
        IrqLock, //
    },
};
use core::ptr::NonNull;
use kernel::{
    prelude::*,
    types::Opaque, //
};
use vfio_bindings as bindings;

/// The tasks of a worker. There is at most one of them.
struct Tasks<J> {
    /// The task that does the job.
    current: Option<Task<J>>,
    /// The task that the work item is to stop.
    retired: Option<Task<J>>,
    /// A task waits to be stopped, or is being stopped.
    retiring: bool,
}

/// Runs a job.
#[pin_data]
pub struct Worker<J> {
    name: &'static CStr,
    #[pin]
    tasks: IrqLock<Tasks<J>>,
    /// The work item, which is `reap`.
    #[pin]
    reaper: Opaque<bindings::work_struct>,
    /// Notified when a task has been stopped.
    #[pin]
    reaped: Event,
}

// SAFETY: A work item may be queued, and waited for, on any thread.
unsafe impl<J: Send + Sync> Send for Worker<J> {}

// SAFETY: As above; all that changes is behind the lock.
unsafe impl<J: Send + Sync> Sync for Worker<J> {}

impl<J> Worker<J> {
    /// Creates a worker without a task. Its tasks are called `name`.
    pub fn new(name: &'static CStr) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            name,
            tasks <- new_irq_lock!(
                Tasks {
                    current: None,
                    retired: None,
                    retiring: false,
                },
                c"vfio worker"
            ),
            reaper <- Opaque::ffi_init(|slot| {
                // SAFETY: `slot` is valid for writes and pinned.
                unsafe { bindings::vfio_rs_init_work(slot, Some(Self::reap)) }
            }),
            reaped <- Event::new(),
        })
    }

    /// Runs the job in a task of the current process.
    ///
    /// Does nothing if such a task runs it already. A task of another process ends first. Must not be called by
    /// two threads at once. On failure there is no task. The errors are those of [`Task::start`], and
    /// `EINTR` if the caller is killed while it waits for the end of the other task.
    ///
    /// # Safety
    ///
    /// `job` must be valid until [`Worker::stop`] has returned.
    pub unsafe fn adopt(&self, job: NonNull<J>) -> Result
    where
        J: Job,
    {
        loop {
            let seen = self.reaped.generation();
            {
                let mut tasks = self.tasks.lock();
                match &tasks.current {
                    Some(task) if task.serves_current() => return Ok(()),
                    Some(_) => self.retire_locked(&mut tasks),
                    None => {}
                }
                if !tasks.retiring {
                    break;
                }
            }
            self.reaped.wait_killable(seen)?;
        }
        // SAFETY: By the requirement of this function: `stop` drops the task.
        let task = unsafe { Task::start(job, self.name)? };
        self.tasks.lock().current = Some(task);
        // The job may have become due before the task could be woken.
        self.wake();
        Ok(())
    }

    /// Wakes the task, which checks whether the job is due. Any context.
    pub fn wake(&self) {
        if let Some(task) = &self.tasks.lock().current {
            task.wake();
        }
    }

    /// Returns whether a task is alive.
    pub fn lives(&self) -> bool {
        self.tasks.lock().current.as_ref().is_some_and(Task::lives)
    }

    /// Retires the task. Does not wait for its end.
    pub fn retire(&self) {
        self.retire_locked(&mut self.tasks.lock());
    }

    /// Hands the task to the work item.
    fn retire_locked(&self, tasks: &mut Tasks<J>) {
        // There is no task while one is being stopped: `adopt` waits for that.
        if let Some(task) = tasks.current.take() {
            tasks.retired = Some(task);
            tasks.retiring = true;
            // SAFETY: The work item was initialised and is pinned. `stop` waits for it.
            unsafe { bindings::vfio_rs_queue_unbound_work(self.reaper.get()) };
        }
    }

    /// Ends the task. When this returns, nothing uses the job.
    ///
    /// Must not be called by the job.
    pub fn stop(&self) {
        self.retire();
        loop {
            let seen = self.reaped.generation();
            if !self.tasks.lock().retiring {
                break;
            }
            self.reaped.wait(seen, None);
        }
        // SAFETY: The work item was initialised and is pinned.
        unsafe { bindings::cancel_work_sync(self.reaper.get()) };
    }

    /// The work function.
    ///
    /// # Safety
    ///
    /// Called for the `reaper` field of a [`Worker`].
    unsafe extern "C" fn reap(work: *mut bindings::work_struct) {
        // SAFETY: By the requirement of this function; `stop` waits for the work item before the worker
        // is dropped.
        let this = unsafe { &*kernel::container_of!(Opaque::cast_from(work), Self, reaper) };

        // Not in one expression with the lock, which is a spinlock.
        let task = this.tasks.lock().retired.take();
        drop(task);
        this.tasks.lock().retiring = false;
        this.reaped.notify();
    }
}
