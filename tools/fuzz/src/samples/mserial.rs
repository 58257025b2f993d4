// SPDX-License-Identifier: GPL-2.0

//! The serial port `mserial`: registers behind an I/O BAR, and its other end, a character device of the host.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{set_parent_process_death_signal, Signal};
use vfio_client::mdev::Uuid;
use vfio_client::{Device, Node, Region};

use crate::ended::Result;
use crate::patience::{self, reap};

/// Registers by offset: that of 0 is also the low half of the divisor, and so on.
pub(crate) const REGISTERS: &[&str] = &["DATA", "IER", "FCR", "LCR", "MCR", "LSR", "MSR", "SCR"];
/// Values that mean something to one register or another.
pub(crate) const VALUES: &[u64] = &[
    0, 1, 2, 3, 4, 7, 8, 0xb, 0xf, 0x10, 0x12, 0x1b, 0x1f, 0x41, 0x5a, 0x80, 0x81, 0x83, 0xc0,
    0xc7, 0xff,
];
/// Calls on the end on the host that wait.
pub(crate) const CALLS: &[&str] = &["read", "write"];

/// The longest time that such a call waits, in microseconds.
const LATE: u64 = 20_000;

const DATA: u64 = 0;
const IER: u64 = 1;
const FCR: u64 = 2;
const LCR: u64 = 3;
const MCR: u64 = 4;
const LSR: u64 = 5;

/// Reads a register.
pub(crate) fn read(device: &Node, register: u64) -> Result {
    let mut byte = [0];
    device.pread(register % REGISTERS.len() as u64, &mut byte)?;
    Ok(byte[0].into())
}

/// Writes a register.
pub(crate) fn write(device: &Node, register: u64, value: u64) -> Result {
    let written = device.pwrite(register % REGISTERS.len() as u64, &[value as u8])?;
    Ok(written as u64)
}

/// Returns the character device of an instance.
pub(crate) fn path(uuid: &Uuid) -> String {
    format!("/dev/mserial-{uuid}")
}

fn open(uuid: &Uuid, flags: i32) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).custom_flags(flags);
    options.open(path(uuid))
}

/// Opens the end on the host. Calls on it do not wait.
pub(crate) fn host(uuid: &Uuid) -> io::Result<Node> {
    Ok(Node::from(OwnedFd::from(open(uuid, libc::O_NONBLOCK)?)))
}

/// Starts a process that waits in a call on the end on the host, and kills it.
pub(crate) fn wait(uuid: &Uuid, call: u64, us: u64) -> Result {
    let end = open(uuid, 0)?;
    let call = CALLS[(call % CALLS.len() as u64) as usize];
    let mut child = Command::new("/proc/self/exe")
        .arg(format!("--host-end={call}"))
        .stdin(end)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    thread::sleep(Duration::from_micros(us.min(LATE)));
    child.kill()?;
    reap(&mut child)
}

/// The `main` of such a process. Its standard input is the end on the host.
pub(crate) fn main(call: &str) -> std::result::Result<(), String> {
    let text = |e: io::Error| e.to_string();
    // Whoever started it may be killed.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|e| e.to_string())?;
    let end = rustix::io::dup(io::stdin()).map_err(|e| e.to_string())?;
    let mut end = File::from(end);
    loop {
        match call {
            "read" => end.read(&mut [0; 64]).map_err(text)?,
            _ => end.write(&[0x55; 64]).map_err(text)?,
        };
    }
}

/// Sends bytes both ways over a port that was just reset, and one through its loopback.
pub(crate) fn works(device: &Device) -> std::result::Result<(), String> {
    let uuid = Uuid::parse(device.name()).map_err(|e| e.to_string())?;
    let port = Port(device.region(0).map_err(|e| e.to_string())?);
    let idle = port.get(LSR)?;
    if idle != 0x60 {
        return Err(format!("after a reset its LSR is {idle:#x}"));
    }
    // A process that waited there may be about to end.
    let mut end = None;
    let opened = patience::holds(|| match host(&uuid) {
        Ok(node) => {
            end = Some(node);
            Ok(true)
        }
        Err(e) if e.raw_os_error() == Some(libc::EBUSY) => Ok(false),
        Err(e) => Err(e),
    });
    opened.map_err(|e| format!("the end on the host: {e}"))?;
    let end = end.ok_or("the end on the host stays busy")?;
    // 115200 baud, 8 bits, FIFOs.
    for (register, value) in [
        (LCR, 0x83),
        (DATA, 1),
        (IER, 0),
        (LCR, 3),
        (FCR, 7),
        (MCR, 0x10),
    ] {
        port.put(register, value)?;
    }
    port.put(DATA, 0x5a)?;
    port.expect(0x5a, "its loopback")?;

    // Nothing that others wrote can come: it is not read before this, and the reset has discarded what was there.
    port.put(MCR, 2)?;
    exchange(&port, &end)
}

fn exchange(port: &Port, end: &Node) -> std::result::Result<(), String> {
    let text = |e: io::Error| format!("the end on the host: {e}");
    end.write(&[0xa5]).map_err(text)?;
    port.expect(0xa5, "the host")?;
    // What was sent before the reset is still there.
    let mut found = [0; 4096];
    while end.read(&mut found).is_ok() {}
    port.put(DATA, 0xc3)?;
    let mut len = 0;
    let came = patience::holds(|| match end.read(&mut found) {
        Ok(read) => {
            len = read;
            Ok(true)
        }
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(e) => Err(e),
    });
    match came.map_err(text)? {
        true if found[..len] == [0xc3] => Ok(()),
        true => Err(format!("the host got {:x?}, not c3", &found[..len])),
        false => Err("the host gets no byte".into()),
    }
}

/// The registers of a port.
struct Port(Region);

impl Port {
    fn get(&self, register: u64) -> std::result::Result<u8, String> {
        self.0.read_u8(register).map_err(|e| e.to_string())
    }

    fn put(&self, register: u64, value: u8) -> std::result::Result<(), String> {
        let written = self.0.write_u8(register, value);
        written.map_err(|e| e.to_string())
    }

    /// Waits for a byte.
    fn expect(&self, byte: u8, from: &str) -> std::result::Result<(), String> {
        let mut failed = None;
        let came = patience::holds(|| match self.get(LSR) {
            Ok(status) => Ok(status & 1 != 0),
            Err(e) => {
                failed = Some(e);
                Ok(true)
            }
        });
        match (failed, came) {
            (Some(e), _) => Err(e),
            (None, Ok(true)) => match self.get(DATA)? {
                found if found == byte => Ok(()),
                found => Err(format!("{found:#x} came from {from}, not {byte:#x}")),
            },
            _ => Err(format!("no byte comes from {from}")),
        }
    }
}
