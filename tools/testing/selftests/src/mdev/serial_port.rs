// SPDX-License-Identifier: GPL-2.0

//! An open `mserial`, its registers, and its host end.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;

use vfio_client::{v1, v2, Region};

use crate::env::{Env, Guest};
use crate::harness::check::wait_for;
use crate::harness::result::Result;

pub(crate) const DATA: u64 = 0;
pub(crate) const IER: u64 = 1;
pub(crate) const IIR: u64 = 2;
pub(crate) const FCR: u64 = 2;
pub(crate) const LCR: u64 = 3;
pub(crate) const MCR: u64 = 4;
pub(crate) const LSR: u64 = 5;
pub(crate) const MSR: u64 = 6;
pub(crate) const SCR: u64 = 7;

/// 8 data bits, no parity, one stop bit.
pub(crate) const EIGHT: u8 = 0x03;
pub(crate) const DLAB: u8 = 0x80;
/// Enables the FIFOs and clears them; one received byte interrupts.
pub(crate) const FIFOS: u8 = 0x07;
pub(crate) const RTS: u8 = 0x02;
pub(crate) const LOOP: u8 = 0x10;
pub(crate) const READY: u8 = 0x01;
pub(crate) const OVERRUN: u8 = 0x02;
/// LSR: the FIFO of the transmitter is empty; the line is, too.
pub(crate) const EMPTY: u8 = 0x20;
pub(crate) const IDLE: u8 = 0x40;

pub(crate) const COMMAND_IO: u16 = 1;
pub(crate) const COMMAND_MASTER: u16 = 4;

/// The divisor of 115200 baud, the fastest.
pub(crate) const FAST: u16 = 1;

/// An open port.
pub(crate) struct Port {
    pub(crate) bar: Region,
    pub(crate) guest: Guest,
}

/// A file of the host end.
pub(crate) struct Host(pub(crate) File);

impl Port {
    pub(crate) fn new(env: &Env) -> Result<Self> {
        let guest = env.open("mserial-1")?;
        guest.device.config()?.set_command(COMMAND_IO)?;
        let bar = guest.region(0)?;
        Ok(Port { bar, guest })
    }

    /// Sets the divisor, 8 data bits, the FIFOs and RTS.
    pub(crate) fn set_up(&self, divisor: u16) -> Result {
        self.put(LCR, EIGHT | DLAB)?;
        self.put(DATA, divisor as u8)?;
        self.put(IER, (divisor >> 8) as u8)?;
        self.put(LCR, EIGHT)?;
        self.put(FCR, FIFOS)?;
        self.put(MCR, RTS)
    }

    pub(crate) fn get(&self, at: u64) -> Result<u8> {
        Ok(self.bar.read_u8(at)?)
    }

    pub(crate) fn put(&self, at: u64, byte: u8) -> Result {
        Ok(self.bar.write_u8(at, byte)?)
    }

    pub(crate) fn has(&self, bits: u8) -> Result<bool> {
        Ok(self.get(LSR)? & bits != 0)
    }

    /// Sends bytes, 16 at a time.
    pub(crate) fn send(&self, bytes: &[u8]) -> Result {
        for chunk in bytes.chunks(16) {
            wait_for("the transmitter to be empty", || self.has(EMPTY))?;
            for byte in chunk {
                self.put(DATA, *byte)?;
            }
        }
        Ok(())
    }

    /// Receives a byte.
    pub(crate) fn receive(&self) -> Result<u8> {
        wait_for("a byte from the line", || self.has(READY))?;
        self.get(DATA)
    }

    /// Opens the host end; calls on it do not wait.
    pub(crate) fn host(&self) -> io::Result<Host> {
        self.open_host(libc::O_NONBLOCK)
    }

    pub(crate) fn open_host(&self, flags: i32) -> io::Result<Host> {
        let path = format!("/dev/mserial-{}", self.guest.instance.uuid);
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(flags);
        Ok(Host(options.open(path)?))
    }

    /// Loads a stream by v1 or v2; the port runs afterwards if `runs`.
    pub(crate) fn load(&self, stream: &[u8], protocol: &str, runs: bool) -> Result {
        if protocol == "v1" {
            let migration = self.guest.v1()?;
            migration.set_state(v1::State::RESUMING)?;
            migration.load_buffer(stream)?;
            let to = if runs {
                v1::State::RUNNING
            } else {
                v1::State::STOP
            };
            Ok(migration.set_state(to)?)
        } else {
            let to = if runs {
                v2::State::RUNNING
            } else {
                v2::State::STOP
            };
            self.guest.load(stream, to)
        }
    }
}

impl Host {
    /// Reads exactly these bytes.
    #[track_caller]
    pub(crate) fn expect(&mut self, expected: &[u8]) -> Result {
        let mut found: Vec<u8> = Vec::new();
        wait_for("bytes from the port", || {
            let mut bytes = [0; 64];
            match self.0.read(&mut bytes) {
                Ok(count) => found.extend(&bytes[..count]),
                Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => {}
                Err(e) => return Err(e.into()),
            }
            Ok(found.len() >= expected.len())
        })?;
        assert_eq!(found, expected);
        Ok(())
    }

    /// Writes all bytes.
    pub(crate) fn send(&mut self, mut bytes: &[u8]) -> Result {
        wait_for("room for bytes to the port", || {
            match self.0.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => {}
                Err(e) => return Err(e.into()),
            }
            Ok(bytes.is_empty())
        })
    }
}
