// SPDX-License-Identifier: GPL-2.0

//! A file system with one file, whose reads wait.
//!
//! This file reads `/dev/fuse` itself instead of using a library, for two reasons. The connection must end while
//! processes still map the file; the libraries call `umount()` and give up at EBUSY. And two settings decide whether a
//! page fault can be killed at all (see [`INIT_FLAGS`] and [`READAHEAD`]).

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;

use rustix::mount::{mount, unmount, MountFlags, UnmountFlags};

use crate::serve::{Backend, Fault};

/// Opcodes from `include/uapi/linux/fuse.h`.
mod op {
    pub(super) const FORGET: u32 = 2;
    pub(super) const GETATTR: u32 = 3;
    pub(super) const SETATTR: u32 = 4;
    pub(super) const OPEN: u32 = 14;
    pub(super) const READ: u32 = 15;
    pub(super) const WRITE: u32 = 16;
    pub(super) const RELEASE: u32 = 18;
    pub(super) const FSYNC: u32 = 20;
    pub(super) const FLUSH: u32 = 25;
    pub(super) const INIT: u32 = 26;
    pub(super) const INTERRUPT: u32 = 36;
    pub(super) const DESTROY: u32 = 38;
    pub(super) const BATCH_FORGET: u32 = 42;
}

/// `FUSE_ASYNC_READ`: a page is read in the background, and the fault waits for the page, killably. Without it the
/// fault waits for the answer, and FUSE waits unkillably once the server has taken the request.
const INIT_FLAGS: u32 = 1;
/// One page. Without readahead the fault reads the page itself, and waits as described above.
const READAHEAD: u32 = 4096;
/// Protocol 7.31.
const VERSION: (u32, u32) = (7, 31);
/// `FOPEN_KEEP_CACHE`: a second open must not wait for pages being read.
const OPEN_FLAGS: u32 = 2;
/// `struct fuse_in_header` and `struct fuse_out_header`.
const IN_HEADER: usize = 40;
const OUT_HEADER: usize = 16;
/// The largest request that the kernel sends.
const REQUEST: usize = 1 << 17;

/// The mounted file. Drop unmounts it; processes that map it keep it.
pub(crate) struct Mount(PathBuf);

impl Mount {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = unmount(&self.0, UnmountFlags::DETACH);
        let _ = fs::remove_file(&self.0);
    }
}

/// The server's side.
pub(crate) struct Fuse {
    device: File,
    contents: Arc<Vec<u8>>,
    request: Vec<u8>,
}

impl Fuse {
    /// Mounts a file with these contents under the temporary directory. Reads wait until [`Server`](crate::serve::Server)
    /// serves them.
    pub(crate) fn mount(contents: Arc<Vec<u8>>) -> io::Result<(Self, Mount)> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("stalled-{}-{number}", std::process::id());
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/fuse")?;
        let path = std::env::temp_dir().join(name);
        File::create(&path)?;
        let path = Mount(path);
        let fd = device.as_raw_fd();
        let data = format!("fd={fd},rootmode=100666,user_id=0,group_id=0,allow_other");
        let data = CString::new(data).expect("no NUL");
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("stalled", path.path(), "fuse", flags, data.as_c_str())?;
        let fuse = Fuse {
            device,
            contents,
            request: vec![0; REQUEST],
        };
        Ok((fuse, path))
    }

    fn reply(&mut self, unique: u64, error: i32, data: &[u8]) -> io::Result<()> {
        let mut out = Vec::with_capacity(OUT_HEADER + data.len());
        out.extend(((OUT_HEADER + data.len()) as u32).to_ne_bytes());
        out.extend((-error).to_ne_bytes());
        out.extend(unique.to_ne_bytes());
        out.extend(data);
        match self.device.write(&out) {
            // The requester is gone.
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            done => done.map(drop),
        }
    }

    /// `struct fuse_attr_out`.
    fn attributes(&self) -> Vec<u8> {
        let size = self.contents.len() as u64;
        let mut out = Out::default();
        // Valid for a day, so that no page fault asks again.
        out.u64(86400).u64(0);
        // ino, size, blocks, three times.
        out.u64(1).u64(size).u64(size.div_ceil(512));
        out.u64(0).u64(0).u64(0);
        // Nanoseconds of the times.
        out.u32(0).u32(0).u32(0);
        // mode, nlink, uid, gid, rdev, blksize, flags.
        out.u32(0o100_666).u32(1);
        out.u32(0).u32(0).u32(0).u32(4096).u32(0);
        out.0
    }

    /// `struct fuse_init_out`.
    fn init() -> Vec<u8> {
        let mut out = Out::default();
        out.u32(VERSION.0).u32(VERSION.1).u32(READAHEAD);
        out.u32(INIT_FLAGS);
        // max_background and congestion_threshold, 16 bits each: no fault waits for another.
        out.u32(0xffff_ffff);
        // max_write, time_gran; max_pages and map_alignment.
        out.u32(4096).u32(1).u32(0);
        out.0.resize(64, 0);
        out.0
    }

    /// Answers all requests except page faults at once.
    fn handle(&mut self, len: usize) -> io::Result<Option<Fault>> {
        let u32_at = |at: usize| u32::from_ne_bytes(self.request[at..at + 4].try_into().unwrap());
        let u64_at = |at: usize| u64::from_ne_bytes(self.request[at..at + 8].try_into().unwrap());
        if len < IN_HEADER {
            return Err(io::Error::other("a short FUSE request"));
        }
        let (opcode, unique) = (u32_at(4), u64_at(8));
        match opcode {
            op::READ => {
                // fh, offset, size.
                return Ok(Some(Fault {
                    token: unique,
                    offset: u64_at(IN_HEADER + 8),
                    len: u32_at(IN_HEADER + 16) as usize,
                }));
            }
            op::INIT => self.reply(unique, 0, &Self::init())?,
            op::GETATTR | op::SETATTR => {
                let attributes = self.attributes();
                self.reply(unique, 0, &attributes)?;
            }
            op::OPEN => {
                let mut out = Out::default();
                out.u64(0).u32(OPEN_FLAGS).u32(0);
                self.reply(unique, 0, &out.0)?;
            }
            op::WRITE => {
                // The contents stay in memory only. fh, offset, size.
                let mut out = Out::default();
                out.u32(u32_at(IN_HEADER + 16)).u32(0);
                self.reply(unique, 0, &out.0)?;
            }
            op::RELEASE | op::FLUSH | op::FSYNC | op::DESTROY => self.reply(unique, 0, &[])?,
            // These have no answer.
            op::FORGET | op::BATCH_FORGET | op::INTERRUPT => {}
            _ => self.reply(unique, libc::ENOSYS, &[])?,
        }
        Ok(None)
    }
}

impl Backend for Fuse {
    fn fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }

    fn take(&mut self) -> io::Result<Option<Fault>> {
        loop {
            match self.device.read(&mut self.request) {
                Ok(len) => {
                    if let Some(fault) = self.handle(len)? {
                        return Ok(Some(fault));
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                // A request that was aborted while it was read, or a signal.
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn answer(&mut self, fault: &Fault) -> io::Result<()> {
        let contents = self.contents.clone();
        let from = contents.get(fault.offset as usize..).unwrap_or(&[]);
        self.reply(fault.token, 0, &from[..from.len().min(fault.len)])
    }
}

/// Returns a structure as bytes.
#[derive(Default)]
struct Out(Vec<u8>);

impl Out {
    fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend(value.to_ne_bytes());
        self
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend(value.to_ne_bytes());
        self
    }
}
