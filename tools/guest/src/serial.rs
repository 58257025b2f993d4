// SPDX-License-Identifier: GPL-2.0

//! The work with an `mserial`, by the kernel's own driver of serial ports.
//!
//! The program sends random bytes, and the host sends each back. Both directions are one stream from the first byte to
//! the last, so a byte that is lost, doubled or out of order differs from what must come next. A job is a block of
//! bytes; it is done when its last byte has come back.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::termios::{tcgetattr, tcsetattr, ControlModes, OptionalActions};

use crate::event::{self, Losses, Totals, Wrong, WrongResult};
use crate::options::Options;
use crate::work::Work;

/// Vendor and device ID.
const ID: (&str, &str) = ("0x4d44", "0x0003");
/// Bytes of a job.
const BLOCK: usize = 32;
/// The most bytes that have not come back. The host's end of the line holds them all.
const WINDOW: u64 = 128;
/// The line's speed.
const BAUD: u32 = 115_200;

/// A port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// Its PCI address.
    pci: String,
    /// Its file in `/dev`.
    path: PathBuf,
}

/// Finds the ports, in the order of their PCI addresses.
pub(crate) fn find() -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for device in fs::read_dir("/sys/bus/pci/devices")? {
        let device = device?;
        let is = |name: &str, id: &str| {
            fs::read_to_string(device.path().join(name)).is_ok_and(|text| text.trim() == id)
        };
        if !is("vendor", ID.0) || !is("device", ID.1) {
            continue;
        }
        let pci = device.file_name().to_string_lossy().into_owned();
        // PCI device, then serial base and port, then tty.
        for path in walk(&device.path(), 4)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with("ttyS") {
                let path = PathBuf::from("/dev").join(&*name);
                found.push(Found {
                    pci: pci.clone(),
                    path,
                });
            }
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// Returns the directories below one, down to a depth; links are not followed.
fn walk(directory: &PathBuf, depth: usize) -> io::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    if depth == 0 {
        return Ok(all);
    }
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            all.push(entry.path());
            all.extend(walk(&entry.path(), depth - 1)?);
        }
    }
    Ok(all)
}

/// Begins the work with a port.
pub(crate) fn begin(
    port: &Found,
    options: &Options,
    index: usize,
) -> WrongResult<(Box<dyn Work>, event::Found)> {
    let failed = |error: io::Error| Wrong::new(format!("{}: {error}", port.path.display()));
    let file = open(&port.path).map_err(failed)?;
    let found = event::Found {
        pci: port.pci.clone(),
        memory: 0,
        blocks: 0,
    };
    Ok((Box::new(Stream::new(file, options, index)), found))
}

/// Opens a port in raw mode. Its calls do not wait.
fn open(path: &PathBuf) -> io::Result<File> {
    let file = File::options()
        .read(true)
        .write(true)
        .custom_flags((OFlags::NOCTTY | OFlags::NONBLOCK).bits() as i32)
        .open(path)?;
    let mut attributes = tcgetattr(&file)?;
    attributes.make_raw();
    attributes.set_speed(BAUD)?;
    attributes.control_modes |= ControlModes::CLOCAL | ControlModes::CREAD;
    tcsetattr(&file, OptionalActions::Flush, &attributes)?;
    Ok(file)
}

/// A stream of bytes that come back.
struct Stream<F> {
    file: F,
    rng: fastrand::Rng,
    /// The bytes that have not come back.
    expected: VecDeque<u8>,
    /// Bytes of the present block that the port has not taken.
    unsent: Vec<u8>,
    sent: u64,
    received: u64,
    /// The time of the last progress.
    heard: Duration,
    patience: Duration,
    totals: Totals,
}

impl<F: Read + Write> Stream<F> {
    fn new(file: F, options: &Options, index: usize) -> Self {
        let seed = options.seed.wrapping_add(index as u64);
        Stream {
            file,
            rng: fastrand::Rng::with_seed(seed),
            expected: VecDeque::new(),
            unsent: Vec::new(),
            sent: 0,
            received: 0,
            heard: Duration::ZERO,
            patience: Duration::from_secs(options.patience),
            totals: Totals::default(),
        }
    }

    fn in_flight(&self) -> u64 {
        self.expected.len() as u64
    }

