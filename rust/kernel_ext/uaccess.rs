// SPDX-License-Identifier: GPL-2.0

//! Copies to and from a user that do not wait for a page.
//!
//! For code that holds a lock which a wait for the user's page would hold too long. It lets go of the lock
//! after `EFAULT`, makes the pages present with [`fault_in_writeable`] or [`fault_in_readable`], which may
//! wait, and tries again.
//!
//! C header: [`include/linux/uaccess.h`](srctree/include/linux/uaccess.h)

use kernel::{
    error::to_result,
    ffi::c_void,
    prelude::*,
    uaccess::UserPtr, //
};
use vfio_bindings as bindings;

/// Copies `len` bytes to the user. `EFAULT` if that is not possible at once; a part may have been copied.
///
/// # Safety
///
/// `from` must be valid for reads of `len` bytes by C.
#[inline]
pub unsafe fn copy_to_user_nofault(to: UserPtr, from: *const u8, len: usize) -> Result {
    // SAFETY: By the requirement of this function. The user's address is checked.
    let errno =
        unsafe { bindings::copy_to_user_nofault(to.as_mut_ptr(), from.cast::<c_void>(), len) };
    to_result(errno as i32)
}

/// Copies `len` bytes from the user. `EFAULT` if that is not possible at once; a part may have been copied.
///
/// # Safety
///
/// `to` must be valid for writes of `len` bytes by C.
#[inline]
pub unsafe fn copy_from_user_nofault(to: *mut u8, from: UserPtr, len: usize) -> Result {
    // SAFETY: By the requirement of this function. The user's address is checked.
    let errno =
        unsafe { bindings::copy_from_user_nofault(to.cast::<c_void>(), from.as_const_ptr(), len) };
    to_result(errno as i32)
}

/// Makes the pages of `len` bytes present for writing. `EFAULT` if not even the first byte can be written.
/// May sleep.
pub fn fault_in_writeable(start: UserPtr, len: usize) -> Result {
    // SAFETY: The function checks the user's address.
    let left = unsafe { bindings::fault_in_writeable(start.as_mut_ptr().cast(), len) };
    if left == len {
        return Err(EFAULT);
    }
    Ok(())
}

/// Makes the pages of `len` bytes present for reading. `EFAULT` if not even the first byte can be read.
/// May sleep.
pub fn fault_in_readable(start: UserPtr, len: usize) -> Result {
    // SAFETY: The function checks the user's address.
    let left = unsafe { bindings::fault_in_readable(start.as_const_ptr().cast(), len) };
    if left == len {
        return Err(EFAULT);
    }
    Ok(())
}
