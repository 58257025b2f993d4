// SPDX-License-Identifier: GPL-2.0

//! Page faults that userspace answers: `userfaultfd`.
//!
//! Tests use it to make whoever touches a mapping wait: the process itself, the kernel on its behalf, a device.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::event::PollFlags;
use rustix::fs::{fcntl_setfl, Mode, OFlags};

use crate::mapping::Mapping;

/// Gives a userfaultfd that sees faults of the kernel too, to everybody who can open it.
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

/// Size of a page that a fault asks for.
pub const PAGE: usize = 4096;

/// The faults on pages of some mappings that have no memory yet.
///
/// Whoever touches such a page waits until [`fill`](Self::fill) provides it, or until the last descriptor is closed.
#[derive(Debug)]
pub struct UserFault(OwnedFd);

impl UserFault {
    /// Opens one for the memory of this process.
    ///
    /// # Errors
    ///
    /// What opening [`DEVICE`] gives, `EPERM` or `EACCES` for instance.
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

    /// Takes over the descriptor of one, which may be for the memory of another process.
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

    /// The address of the page of the next fault that has come and not been taken yet.
    pub fn take(&self) -> io::Result<Option<u64>> {
        let mut message = [0; MESSAGE];
        loop {
            match rustix::io::read(&self.0, &mut message) {
                Ok(MESSAGE) if message[0] == UFFD_EVENT_PAGEFAULT => {
                    // Flags, then the address.
                    let address = u64::from_ne_bytes(message[16..24].try_into().unwrap());
                    return Ok(Some(address & !(PAGE as u64 - 1)));
                }
                // Other events are not asked for.
                Ok(_) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Provides the page at an address that [`take`](Self::take) gave, and wakes those who wait for it. It is no error if
    /// the page is there already, or the memory is gone.
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
                // The mappings of the process are just changing.
                Some(libc::EAGAIN) => std::thread::yield_now(),
                Some(libc::EEXIST) => {
                    let woken = self.ioctl(UFFDIO_WAKE, &mut [address, PAGE as u64]);
                    return woken.or_else(gone);
                }
                _ => return gone(error),
            }
        }
    }

    /// Whether a fault can be taken, or becomes so in `timeout`.
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

/// An ioctl whose argument is a number.
fn ioctl_flags(fd: BorrowedFd<'_>, request: u32, flags: u64) -> io::Result<i32> {
    debug_assert_eq!(request, USERFAULTFD_IOC_NEW);
    // SAFETY: `USERFAULTFD_IOC_NEW` takes flags and accesses no memory.
    let ret = unsafe { libc::ioctl(fd.as_raw_fd(), request as libc::Ioctl, flags) };
    if ret < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(ret)
}

/// No error if there is nobody any more who could wait.
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
