// SPDX-License-Identifier: GPL-2.0

//! The device that guest memory is accessed through.

use core::ptr::NonNull;
use kernel::{
    error::to_result,
    ffi::c_void,
    prelude::*, //
};
use vfio_bindings as bindings;

/// A `struct vfio_device` that is open.
#[derive(Clone, Copy)]
pub(super) struct OpenDevice(pub(super) NonNull<bindings::vfio_device>);

// SAFETY: The functions called with it take their own locks.
unsafe impl Send for OpenDevice {}

// SAFETY: As above.
unsafe impl Sync for OpenDevice {}

impl OpenDevice {
    /// `vfio_dma_rw()`.
    ///
    /// # Safety
    ///
    /// `data` must be valid for `len` bytes, for reads by C, and for writes too unless `write`. The
    /// device must be open for the length of the call.
    pub(super) unsafe fn rw(self, iova: u64, data: *mut u8, len: usize, write: bool) -> Result {
        // SAFETY: By the requirements of this function.
        to_result(unsafe {
            bindings::vfio_dma_rw(self.0.as_ptr(), iova, data.cast::<c_void>(), len, write)
        })
    }
}
