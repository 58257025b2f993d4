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

/// The backend that answers faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A userfaultfd, on private anonymous memory.
    Userfault,
    /// A FUSE server, on a private mapping of a file.
    Fuse,
}

impl Kind {
    /// All backends.
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

/// Memory whose pages stall the first access until this process answers. The access may come from this or another
/// process, the kernel or a device. The answer is the contents given at creation.
///
/// The memory belongs to this process ([`new`](Self::new)) or to another ([`for_another`](Self::for_another), where the
/// answers outlive that process). Drop answers all waiters. After that, untouched memory cannot be read if FUSE backs
/// it, and reads zero if userfaultfd does.
///
/// The first 100 pages of an opened FUSE file stall killably. Then the kernel decides that readahead is useless for the
/// file, and each fault waits for the server unkillably.
pub struct Stalled {
    // Dropped in this order.
    server: Option<Server>,
    mount: Option<Mount>,
    memory: Option<Arc<Mapping>>,
    contents: Arc<Vec<u8>>,
}

impl Stalled {
    /// Creates memory of this process.
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

    /// Prepares memory of another process, which creates it with [`Victim::new`] from [`spec`](Self::spec).
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
            // This tells the kernel the file's size before anybody maps it.
            std::fs::metadata(mount.path())?;
            stalled.mount = Some(mount);
        }
        Ok(stalled)
    }

    /// Returns the description of the memory for [`Victim::new`], without spaces.
    pub fn spec(&self) -> String {
        let len = self.contents.len();
        match &self.mount {
            Some(mount) => format!("{len}:{}", mount.path().display()),
            None => format!("{len}:"),
        }
    }

    /// Takes over the faults of the process `pid` from its [`Victim::announcement`].
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

    /// Returns the memory.
    ///
    /// # Panics
    ///
    /// If the memory belongs to another process.
    pub fn memory(&self) -> &Arc<Mapping> {
        self.memory.as_ref().expect("memory of this process")
    }

    fn server(&self) -> &Server {
        self.server.as_ref().expect("the faults are adopted")
    }

    /// Returns the number of faults so far.
    pub fn arrived(&self) -> u64 {
        self.server.as_ref().map_or(0, Server::arrived)
    }

    /// Returns the number of waiting faults.
    pub fn waiting(&self) -> usize {
        self.server.as_ref().map_or(0, Server::waiting)
    }

    /// Waits until there were `count` faults since creation. Returns the offset of the last waiting one.
    ///
    /// # Errors
    ///
    /// A text that names what did not happen in time.
    pub fn wait(&self, count: u64, limit: Duration) -> io::Result<u64> {
        self.server().wait(count, limit)
    }

    /// Answers all waiting and future faults.
    pub fn release(&self) {
        self.answer_after(Duration::ZERO);
    }

    /// Answers each fault after this delay.
    pub fn answer_after(&self, delay: Duration) {
        self.server().answer_after(delay);
    }

    /// Answers the first `count` faults since creation at once, and holds the others. At first all are held.
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

/// The other process's side of [`Stalled`]: the memory itself.
pub struct Victim {
    memory: Arc<Mapping>,
    /// Kept open until the other process has it.
    faults: Option<UserFault>,
}

impl Victim {
    /// Creates the memory that a [`Stalled::spec`] describes.
    ///
    /// # Errors
    ///
    /// `EACCES` for userfaultfd if this user may not open [`vfio_client::userfault::DEVICE`].
    pub fn new(spec: &str) -> io::Result<Self> {
        let parts = spec.split_once(':');
        let parts = parts.and_then(|(len, path)| Some((len.parse().ok()?, path)));
        let Some((len, path)) = parts else {
            return Err(io::Error::other(format!(
                "{spec:?} does not describe memory"
            )));
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

    /// Returns the memory. It must not be touched before [`Stalled::adopt`].
    pub fn memory(&self) -> &Arc<Mapping> {
        &self.memory
    }

    /// Returns the argument for [`Stalled::adopt`].
    pub fn announcement(&self) -> String {
        use std::os::fd::{AsFd, AsRawFd};
        let fd = self.faults.as_ref().map(|f| f.as_fd().as_raw_fd());
        format!("{}:{}", fd.unwrap_or(-1), self.memory.address())
    }
}

/// Takes the userfaultfd of another process, and the address of its memory.
pub fn adopt(pid: u32, announcement: &str) -> io::Result<(UserFault, u64)> {
    let parts = announcement.trim().split_once(':');
    let parts = parts.and_then(|(fd, at)| Some((fd.parse().ok()?, at.parse().ok()?)));
    let (Some((fd, address)), Some(pid)) = (parts, Pid::from_raw(pid as i32)) else {
        return Err(io::Error::other(format!(
            "{announcement:?} of process {pid} names no userfaultfd"
        )));
    };
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let fd = pidfd_getfd(process, fd, PidfdGetfdFlags::empty())?;
    Ok((UserFault::from_fd(fd)?, address))
}
