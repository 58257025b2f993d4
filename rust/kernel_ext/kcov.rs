// SPDX-License-Identifier: GPL-2.0

//! Coverage of what a worker does on behalf of a user, for fuzzers.
//!
//! A task collects coverage of its own system calls. It can also collect coverage from workers that act on
//! its behalf: it has a handle then, which the workers name. Without `CONFIG_KCOV` there are no handles, and
//! nothing is done here.
//!
//! C header: [`include/linux/kcov.h`](srctree/include/linux/kcov.h)

use kernel::{
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    types::NotThreadSafe, //
};
use vfio_bindings as bindings;

/// The handle of the task that a worker acts for, or 0.
pub struct KcovRemote(Atomic<u64>);

impl KcovRemote {
    /// Returns the handle of no task.
    pub const fn nobody() -> Self {
        Self(Atomic::new(0))
    }

    /// Takes the handle of the current task.
    pub fn set_current(&self) {
        // SAFETY: An FFI call without requirements.
        let handle = unsafe { bindings::vfio_rs_kcov_handle() };
        self.0.store(handle, Relaxed);
    }

    /// Collects the coverage of the current worker for the task, until the section is dropped.
    ///
    /// Sections do not nest.
    pub fn section(&self) -> Option<Section> {
        let handle = self.0.load(Relaxed);
        if handle == 0 {
            return None;
        }
        // SAFETY: May be called from any worker; kcov looks whether there still is such a handle.
        unsafe { bindings::vfio_rs_kcov_start(handle) };
        Some(Section(NotThreadSafe))
    }
}

/// Ends with its scope, in the thread in which it began.
pub struct Section(NotThreadSafe);

impl Drop for Section {
    fn drop(&mut self) {
        // SAFETY: Ends what `section` has begun in this thread, or nothing if there was no such handle.
        unsafe { bindings::vfio_rs_kcov_stop() };
    }
}
