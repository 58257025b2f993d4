// SPDX-License-Identifier: GPL-2.0

//! Memory whose page faults wait.

use std::fmt;
use std::fs::OpenOptions;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{pidfd_getfd, pidfd_open, Pid, PidfdFlags, PidfdGetfdFlags};
use vfio_client::userfault::UserFault;
use vfio_client::{Mapping, Protection};

use crate::fuse::{Fuse, Mount};
use crate::serve::Server;
use crate::userfault::Anonymous;

/// Who answers the faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A userfaultfd, on private anonymous memory.
    Userfault,
    /// A FUSE server, on a private mapping of a file.
    Fuse,
}

impl Kind {
    /// Both.
    pub const ALL: [Kind; 2] = [Kind::Userfault, Kind::Fuse];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Userfault => "userfaultfd",
            Kind::Fuse => "FUSE",
        })
    }
}

/// Memory of which each page waits, when it is touched first, until this process answers: whoever touches it, another
/// process, the kernel or a device. The answer is the contents that it was made with.
///
/// The memory is this process's ([`new`](Self::new)), or that of another ([`for_another`](Self::for_another), by which the
/// answers outlive the other's death). Dropped, everybody who waits gets the answer. Memory by FUSE cannot be read after
/// that, unless it has been before; memory by userfaultfd is zero then.
///
/// One opened FUSE file stalls killably for 100 pages: then the kernel takes it for one where readahead is useless, and
/// each fault waits for the server unkillably.
pub struct Stalled {
    // Dropped in this order.
    server: Option<Server>,
    mount: Option<Mount>,
    memory: Option<Arc<Mapping>>,
    contents: Arc<Vec<u8>>,
}

impl Stalled {
    /// Memory of this process.
    pub fn new(kind: Kind, contents: Vec<u8>) -> io::Result<Self> {
        let mut stalled = Self::for_another(kind, contents)?;
        let len = stalled.contents.len();
        match kind {
            Kind::Userfault => {
                let memory = Mapping::anonymous(len)?;
                let faults = UserFault::new()?;
                faults.watch(&memory)?;
                stalled.serve_anonymous(faults, memory.address())?;
                stalled.memory = Some(memory.into());
            }
            Kind::Fuse => stalled.memory = Some(map_file(stalled.path(), len)?.into()),
        }
        Ok(stalled)
    }

    /// Memory of another process, which makes it with [`Victim::new`] from [`spec`](Self::spec).
    pub fn for_another(kind: Kind, contents: Vec<u8>) -> io::Result<Self> {
        let contents = Arc::new(contents);
        let mut stalled = Stalled {
            server: None,
            mount: None,
            memory: None,
            contents: contents.clone(),
        };
        if kind == Kind::Fuse {
            let (fuse, mount) = Fuse::mount(contents)?;
            stalled.server = Some(Server::start(fuse)?);
            // The kernel learns the file's size by this, before anybody maps it.
            std::fs::metadata(mount.path())?;
            stalled.mount = Some(mount);
        }
        Ok(stalled)
    }

    /// What [`Victim::new`] makes the memory from, without spaces.
    pub fn spec(&self) -> String {
        let len = self.contents.len();
        match &self.mount {
            Some(mount) => format!("{len}:{}", mount.path().display()),
            None => format!("{len}:"),
        }
    }

    /// Takes over the faults of the process `pid`, as its [`Victim::announcement`] says.
    pub fn adopt(&mut self, pid: u32, announcement: &str) -> io::Result<()> {
        if self.mount.is_some() {
            return Ok(());
        }
        let (faults, address) = adopt(pid, announcement)?;
        self.serve_anonymous(faults, address)
    }

    fn serve_anonymous(&mut self, faults: UserFault, address: u64) -> io::Result<()> {
        let contents = self.contents.clone();
        self.server = Some(Server::start(Anonymous {
            faults,
            address,
            contents,
        })?);
        Ok(())
    }

