// SPDX-License-Identifier: GPL-2.0

//! Coverage of the kernel by a thread's system calls: `/sys/kernel/debug/kcov`.
//!
//! Needs a kernel with `CONFIG_KCOV`, and covers only code compiled for it. A [`Kcov`] covers the system calls of one
//! thread. A [`RemoteKcov`] covers kernel threads while they work on behalf of a process, where the kernel marks that.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::Ordering;

use rustix::fs::{Mode, OFlags};

use crate::mapping::{Mapping, Protection};

const PATH: &str = "/sys/kernel/debug/kcov";

/// `_IOR('c', 1, unsigned long)`.
const INIT_TRACE: u32 = 0x8008_6301;
/// `_IO('c', 100)`.
const ENABLE: u32 = 0x6364;
/// `_IO('c', 101)`.
const DISABLE: u32 = 0x6365;
/// `_IOW('c', 102, struct kcov_remote_arg)`.
const REMOTE_ENABLE: u32 = 0x4018_6366;
/// `KCOV_TRACE_PC`.
const TRACE_PC: u64 = 0;

/// A coverage buffer.
#[derive(Debug)]
pub struct Kcov {
    fd: OwnedFd,
    /// A count, then as many addresses.
    buffer: Mapping,
    words: usize,
}

impl Kcov {
    /// Returns whether the kernel has kcov.
    pub fn exists() -> bool {
        std::path::Path::new(PATH).exists()
    }

    /// Creates a buffer for `words - 1` addresses.
    pub fn new(words: usize) -> io::Result<Self> {
        let fd = rustix::fs::open(PATH, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        call(&fd, INIT_TRACE, words as u64)?;
        let buffer = Mapping::of_file(fd.as_fd(), 0, words * 8, Protection::READ_WRITE)?;
        Ok(Kcov { fd, buffer, words })
    }

    /// Runs `what`, then passes each address that the thread's system calls reached in it to `seen`, with repetitions.
    /// Addresses that did not fit are lost.
    pub fn trace<T>(
        &mut self,
        what: impl FnOnce() -> T,
        mut seen: impl FnMut(u64),
    ) -> io::Result<T> {
        self.buffer.store_u64(0, 0, Ordering::Relaxed);
        call(&self.fd, ENABLE, TRACE_PC)?;
        let result = what();
        call(&self.fd, DISABLE, 0)?;
        self.each(&mut seen);
        Ok(result)
    }

    fn each(&self, seen: &mut impl FnMut(u64)) {
        let count = self.buffer.load_u64(0, Ordering::Relaxed) as usize;
        for n in 1..=count.min(self.words - 1) {
            seen(self.buffer.load_u64(n * 8, Ordering::Relaxed));
        }
    }
}

/// `struct kcov_remote_arg`, without handles after it.
#[repr(C)]
struct RemoteArg {
    trace_mode: u32,
    area_size: u32,
    num_handles: u32,
    common_handle: u64,
}

/// A coverage buffer for kernel threads.
#[derive(Debug)]
pub struct RemoteKcov(Kcov);

impl RemoteKcov {
    /// Covers kernel threads that work for this thread and for threads that it starts from now on, until this thread
    /// ends.
    ///
    /// There is room for `words - 1` addresses, and for as many in each piece of work.
    pub fn enable(words: usize) -> io::Result<Self> {
        let kcov = Kcov::new(words)?;
        let arg = RemoteArg {
            trace_mode: TRACE_PC as u32,
            area_size: words as u32,
            num_handles: 0,
            // A number that nobody else has.
            common_handle: std::process::id().into(),
        };
        let request = REMOTE_ENABLE as libc::Ioctl;
        // SAFETY: The argument is what this call reads.
        let ret = unsafe { libc::ioctl(kcov.fd.as_raw_fd(), request, &arg) };
        if ret < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(RemoteKcov(kcov))
    }

    /// Passes each address reached by finished work since the last call to `seen`. Addresses that did not fit are lost;
    /// those being added now may be.
    pub fn drain(&mut self, mut seen: impl FnMut(u64)) {
        self.0.each(&mut seen);
        self.0.buffer.store_u64(0, 0, Ordering::Relaxed);
    }
}

/// Makes one of kcov's ioctls, which all take a number.
fn call(fd: &OwnedFd, request: u32, value: u64) -> io::Result<()> {
    // SAFETY: kcov's calls take numbers, not addresses. They make the kernel write to the buffer that is mapped, which
    // nobody has a reference to.
    let ret = unsafe { libc::ioctl(fd.as_raw_fd(), request as libc::Ioctl, value) };
    if ret < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
