// SPDX-License-Identifier: GPL-2.0

//! The current task and the scheduler.
//!
//! C header: [`include/linux/sched.h`](srctree/include/linux/sched.h)

use kernel::prelude::*;
use vfio_bindings as bindings;

/// Lets other tasks run if they are due. May sleep.
#[inline]
pub fn cond_resched() {
    // SAFETY: An FFI call without requirements on memory.
    unsafe { bindings::vfio_rs_cond_resched() }
}

/// Returns `EINTR` if the current task has been killed.
///
/// A loop over a size that a user or a guest chose looks at this, as each round may wait for a page.
#[inline]
pub fn not_killed() -> Result {
    // SAFETY: An FFI call without requirements.
    if unsafe { bindings::vfio_rs_fatal_signal_pending() } {
        return Err(EINTR);
    }
    Ok(())
}

/// Lets a worker return to the kernel if that has work for it, such as waiting for the next period of `cpu.max`.
///
/// `signal_pending()` is true then. The kernel does the work when the [`Job`](crate::worker::Job) has returned.
#[inline]
pub fn run_task_works() {
    // SAFETY: An FFI call without requirements.
    unsafe { bindings::vfio_rs_run_task_works() }
}
