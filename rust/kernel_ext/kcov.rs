// SPDX-License-Identifier: GPL-2.0

//! Coverage of what a worker does on behalf of a user, for fuzzers.
//!
//! kcov sees what a task's own system calls reach. A task may ask for what others do for it as well; it has a handle
//! then, that the others name. Without `CONFIG_KCOV` there are none, and nothing is done here.
//!
//! C header: [`include/linux/kcov.h`](srctree/include/linux/kcov.h)

use core::sync::atomic::{
    AtomicU64,
    Ordering::Relaxed, //
};
use kernel::types::NotThreadSafe;
use vfio_bindings as bindings;

/// Whom the work is for: a handle, or 0.
pub struct KcovRemote(AtomicU64);

impl KcovRemote {
    /// Nobody.
    pub const fn nobody() -> Self {
        Self(AtomicU64::new(0))
    }

    /// From now on it is for the task that calls this.
    pub fn set_current(&self) {
        // SAFETY: An FFI call without requirements.
        let handle = unsafe { bindings::vfio_rs_kcov_handle() };
        self.0.store(handle, Relaxed);
    }

    /// What the calling worker does as long as the section lasts is for them.
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
