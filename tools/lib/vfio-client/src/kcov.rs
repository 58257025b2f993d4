// SPDX-License-Identifier: GPL-2.0

//! What code of the kernel a thread's system calls have reached: `/sys/kernel/debug/kcov`.
//!
//! Only on a kernel with `CONFIG_KCOV`, and only code that was compiled for it. A [`Kcov`] sees a thread's own system
//! calls. What the kernel's own threads do on behalf of a process is seen by a [`RemoteKcov`], where they say that they do
//! it for somebody.

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

/// A place for coverage.
#[derive(Debug)]
pub struct Kcov {
    fd: OwnedFd,
    /// A count, and as many addresses.
    buffer: Mapping,
    words: usize,
}

impl Kcov {
    /// Whether the kernel has it.
    pub fn exists() -> bool {
        std::path::Path::new(PATH).exists()
    }

    /// Makes room for `words - 1` addresses.
    pub fn new(words: usize) -> io::Result<Self> {
        let fd = rustix::fs::open(PATH, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        call(&fd, INIT_TRACE, words as u64)?;
        let buffer = Mapping::of_file(fd.as_fd(), 0, words * 8, Protection::READ_WRITE)?;
        Ok(Kcov { fd, buffer, words })
    }

    /// Runs `what`, and hands over each address that the system calls of this thread have reached in it, as often as
    /// they did. What did not fit is lost.
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

/// A place for coverage of what the kernel's own threads do.
#[derive(Debug)]
pub struct RemoteKcov(Kcov);

impl RemoteKcov {
    /// Has what they do for this thread and for those that it starts from now on be noted, until this thread ends.
    ///
    /// There is room for `words - 1` addresses, and as many in each thing done.
    pub fn enable(words: usize) -> io::Result<Self> {
        let kcov = Kcov::new(words)?;
        let arg = RemoteArg {
            trace_mode: TRACE_PC as u32,
            area_size: words as u32,
            num_handles: 0,
            // Nobody else has that number.
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

    /// Hands over each address that was reached since it was asked last, in things that are over. What did not fit is
    /// lost, and what is being added now may be.
    pub fn drain(&mut self, mut seen: impl FnMut(u64)) {
        self.0.each(&mut seen);
        self.0.buffer.store_u64(0, 0, Ordering::Relaxed);
    }
}

/// One of kcov's calls, which all take a number.
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
