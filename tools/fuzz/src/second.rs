// SPDX-License-Identifier: GPL-2.0

//! The second process of a program: an ordinary user in a control group, who makes the calls of the lines with `p|`.
//!
//! It has its own slots. It opens files itself or is passed them. It can be killed, frozen and limited in the middle of
//! a call; the next line for it starts another one. Its coverage is not traced.
//!
//! Its standard input and output carry messages:
//!
//! ```text
//! in   put SLOT              with a descriptor: it belongs into this slot, d0 for instance
//!      stalled SLOT SPEC     memory whose page faults the first process answers
//!      CALL                  a line of a program
//! out  done VALUE            the result
//!      errno NUMBER
//!      empty                 a slot was
//!      at ANNOUNCEMENT       where that memory is
//! ```

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use hostile::{Cgroup, Kind, Stalled};
use vfio_client::passing;

use crate::domain::Kind as Slotted;
use crate::ended::{Ended, Result};
use crate::patience::reap;
use crate::program::Call;

/// The longest message.
pub(crate) const MESSAGE: usize = 4096;

/// The first process's side. It makes one call at a time. Other threads may kill meanwhile.
#[derive(Default)]
pub(crate) struct Second {
    /// When its budget is over, as in [`Budget::until`](crate::budget::Budget::until).
    until: Option<u64>,
    /// Kept from the first start to the end of the program.
    cgroup: Mutex<Option<Arc<Cgroup>>>,
    process: Mutex<Option<Child>>,
    /// Held from a message to its answer.
    socket: Mutex<Option<OwnedFd>>,
}

impl Second {
    /// A process, not started yet, whose calls end at this time.
    pub(crate) fn new(until: Option<u64>) -> Self {
        Second {
            until,
            ..Second::default()
        }
    }

    /// The control group.
    pub(crate) fn cgroup(&self) -> io::Result<Arc<Cgroup>> {
        let mut cgroup = self.cgroup.lock().unwrap();
        if let Some(cgroup) = &*cgroup {
            return Ok(cgroup.clone());
        }
        let new = Arc::new(Cgroup::new()?);
        *cgroup = Some(new.clone());
        Ok(new)
    }

    fn start(&self) -> io::Result<OwnedFd> {
        let cgroup = self.cgroup()?;
        let (ours, theirs) = passing::pair()?;
        let child = Command::new("/proc/self/exe")
            .arg("--second")
            .args(self.until.map(|until| format!("--until={until}")))
            .stdin(theirs)
            .stdout(Stdio::null())
            .current_dir("/")
            .spawn()?;
        // The process does nothing before the first message.
        let added = cgroup.add(child.id());
        *self.process.lock().unwrap() = Some(child);
        added.map(|()| ours)
    }

    /// Sends a message and waits for the answer. `None` if the process has exited meanwhile.
    fn exchange(&self, text: &str, fd: Option<BorrowedFd<'_>>) -> io::Result<Option<String>> {
        let mut socket = self.socket.lock().unwrap();
        let mut answer = vec![0; MESSAGE];
        // The previous process may have been killed since.
        for _ in 0..2 {
            let line = match socket.take() {
                Some(line) => line,
                None => self.start()?,
            };
            if passing::send(&line, text.as_bytes(), fd).is_err() {
                continue;
            }
            let len = match passing::receive(&line, &mut answer) {
                Ok((len, _)) if len > 0 => len,
                // It was killed, or it read nothing of this.
                _ => return Ok(None),
            };
            *socket = Some(line);
            return Ok(Some(String::from_utf8_lossy(&answer[..len]).into_owned()));
        }
        Ok(None)
    }

    fn result(&self, text: &str, fd: Option<BorrowedFd<'_>>) -> Result {
        let Some(answer) = self.exchange(text, fd)? else {
            return Err(Ended::Empty);
        };
        match answer.split_once(' ') {
            Some(("done", value)) => Ok(value.parse().unwrap_or(0)),
            Some(("errno", number)) => Err(Ended::Errno(number.parse().unwrap_or(0))),
            _ => Err(Ended::Empty),
        }
    }

    /// Makes a call in it.
    pub(crate) fn make(&self, call: &Call) -> Result {
        let call = Call {
            thread: None,
            ..call.clone()
        };
        self.result(&call.to_string(), None)
    }

    /// Passes a descriptor.
    pub(crate) fn put(&self, kind: Slotted, slot: u64, fd: BorrowedFd<'_>) -> Result {
        self.result(&format!("put {}{slot}", kind.letter()), Some(fd))
    }

    /// Gives it memory whose page faults this process answers.
    pub(crate) fn stalled(&self, slot: u64, kind: Kind, contents: Vec<u8>) -> Result<Stalled> {
        let mut stalled = Stalled::for_another(kind, contents)?;
        let text = format!("stalled {slot} {}", stalled.spec());
        let answer = self.exchange(&text, None)?.ok_or(Ended::Empty)?;
        let Some(announcement) = answer.strip_prefix("at ") else {
            return Err(Ended::Empty);
        };
        let pid = self.process.lock().unwrap().as_ref().map(Child::id);
        stalled.adopt(pid.ok_or(Ended::Empty)?, announcement)?;
        Ok(stalled)
    }

    /// Kills it, and waits for its exit.
    pub(crate) fn kill(&self) -> Result {
        let Some(mut child) = self.process.lock().unwrap().take() else {
            return Err(Ended::Empty);
        };
        child.kill()?;
        reap(&mut child)
    }

    /// Lets it exit by itself, and waits. Returns its control group.
    pub(crate) fn end(&self) -> (Result, Option<Arc<Cgroup>>) {
        let cgroup = self.cgroup.lock().unwrap().take();
        if let Some(cgroup) = &cgroup {
            // Its limits must not delay the exit.
            let _ = cgroup.freeze(false);
            let _ = cgroup.set_cpu_max(None);
        }
        self.socket.lock().unwrap().take();
        let child = self.process.lock().unwrap().take();
        let ended = child.map_or(Ok(0), |mut child| reap(&mut child));
        (ended, cgroup)
    }
}
