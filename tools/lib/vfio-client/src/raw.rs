// SPDX-License-Identifier: GPL-2.0

//! Calls with invalid arguments, for tests of refusals.
//!
//! The place of the argument makes them safe: its memory ends at an inaccessible range. If `argsz` claims too much, the
//! kernel fails with `EFAULT` and accesses no other memory. Arguments that hold addresses cannot be made safe like this
//! and have separate calls: [`Container::map_raw`](crate::Container::map_raw),
//! [`Container::unmap_dirty_raw`](crate::Container::unmap_dirty_raw),
//! [`Container::dirty_bitmap_raw`](crate::Container::dirty_bitmap_raw).

use std::io;
use std::os::fd::AsFd;

use crate::mapping::Mapping;
use crate::sys;
pub use crate::sys::nr;

/// Makes a VFIO ioctl with these bytes, and stores the bytes that the kernel left.
///
/// # Errors
///
/// The kernel's, and `EPERM` without a call if the request is not VFIO's or the bytes hold an address.
pub fn ioctl(fd: impl AsFd, request: u32, argument: &mut [u8]) -> io::Result<i32> {
    sys::ioctl(fd.as_fd(), request, argument)
}

/// Makes a VFIO ioctl whose argument is inside a mapping, for tests in which the kernel waits for a page of it.
///
/// The mapping must extend 1 MiB beyond `at`. If the call succeeds, the process aborts, because the effect is unknown.
///
/// # Errors
///
/// The kernel's, and `EPERM` without a call if the request is not VFIO's.
///
/// # Panics
///
/// If the mapping is too short.
pub fn ioctl_in(
    fd: impl AsFd,
    request: u32,
    memory: &Mapping,
    at: usize,
) -> io::Result<std::convert::Infallible> {
    sys::ioctl_in(fd.as_fd(), request, memory, at)
}

/// Makes an ioctl with an address that is never mapped.
pub fn ioctl_bad_address(fd: impl AsFd, request: u32) -> io::Result<i32> {
    sys::ioctl_nowhere(fd.as_fd(), request)
}
