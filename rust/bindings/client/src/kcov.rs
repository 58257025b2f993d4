// SPDX-License-Identifier: GPL-2.0

//! What code of the kernel a thread's system calls have reached: `/sys/kernel/debug/kcov`.
//!
//! Only on a kernel with `CONFIG_KCOV`, and only code that was compiled for it. What runs in the kernel's own threads
//! on behalf of a call is not seen.

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
        let count = self.buffer.load_u64(0, Ordering::Relaxed) as usize;
        for n in 1..=count.min(self.words - 1) {
            seen(self.buffer.load_u64(n * 8, Ordering::Relaxed));
        }
        Ok(result)
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
