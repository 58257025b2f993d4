// SPDX-License-Identifier: GPL-2.0

//! The info ioctls, whose structures grow by a chain of capabilities.

use std::io;
use std::os::fd::BorrowedFd;

use crate::caps::read_u32;
use crate::sys;

/// Calls an info ioctl, again with a larger buffer while the kernel asks for one.
///
/// `index` is stored at offset 8 if `indexed`. Returns the structure with its capabilities.
///
/// # Errors
///
/// The kernel's, or an error without errno if it asks for more than 1 MiB.
pub(crate) fn info_ioctl(
    fd: BorrowedFd<'_>,
    request: u32,
    index: u32,
    fixed: usize,
    indexed: bool,
) -> io::Result<Vec<u8>> {
    /// More than any chain of capabilities needs.
    const MAX: usize = 1 << 20;
    let mut size = fixed;
    loop {
        let mut arg = vec![0; size];
        arg[0..4].copy_from_slice(&(size as u32).to_ne_bytes());
        if indexed {
            arg[8..12].copy_from_slice(&index.to_ne_bytes());
        }
        sys::ioctl(fd, request, &mut arg)?;
        let needed = read_u32(&arg, 0).unwrap() as usize;
        if needed <= size {
            return Ok(arg);
        }
        if needed > MAX {
            return Err(io::Error::other(format!("argsz {needed} is absurd")));
        }
        size = needed;
    }
}