    /// Gives the port as much of the present block as it takes.
    fn send(&mut self) -> WrongResult {
        while !self.unsent.is_empty() {
            match self.file.write(&self.unsent) {
                Ok(count) => {
                    self.unsent.drain(..count);
                    self.sent += count as u64;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(Wrong::new(format!("write: {error}"))),
            }
        }
        Ok(())
    }

    /// Compares all bytes that have arrived.
    fn receive(&mut self, now: Duration) -> WrongResult {
        let mut bytes = [0; 256];
        loop {
            let count = match self.file.read(&mut bytes) {
                Ok(0) => return Err(Wrong::new("the line was hung up")),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(Wrong::new(format!("read: {error}"))),
            };
            for byte in &bytes[..count] {
                let Some(expected) = self.expected.pop_front() else {
                    return Err(Wrong::values("a byte too many", "none", byte));
                };
                if *byte != expected {
                    let what = format!("byte {} of the stream", self.received);
                    return Err(Wrong::values(what, expected, byte));
                }
                self.received += 1;
            }
            self.totals.bytes = self.received;
            self.totals.verified = self.received / BLOCK as u64;
            self.heard = now;
        }
    }

    fn step(&mut self, now: Duration, wanted: bool) -> WrongResult {
        if self.in_flight() == 0 {
            self.heard = now;
        }
        self.send()?;
        while wanted && self.unsent.is_empty() && self.in_flight() + BLOCK as u64 <= WINDOW {
            self.unsent.resize(BLOCK, 0);
            self.rng.fill(&mut self.unsent);
            self.expected.extend(&self.unsent);
            self.totals.jobs += 1;
            self.send()?;
        }
        Ok(())
    }

    fn overdue(&self, now: Duration) -> WrongResult {
        let waited = now.saturating_sub(self.heard);
        if self.in_flight() == 0 || waited < self.patience {
            return Ok(());
        }
        let what = format!("no byte has come back for {} s", waited.as_secs());
        Err(Wrong::values(what, self.sent, self.received))
    }
}

impl Work for Stream<File> {
    fn step(&mut self, now: Duration, wanted: bool) -> WrongResult {
        Stream::step(self, now, wanted)
    }

    fn ready(&mut self, now: Duration) -> WrongResult {
        self.receive(now)
    }

    fn overdue(&mut self, now: Duration) -> WrongResult {
        Stream::overdue(self, now)
    }

    fn idle(&self) -> bool {
        self.in_flight() == 0
    }

    fn due(&self) -> Option<Duration> {
        None
    }

    fn totals(&self) -> Totals {
        self.totals
    }

    fn check(&mut self) -> WrongResult {
        self.receive(self.heard)?;
        self.totals.checked = self.received;
        Ok(())
    }

    fn mend(&mut self, _losses: &mut Losses) -> WrongResult {
        // There is no memory that could be lost.
        self.check()
    }
}

impl AsFd for Stream<File> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1);

    /// A line with an echo.
    #[derive(Default)]
    struct Echo(VecDeque<u8>);

    impl Read for Echo {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Err(ErrorKind::WouldBlock.into());
            }
            self.0.read(out)
        }
    }

    impl Write for Echo {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // As a port whose buffer is small.
            self.0.write(&bytes[..bytes.len().min(20)])
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn stream() -> Stream<Echo> {
        let mut stream = Stream::new(Echo::default(), &Options::default(), 0);
        stream.step(NOW, true).unwrap();
        assert_eq!(stream.in_flight(), WINDOW);
        stream
    }

    #[test]
    fn bytes_come_back() {
        let mut stream = stream();
        for round in 1..100 {
            stream.receive(NOW).unwrap();
            assert_eq!(stream.in_flight(), 0);
            assert_eq!(stream.totals.verified, round * WINDOW / BLOCK as u64);
            stream.step(NOW, true).unwrap();
        }
        stream.receive(NOW).unwrap();
        stream.step(NOW, false).unwrap();
        assert_eq!(stream.in_flight(), 0);
    }

    #[test]
    fn a_lost_byte_is_noticed() {
        let mut stream = stream();
        stream.file.0.remove(40);
        assert!(stream.receive(NOW).unwrap_err().what.starts_with("byte 4"));
    }

    #[test]
    fn bytes_out_of_order_are_noticed() {
        let mut stream = stream();
        stream.file.0.swap(17, 18);
        assert_eq!(
            stream.receive(NOW).unwrap_err().what,
            "byte 17 of the stream"
        );
    }

    #[test]
    fn a_byte_too_many_is_noticed() {
        let mut stream = stream();
        stream.file.0.push_back(1);
        assert_eq!(stream.receive(NOW).unwrap_err().what, "a byte too many");
    }

    #[test]
    fn silence_is_noticed() {
        let mut stream = stream();
        stream.file.0.clear();
        stream.receive(NOW).unwrap();
        let later = NOW + stream.patience;
        assert!(stream.overdue(later - Duration::from_secs(1)).is_ok());
        assert!(stream.overdue(later).is_err());
    }
}
