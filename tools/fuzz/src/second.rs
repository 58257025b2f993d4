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
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use hostile::{Cgroup, Kind, Stalled, Victim, NOBODY};
use vfio_client::{passing, Node};

use crate::calls::{self, Ended, Result};
use crate::grammar::Kind as Slotted;
use crate::program::{Call, Program};
use crate::world::World;

/// Timeout of the exit of a killed process, on a slow machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// The longest message.
const MESSAGE: usize = 4096;

/// The first process's side. It makes one call at a time. Other threads may kill meanwhile.
#[derive(Default)]
pub(crate) struct Second {
    /// Kept from the first start to the end of the program.
    cgroup: Mutex<Option<Arc<Cgroup>>>,
    process: Mutex<Option<Child>>,
    /// Held from a message to its answer.
    socket: Mutex<Option<OwnedFd>>,
}

impl Second {
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
            .stdin(theirs)
            .stdout(Stdio::null())
            .current_dir("/")
            .uid(NOBODY)
            .gid(NOBODY)
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

/// Waits for the exit of a process.
fn reap(child: &mut Child) -> Result {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if child.try_wait()?.is_some() {
            return Ok(0);
        }
        thread::sleep(Duration::from_millis(1));
    }
    Err(Ended::Stuck)
}

/// The second process's `main`.
pub(crate) fn main() -> std::result::Result<(), String> {
    serve().map_err(|e| format!("the second process: {e}"))
}

fn serve() -> io::Result<()> {
    let socket = io::stdin();
    let mut message = vec![0; MESSAGE];
    // Do nothing before the first message: the process may not be in its control group yet.
    let mut received = passing::receive(&socket, &mut message)?;
    let world = Arc::new(World::new(World::ground()?)?);
    // Kept open for the first process to take.
    let mut victims = Vec::new();
    while received.0 > 0 {
        let (len, fd) = received;
        let text = String::from_utf8_lossy(&message[..len]).into_owned();
        let answer = match text.strip_prefix("stalled ") {
            Some(rest) => match stalled(&world, rest) {
                Ok(victim) => {
                    let answer = format!("at {}", victim.announcement());
                    victims.push(victim);
                    answer
                }
                Err(e) => format!("errno {}", e.raw_os_error().unwrap_or(0)),
            },
            None => match handle(&world, &text, fd) {
                Ok(value) => format!("done {value}"),
                Err(Ended::Errno(number)) => format!("errno {number}"),
                Err(Ended::Empty | Ended::Stuck) => "empty".into(),
            },
        };
        if passing::send(&socket, answer.as_bytes(), None).is_err() {
            // The first process was killed.
            break;
        }
        received = passing::receive(&socket, &mut message)?;
    }
    Ok(())
}

fn stalled(world: &World, text: &str) -> io::Result<Victim> {
    let (slot, spec) = text.split_once(' ').unwrap_or(("0", text));
    let victim = Victim::new(spec)?;
    let slot = slot.parse().unwrap_or(0);
    world.mappings.put(slot, victim.memory().clone());
    Ok(victim)
}

fn handle(world: &Arc<World>, text: &str, fd: Option<OwnedFd>) -> Result {
    if let (Some(rest), Some(fd)) = (text.strip_prefix("put "), fd) {
        for kind in [
            Slotted::Device,
            Slotted::Data,
            Slotted::Container,
            Slotted::Group,
        ] {
            let slot = rest.strip_prefix(kind.letter()).map(str::parse);
            if let (Some(Ok(slot)), Some(nodes)) = (slot, world.nodes(kind)) {
                nodes.put(slot, Node::from(fd));
                return Ok(0);
            }
        }
        return Err(Ended::Empty);
    }
    let program: Program = text.parse().map_err(|_| Ended::Empty)?;
    match &program.calls[..] {
        [call] => calls::make(world, call),
        _ => Err(Ended::Empty),
    }
}
