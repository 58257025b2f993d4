// SPDX-License-Identifier: GPL-2.0

//! One `vhost_task`.
//!
//! The kernel calls `work` in a loop, in state `TASK_INTERRUPTIBLE`. Between two calls it handles signals:
//! there the task freezes, stops with its process, and dies when its process is killed. It sleeps when
//! `work` returns false. A wake-up that comes after the state was set ends the sleep, so none is lost.
//!
//! C header: [`include/linux/sched/vhost_task.h`](srctree/include/linux/sched/vhost_task.h)

use super::{
    job::{
        Due,
        Job, //
    },
    mm::Mm, //
};
use core::{
    ptr::NonNull,
    sync::atomic::{
        AtomicBool,
        Ordering::SeqCst, //
    },
};
use kernel::{
    error::from_err_ptr,
    ffi::c_void,
    prelude::*, //
};
use vfio_bindings as bindings;

/// Shared by a task and its owner.
struct Shared<J> {
    job: NonNull<J>,
    /// The task was killed.
    dead: AtomicBool,
}

/// A task that does a job.
///
/// # Invariants
///
/// - `vtsk` was returned by `vhost_task_create()` with `shared` as its argument, and started.
/// - `vhost_task_stop()` is called in `drop` and nowhere else.
pub(super) struct Task<J> {
    vtsk: NonNull<bindings::vhost_task>,
    shared: KBox<Shared<J>>,
    mm: Mm,
}

// SAFETY: The functions called with `vtsk` may be called in any task, and `J` is `Sync`.
unsafe impl<J: Send + Sync> Send for Task<J> {}

// SAFETY: As above.
unsafe impl<J: Send + Sync> Sync for Task<J> {}

impl<J> Task<J> {
    /// Starts a task of the current process.
    ///
    /// `EAGAIN` if the user is at the limit of tasks, `ERESTARTNOINTR` if a signal came first, `EPERM` in a
    /// kernel thread, `ENOMEM`.
    ///
    /// # Safety
    ///
    /// `job` must be valid until the task is dropped.
    pub(super) unsafe fn start(job: NonNull<J>, name: &CStr) -> Result<Self>
    where
        J: Job,
    {
        let mm = Mm::current();
        if mm == Mm::NOBODY {
            return Err(EPERM);
        }
        let shared = Shared {
            job,
            dead: AtomicBool::new(false),
        };
        let mut shared = KBox::new(shared, GFP_KERNEL_ACCOUNT)?;

        // SAFETY: The functions are called with `shared`, which lives until `drop` has stopped the task.
        // The name is a string, and copied.
        let vtsk = from_err_ptr(unsafe {
            bindings::vhost_task_create(
                Some(work::<J>),
                Some(killed::<J>),
                (&raw mut *shared).cast::<c_void>(),
                name.as_char_ptr(),
            )
        })?;
        let vtsk = NonNull::new(vtsk).ok_or(ENOMEM)?;
        // SAFETY: Created just now and not started.
        unsafe { bindings::vhost_task_start(vtsk.as_ptr()) };
        // INVARIANT: Created and started above.
        Ok(Self { vtsk, shared, mm })
    }

    /// Wakes the task, which checks whether the job is due. Any context.
    pub(super) fn wake(&self) {
        // SAFETY: By the invariant the task was started and not stopped. Waking a dead one is harmless.
        unsafe { bindings::vhost_task_wake(self.vtsk.as_ptr()) };
    }

    /// Returns whether the task is alive.
    pub(super) fn lives(&self) -> bool {
        !self.shared.dead.load(SeqCst)
    }

    /// Returns whether the task is alive and belongs to the current process.
    pub(super) fn serves_current(&self) -> bool {
        // A live task has a reference to its address space, so no other address space has this address.
        self.lives() && self.mm == Mm::current()
    }
}

impl<J> Drop for Task<J> {
    fn drop(&mut self) {
        // Returns after the last call of both functions. A frozen task must thaw or be killed first.
        // SAFETY: By the invariant this is the only call.
        unsafe { bindings::vhost_task_stop(self.vtsk.as_ptr()) };
    }
}

/// Runs the job if it is due. Returns whether to call this again without sleeping.
///
/// # Safety
///
/// Called by a task that [`Task::start`] has created.
unsafe extern "C" fn work<J: Job>(data: *mut c_void) -> bool {
    // SAFETY: By the requirement of this function, and it lives until the task is stopped.
    let shared = unsafe { &*data.cast::<Shared<J>>() };
    // SAFETY: The caller of `start` has vouched for it.
    let job = unsafe { shared.job.as_ref() };

    match job.due() {
        Due::Never => return false,
        Due::In(left) => {
            let mut expires: bindings::ktime_t = left.as_nanos();
            // SAFETY: In a task that may sleep, whose state was set by the caller.
            unsafe {
                bindings::schedule_hrtimeout(&mut expires, bindings::hrtimer_mode_HRTIMER_MODE_REL)
            };
        }
        Due::Now => {
            // SAFETY: There is work, so this task does not sleep.
            unsafe { bindings::vfio_rs_set_current_running() };
            job.run();
        }
    }
    true
}

/// The task ends because its process is killed or executes another program.
///
/// # Safety
///
/// As for [`work`].
unsafe extern "C" fn killed<J: Job>(data: *mut c_void) {
    // SAFETY: As in `work`.
    let shared = unsafe { &*data.cast::<Shared<J>>() };
    shared.dead.store(true, SeqCst);
}
