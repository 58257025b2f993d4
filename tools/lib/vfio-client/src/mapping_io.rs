// SPDX-License-Identifier: GPL-2.0

//! Reads and writes of files whose buffer is a [`Mapping`].

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use crate::mapping::Mapping;

impl Mapping {
    /// Writes a range to a file, once. Unreadable memory gives `EFAULT` instead of a signal.
    pub fn save_to(
        &self,
        offset: usize,
        len: usize,
        file: impl AsFd,
        at: u64,
    ) -> io::Result<usize> {
        pwrite(file, at, self, offset, len)
    }

    /// Reads a file into a range, once. Unwritable memory gives `EFAULT` instead of a signal.
    pub fn load_from(
        &self,
        offset: usize,
        len: usize,
        file: impl AsFd,
        at: u64,
    ) -> io::Result<usize> {
        pread(file, at, self, offset, len)
    }
}

/// Lets `call` transfer up to `size` bytes between a descriptor and a range of a mapping, after a bounds check. It gets
/// the descriptor and the range, and returns the bytes transferred or -1.
fn on_range(
    fd: impl AsFd,
    memory: &Mapping,
    at: usize,
    size: usize,
    call: impl FnOnce(libc::c_int, *mut libc::c_void, usize) -> isize,
) -> io::Result<usize> {
    memory.check(at, size);
    let address = memory.address() + at as u64;
    let n = call(fd.as_fd().as_raw_fd(), address as *mut libc::c_void, size);
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}

/// Reads `size` bytes at `offset` of a file into a mapping, possibly of the same device.
pub(crate) fn pread(
    fd: impl AsFd,
    offset: u64,
    memory: &Mapping,
    at: usize,
    size: usize,
) -> io::Result<usize> {
    on_range(fd, memory, at, size, |fd, range, size| {
        // SAFETY: The range is inside `memory`, which is only accessed through raw pointers and atomics.
        unsafe { libc::pread(fd, range, size, offset as i64) }
    })
}

/// Reads up to `size` bytes of a stream into a mapping, possibly of the same device.
pub(crate) fn read(fd: impl AsFd, memory: &Mapping, at: usize, size: usize) -> io::Result<usize> {
    on_range(fd, memory, at, size, |fd, range, size| {
        // SAFETY: As in `pread`.
        unsafe { libc::read(fd, range, size) }
    })
}

/// Writes up to `size` bytes of a mapping, possibly of the same device, to a stream.
pub(crate) fn write(fd: impl AsFd, memory: &Mapping, at: usize, size: usize) -> io::Result<usize> {
    on_range(fd, memory, at, size, |fd, range, size| {
        // SAFETY: As in `pread`.
        unsafe { libc::write(fd, range, size) }
    })
}

/// Writes `size` bytes of a mapping, possibly of the same device, at `offset` of a file.
pub(crate) fn pwrite(
    fd: impl AsFd,
    offset: u64,
    memory: &Mapping,
    at: usize,
    size: usize,
) -> io::Result<usize> {
    on_range(fd, memory, at, size, |fd, range, size| {
        // SAFETY: As in `pread`.
        unsafe { libc::pwrite(fd, range, size, offset as i64) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::Protection;

    #[test]
    fn faults_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let file = std::fs::File::create_new(dir.path().join("short")).unwrap();
        let source = std::fs::File::open("/proc/self/exe").unwrap();
        let m = Mapping::of_file(&source, 0, 4096, Protection::READ).unwrap();
        assert_eq!(m.save_to(0, 100, &file, 0).unwrap(), 100);
        let e = m.load_from(0, 100, &source, 0).unwrap_err();
        assert_eq!(e.raw_os_error(), Some(libc::EFAULT));
    }
}
