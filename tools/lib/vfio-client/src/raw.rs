// SPDX-License-Identifier: GPL-2.0

//! Calls with arguments that no well-behaved user would make, to see them refused.
//!
//! They are safe because of where the argument lies: in memory of its own that ends at an inaccessible range. An
//! `argsz` that claims more than there is makes the kernel fault with `EFAULT`, not touch other memory. What cannot
//! be made safe like this, arguments that hold addresses, has calls of its own:
//! [`Container::map_raw`](crate::Container::map_raw),
//! [`Container::unmap_dirty_raw`](crate::Container::unmap_dirty_raw),
//! [`Container::dirty_bitmap_raw`](crate::Container::dirty_bitmap_raw).

use std::io;
use std::os::fd::AsFd;

use crate::mapping::Mapping;
use crate::sys;
pub use crate::sys::nr;

/// Calls an ioctl of VFIO with these bytes; they come back as the kernel left them.
///
/// # Errors
///
/// The kernel's, and `EPERM` without a call for a request that is not VFIO's or whose bytes hold an address.
pub fn ioctl(fd: impl AsFd, request: u32, argument: &mut [u8]) -> io::Result<i32> {
    sys::ioctl(fd.as_fd(), request, argument)
}

/// Calls an ioctl of VFIO with its argument at a place of a mapping, to see it wait for a page of it.
///
/// 1 MiB has to follow. If the call succeeds, the process is aborted: nobody knows what it has done.
///
/// # Errors
///
/// The kernel's, and `EPERM` without a call for a request that is not VFIO's.
///
/// # Panics
///
/// If the mapping is shorter.
pub fn ioctl_in(
    fd: impl AsFd,
    request: u32,
    memory: &Mapping,
    at: usize,
) -> io::Result<std::convert::Infallible> {
    sys::ioctl_in(fd.as_fd(), request, memory, at)
}

/// Calls an ioctl with an address at which nothing can be.
pub fn ioctl_bad_address(fd: impl AsFd, request: u32) -> io::Result<i32> {
    sys::ioctl_nowhere(fd.as_fd(), request)
}
