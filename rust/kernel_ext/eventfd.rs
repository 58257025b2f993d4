// SPDX-License-Identifier: GPL-2.0

//! Eventfds.
//!
//! C header: [`include/linux/eventfd.h`](srctree/include/linux/eventfd.h)

use core::ptr::NonNull;
use kernel::{
    error::from_err_ptr,
    prelude::*,
    sync::Arc, //
};
use vfio_bindings as bindings;

/// A reference to an eventfd's context.
///
/// # Invariants
///
/// The pointer is valid and this value owns one reference to what it points to.
pub struct EventFd(NonNull<bindings::eventfd_ctx>);

// SAFETY: A reference to an `eventfd_ctx` may be used and given up on any thread.
unsafe impl Send for EventFd {}

// SAFETY: The one operation on a shared reference, `eventfd_signal_mask()`, does its own locking.
unsafe impl Sync for EventFd {}

impl EventFd {
    /// Looks up the eventfd that is file descriptor `fd` of the calling process.
    pub fn from_fd(fd: i32) -> Result<Arc<Self>> {
        // SAFETY: An FFI call without requirements; the result is a reference or an error.
        let ctx = from_err_ptr(unsafe { bindings::eventfd_ctx_fdget(fd) })?;
        // INVARIANT: The reference just obtained is this value's.
        let this = Self(NonNull::new(ctx).ok_or(EBADF)?);

        Ok(Arc::new(this, GFP_KERNEL_ACCOUNT)?)
    }

    /// Returns the address of the context, which identifies the eventfd.
    pub fn as_ptr(&self) -> *mut bindings::eventfd_ctx {
        self.0.as_ptr()
    }

    /// Returns whether `ctx` is the context of this eventfd.
    pub fn is(&self, ctx: *mut bindings::eventfd_ctx) -> bool {
        self.as_ptr() == ctx
    }

    /// Adds one to the counter and wakes the waiters.
    ///
    /// A waiter may call back, so the caller holds no lock that a callback takes.
    pub fn signal(&self) {
        // SAFETY: By the type invariant the pointer is valid.
        unsafe { bindings::eventfd_signal_mask(self.0.as_ptr(), 0) }
    }
}

impl Drop for EventFd {
    fn drop(&mut self) {
        // SAFETY: By the type invariant there is a reference to give up, and only this one.
        unsafe { bindings::eventfd_ctx_put(self.0.as_ptr()) }
    }
}
