// SPDX-License-Identifier: GPL-2.0

//! The serial line to the host.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::termios::{tcgetattr, tcsetattr, OptionalActions};
use serde::Serialize;

/// A serial port, or a substitute in tests.
#[derive(Debug)]
pub struct Console {
    file: File,
    unfinished: Vec<u8>,
}

/// A command of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Do a last few jobs, and nothing more until the next command.
    Hold,
    /// Verify everything, once no job is in flight.
    Verify(Verify),
    /// Bind the driver to the devices that it was unbound from.
    Bind,
    /// Suspend the machine to RAM.
    Suspend,
    /// Make the kernel panic.
    Panic,
}

/// What follows from a verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// Continue if all is right.
    Check,
    /// Report how much memory differs, repair it, and continue.
    Mend,
    /// Unbind the devices from their driver if all is right.
    Unbind,
    /// Switch off if all is right.
    End,
}

impl Console {
    /// Opens a port in raw mode.
    pub fn open(path: &str) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        let mut attributes = tcgetattr(&file)?;
        attributes.make_raw();
        tcsetattr(&file, OptionalActions::Now, &attributes)?;
        Ok(Console {
            file,
            unfinished: Vec::new(),
        })
    }

    /// Sends an event to the host.
    pub fn tell(&mut self, event: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        self.file.write_all(&line)
    }

    /// Reads what has arrived, and waits if there is nothing. Lines that are not commands are returned as text.
    pub fn commands(&mut self) -> io::Result<Vec<Result<Command, String>>> {
        let mut bytes = [0; 256];
        let len = self.file.read(&mut bytes)?;
        self.unfinished.extend(&bytes[..len]);
        let mut commands = Vec::new();
        while let Some(end) = self
            .unfinished
            .iter()
            .position(|byte| matches!(byte, b'\n' | b'\r'))
        {
            let line: Vec<u8> = self.unfinished.drain(..=end).collect();
            match line[..end].trim_ascii() {
                b"" => (),
                b"hold" => commands.push(Ok(Command::Hold)),
                b"check" => commands.push(Ok(Command::Verify(Verify::Check))),
                b"unbind" => commands.push(Ok(Command::Verify(Verify::Unbind))),
                b"bind" => commands.push(Ok(Command::Bind)),
                b"suspend" => commands.push(Ok(Command::Suspend)),
                b"panic" => commands.push(Ok(Command::Panic)),
                b"mend" => commands.push(Ok(Command::Verify(Verify::Mend))),
                b"end" => commands.push(Ok(Command::Verify(Verify::End))),
                other => commands.push(Err(String::from_utf8_lossy(other).into_owned())),
            }
        }
        Ok(commands)
    }
}

impl AsFd for Console {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
