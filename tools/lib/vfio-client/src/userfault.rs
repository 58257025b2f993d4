// SPDX-License-Identifier: GPL-2.0

//! Page faults handled by userspace: `userfaultfd`.
//!
//! Tests use it to delay accesses to a mapping by the process itself, by the kernel on its behalf, or by a device.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::event::PollFlags;
use rustix::fs::{fcntl_setfl, Mode, OFlags};

use crate::mapping::Mapping;

/// Opening it and an ioctl give a userfaultfd that also sees the kernel's faults.
pub const DEVICE: &str = "/dev/userfaultfd";

/// `_IO(0xaa, 0)`.
const USERFAULTFD_IOC_NEW: u32 = 0xaa00;
/// `_IOWR(0xaa, 0x3f, struct uffdio_api)`.
const UFFDIO_API: u32 = 0xc018_aa3f;
/// `_IOWR(0xaa, 0, struct uffdio_register)`.
const UFFDIO_REGISTER: u32 = 0xc020_aa00;
/// `_IOR(0xaa, 2, struct uffdio_range)`.
const UFFDIO_WAKE: u32 = 0x8010_aa02;
/// `_IOWR(0xaa, 3, struct uffdio_copy)`.
const UFFDIO_COPY: u32 = 0xc028_aa03;

const UFFD_API: u64 = 0xaa;
const UFFDIO_REGISTER_MODE_MISSING: u64 = 1;
const UFFD_EVENT_PAGEFAULT: u8 = 0x12;
/// `struct uffd_msg`.
const MESSAGE: usize = 32;

/// Size of a page.
pub const PAGE: usize = 4096;

/// The faults on missing pages of some mappings.
///
/// An access to such a page waits until [`fill`](Self::fill) provides it or the last descriptor closes.
#[derive(Debug)]
pub struct UserFault(OwnedFd);

impl UserFault {
    /// Creates one for the memory of this process.
    ///
    /// # Errors
    ///
    /// Those of opening [`DEVICE`], such as `EPERM` or `EACCES`.
    pub fn new() -> io::Result<Self> {
        let device = rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        let flags = (libc::O_CLOEXEC | libc::O_NONBLOCK) as u64;
        let fd = ioctl_flags(device.as_fd(), USERFAULTFD_IOC_NEW, flags)?;
        // SAFETY: The ioctl returns a new descriptor that belongs to its caller.
        let fault = UserFault(unsafe { OwnedFd::from_raw_fd(fd) });
        // `struct uffdio_api`: api, features, ioctls.
        fault.ioctl(UFFDIO_API, &mut [UFFD_API, 0, 0])?;
        Ok(fault)
    }

    /// Takes over the descriptor of another one, possibly for the memory of another process.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        fcntl_setfl(&fd, OFlags::NONBLOCK)?;
        Ok(UserFault(fd))
    }

    /// Watches all of an anonymous mapping.
    pub fn watch(&self, memory: &Mapping) -> io::Result<()> {
        let len = memory.len().next_multiple_of(PAGE) as u64;
        // `struct uffdio_register`: start, len, mode, ioctls.
        let mut arg = [memory.address(), len, UFFDIO_REGISTER_MODE_MISSING, 0];
        self.ioctl(UFFDIO_REGISTER, &mut arg)
    }

    /// Takes the next fault; returns the address of its page.
    pub fn take(&self) -> io::Result<Option<u64>> {
        let mut message = [0; MESSAGE];
        loop {
            match rustix::io::read(&self.0, &mut message) {
                Ok(MESSAGE) if message[0] == UFFD_EVENT_PAGEFAULT => {
                    // Flags, then the address.
                    let address = u64::from_ne_bytes(message[16..24].try_into().unwrap());
                    return Ok(Some(address & !(PAGE as u64 - 1)));
                }
                // Other events are not requested.
                Ok(_) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Provides the page at an address from [`take`](Self::take), and wakes its waiters. Succeeds if the page is
    /// present already or the memory is gone.
    pub fn fill(&self, address: u64, page: &[u8; PAGE]) -> io::Result<()> {
        loop {
            // `struct uffdio_copy`: dst, src, len, mode, copy. The kernel reads `page`, and writes only pages of mappings
            // that were watched and are missing.
            let mut arg = [address, page.as_ptr() as u64, PAGE as u64, 0, 0];
            let error = match self.ioctl(UFFDIO_COPY, &mut arg) {
                Ok(()) => return Ok(()),
                Err(e) => e,
            };
            match error.raw_os_error() {
                // The process is changing its mappings.
                Some(libc::EAGAIN) => std::thread::yield_now(),
                Some(libc::EEXIST) => {
                    let woken = self.ioctl(UFFDIO_WAKE, &mut [address, PAGE as u64]);
                    return woken.or_else(gone);
                }
                _ => return gone(error),
            }
        }
    }

    /// Returns whether there is a fault to take, after waiting up to `timeout` for one.
    pub fn poll(&self, timeout: std::time::Duration) -> io::Result<bool> {
        let ready = crate::eventfd::poll_fd(self.as_fd(), PollFlags::IN, timeout)?;
        Ok(!ready.is_empty())
    }

    fn ioctl<const N: usize>(&self, request: u32, arg: &mut [u64; N]) -> io::Result<()> {
        // SAFETY: The structure of each of the requests above is as large as its array, and whatever addresses it holds,
        // `UFFDIO_COPY` writes only pages of watched mappings that have no memory yet, which nobody has read. These are
        // mappings that are accessed only through raw pointers and atomics. Its source is a whole page by its type.
        let ret = unsafe { libc::ioctl(self.0.as_raw_fd(), request as libc::Ioctl, arg) };
        if ret < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

/// Makes an ioctl whose argument is a number.
fn ioctl_flags(fd: BorrowedFd<'_>, request: u32, flags: u64) -> io::Result<i32> {
    debug_assert_eq!(request, USERFAULTFD_IOC_NEW);
    // SAFETY: `USERFAULTFD_IOC_NEW` takes flags and accesses no memory.
    let ret = unsafe { libc::ioctl(fd.as_raw_fd(), request as libc::Ioctl, flags) };
    if ret < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(ret)
}

/// Ignores the error if no waiter can be left.
fn gone(error: io::Error) -> io::Result<()> {
    match error.raw_os_error() {
        Some(libc::ESRCH | libc::ENOENT) => Ok(()),
        _ => Err(error),
    }
}

impl AsFd for UserFault {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
