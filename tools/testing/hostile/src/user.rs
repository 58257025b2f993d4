// SPDX-License-Identifier: GPL-2.0

//! A process of an ordinary user in a control group.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{prlimit, Pid, Resource, Rlimit};

use crate::cgroup::Cgroup;

/// User and group ID of `nobody`.
pub const NOBODY: u32 = 65534;

/// Gives [`NOBODY`] the device node of a group, `/dev/vfio/NUMBER`, and userfaultfd.
pub fn own_node(number: u32) -> io::Result<()> {
    own_file(&format!("/dev/vfio/{number}"))?;
    own_userfault()
}

/// Gives [`NOBODY`] userfaultfd.
pub fn own_userfault() -> io::Result<()> {
    own_file(vfio_client::userfault::DEVICE)
}

/// Gives [`NOBODY`] a file.
pub fn own_file(path: &str) -> io::Result<()> {
    std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY))
}

/// Waits for the line by which [`User::start`] tells the process that it is in its control group. Call it first.
pub fn admitted() -> io::Result<()> {
    // Byte by byte, because later readers need the rest.
    let mut byte = [0];
    while byte != *b"\n" {
        io::stdin().read_exact(&mut byte)?;
    }
    Ok(())
}

/// A process of [`NOBODY`] that runs this program with other arguments. Drop kills it and waits for it.
#[derive(Debug)]
pub struct User {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    ended: Option<ExitStatus>,
}

impl User {
    /// Starts it in a control group, with these limits.
    pub fn start(
        args: &[&str],
        cgroup: Option<&Cgroup>,
        limits: &[(Resource, u64)],
    ) -> io::Result<Self> {
        let mut process = Command::new("/proc/self/exe")
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .current_dir("/")
            .uid(NOBODY)
            .gid(NOBODY)
            .spawn()?;
        let input = process.stdin.take().expect("it was asked for");
        let output = BufReader::new(process.stdout.take().expect("it was asked for"));
        let mut user = User {
            process,
            input,
            output,
            ended: None,
        };
        if let Some(cgroup) = cgroup {
            cgroup.add(user.pid())?;
        }
        for (resource, limit) in limits {
            let limit = Rlimit {
                current: Some(*limit),
                maximum: Some(*limit),
            };
            prlimit(Pid::from_raw(user.pid() as i32), *resource, limit)?;
        }
        user.say("")?;
        Ok(user)
    }

    /// Returns its process ID.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Writes a line to its standard input.
    pub fn say(&mut self, line: &str) -> io::Result<()> {
        self.input.write_all(format!("{line}\n").as_bytes())
    }

    /// Reads a line of its standard output, without the newline; empty at the end.
    pub fn hear(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim_end().to_string())
    }

    /// [`hear`](Self::hear) with a timeout.
    pub fn hear_within(&mut self, limit: Duration) -> io::Result<Option<String>> {
        use rustix::event::{poll, PollFd, PollFlags, Timespec};
        if self.output.buffer().is_empty() {
            let limit = Timespec {
                tv_sec: limit.as_secs() as i64,
                tv_nsec: limit.subsec_nanos().into(),
            };
            let output = self.output.get_ref().as_fd();
            let mut fds = [PollFd::from_borrowed_fd(output, PollFlags::IN)];
            if poll(&mut fds, Some(&limit))? == 0 {
                return Ok(None);
            }
        }
        self.hear().map(Some)
    }

    /// Sends SIGKILL. Does not wait.
    pub fn kill(&mut self) -> io::Result<()> {
        self.process.kill()
    }

    /// Waits for its exit; `None` after the timeout.
    pub fn wait(&mut self, limit: Duration) -> io::Result<Option<ExitStatus>> {
        let start = Instant::now();
        let mut pause = Duration::from_micros(100);
        while self.ended.is_none() {
            self.ended = self.process.try_wait()?;
            if self.ended.is_some() || start.elapsed() > limit {
                break;
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
        Ok(self.ended)
    }

    /// Returns the kernel stack of each of its threads, to show what it waits for.
    pub fn stacks(&self) -> String {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid()));
        let tasks = tasks.into_iter().flatten().flatten();
        let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap_or_default();
        let mut text = String::new();
        for task in tasks {
            text += &read(task.path().join("comm"));
            text += &read(task.path().join("stack"));
        }
        text
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = self.kill();
        // With a limit: a process that cannot be killed must not hang the test that detects it.
        let _ = self.wait(Duration::from_secs(10));
    }
}