    fn path(&self) -> &std::path::Path {
        self.mount.as_ref().expect("by FUSE").path()
    }

    /// The memory.
    ///
    /// # Panics
    ///
    /// If it is another process's.
    pub fn memory(&self) -> &Arc<Mapping> {
        self.memory.as_ref().expect("memory of this process")
    }

    fn server(&self) -> &Server {
        self.server.as_ref().expect("the faults are adopted")
    }

    /// How many faults have come.
    pub fn arrived(&self) -> u64 {
        self.server.as_ref().map_or(0, Server::arrived)
    }

    /// How many of them wait.
    pub fn waiting(&self) -> usize {
        self.server.as_ref().map_or(0, Server::waiting)
    }

    /// Waits until `count` faults have come since the memory was made. Returns the offset of the last one that waits.
    ///
    /// # Errors
    ///
    /// A text that says what was waited for.
    pub fn wait(&self, count: u64, limit: Duration) -> io::Result<u64> {
        self.server().wait(count, limit)
    }

    /// Answers those who wait, and all who come.
    pub fn release(&self) {
        self.answer_after(Duration::ZERO);
    }

    /// Answers each fault this long after it has come.
    pub fn answer_after(&self, delay: Duration) {
        self.server().answer_after(delay);
    }

    /// Answers the first `count` faults that have ever come at once, and holds the others, as at first all.
    pub fn hold_after(&self, count: u64) {
        self.server().hold_after(count);
    }
}

fn map_file(path: &std::path::Path, len: usize) -> io::Result<Mapping> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let protection = Protection {
        shared: false,
        ..Protection::READ_WRITE
    };
    Mapping::of_file(&file, 0, len, protection)
}

/// The end of [`Stalled`] in the other process: the memory itself.
pub struct Victim {
    memory: Arc<Mapping>,
    /// Kept open until the other process has it.
    faults: Option<UserFault>,
}

impl Victim {
    /// Makes the memory that a [`Stalled::spec`] says.
    ///
    /// # Errors
    ///
    /// `EACCES` for userfaultfd if this user may not open [`vfio_client::userfault::DEVICE`].
    pub fn new(spec: &str) -> io::Result<Self> {
        let parts = spec.split_once(':');
        let parts = parts.and_then(|(len, path)| Some((len.parse().ok()?, path)));
        let Some((len, path)) = parts else {
            return Err(io::Error::other(format!("{spec:?} says no memory")));
        };
        if !path.is_empty() {
            return Ok(Victim {
                memory: map_file(path.as_ref(), len)?.into(),
                faults: None,
            });
        }
        let memory = Arc::new(Mapping::anonymous(len)?);
        let faults = UserFault::new()?;
        faults.watch(&memory)?;
        Ok(Victim {
            memory,
            faults: Some(faults),
        })
    }

    /// The memory. It may be touched once [`Stalled::adopt`] has been called.
    pub fn memory(&self) -> &Arc<Mapping> {
        &self.memory
    }

    /// What [`Stalled::adopt`] is to be told.
    pub fn announcement(&self) -> String {
        use std::os::fd::{AsFd, AsRawFd};
        let fd = self.faults.as_ref().map(|f| f.as_fd().as_raw_fd());
        format!("{}:{}", fd.unwrap_or(-1), self.memory.address())
    }
}

/// Takes the userfaultfd of another process: the faults, and the address of the memory there.
pub fn adopt(pid: u32, announcement: &str) -> io::Result<(UserFault, u64)> {
    let parts = announcement.trim().split_once(':');
    let parts = parts.and_then(|(fd, at)| Some((fd.parse().ok()?, at.parse().ok()?)));
    let (Some((fd, address)), Some(pid)) = (parts, Pid::from_raw(pid as i32)) else {
        return Err(io::Error::other(format!(
            "{announcement:?} of process {pid} says no userfaultfd"
        )));
    };
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let fd = pidfd_getfd(process, fd, PidfdGetfdFlags::empty())?;
    Ok((UserFault::from_fd(fd)?, address))
}
