// SPDX-License-Identifier: GPL-2.0

//! Another process that uses a descriptor which it was passed: this program run again, with `--child use WHAT`.

use std::io::{BufRead, BufReader};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::process::{ChildStdout, Command, Stdio};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use vfio_client::{passing, raw};

use crate::child::{ready, READY};
use crate::outcome::Outcome;
use crate::{fail, skip};

/// What is passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passed {
    /// A device, which it resets.
    Device,
    /// A data descriptor of v2, which it reads.
    Data,
}

/// Both of them, with their names.
const PASSED: [(&str, Passed); 2] = [("device", Passed::Device), ("data", Passed::Data)];

/// The other process; killed when dropped.
pub(crate) struct User {
    process: std::process::Child,
    // It ends when something comes by this.
    socket: OwnedFd,
    out: BufReader<ChildStdout>,
}

impl User {
    /// Starts it, and returns when it has begun.
    pub(crate) fn start(what: Passed, fd: BorrowedFd<'_>) -> Outcome<Self> {
        let (name, _) = PASSED
            .iter()
            .find(|(_, p)| *p == what)
            .expect("in the table");
        let (socket, theirs) = passing::pair()?;
        let mut process = Command::new("/proc/self/exe")
            .args(["--child", "use", name])
            .stdin(theirs)
            .stdout(Stdio::piped())
            .spawn()?;
        let out = process.stdout.take().expect("it was asked for");
        let mut user = User {
            process,
            socket,
            out: BufReader::new(out),
        };
        passing::send(&user.socket, b"use", Some(fd))?;
        let line = user.line()?;
        if line != READY {
            fail!("the process that uses a {name} says {line:?}");
        }
        Ok(user)
    }

    /// Has it end, and returns how often it did what it does.
    pub(crate) fn end(mut self) -> Outcome<u64> {
        passing::send(&self.socket, b"end", None)?;
        let line = self.line()?;
        match line.trim_end().parse() {
            Ok(count) => Ok(count),
            Err(_) => fail!("the other process says {line:?}"),
        }
    }

    /// The next line that it prints.
    fn line(&mut self) -> Outcome<String> {
        let mut line = String::new();
        self.out.read_line(&mut line)?;
        Ok(line)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Uses the descriptor that comes by standard input until more comes, and prints how often: resets, or bytes.
pub(crate) fn main(args: &[String]) -> Outcome {
    let what = match args {
        [name] => PASSED.iter().find(|(n, _)| n == name),
        _ => None,
    };
    let Some((_, what)) = what else {
        skip!("--child use takes what is passed");
    };
    let socket = std::io::stdin();
    let (_, Some(fd)) = passing::receive(&socket, &mut [0; 16])? else {
        skip!("nothing was passed");
    };
    ready()?;
    let mut count = 0;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let mut more = [PollFd::new(&socket, PollFlags::IN)];
        if poll(&mut more, Some(&Timespec::default()))? > 0 {
            break;
        }
        match what {
            Passed::Device => {
                raw::ioctl(&fd, raw::nr(11), &mut [])?;
                count += 1;
            }
            Passed::Data => match rustix::io::read(&fd, &mut buffer[..]) {
                Ok(n) => count += n as u64,
                Err(rustix::io::Errno::NOMSG) => {}
                Err(e) => return Err(e.into()),
            },
        }
    }
    println!("{count}");
    Ok(())
}
