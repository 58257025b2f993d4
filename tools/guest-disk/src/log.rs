// SPDX-License-Identifier: GPL-2.0

//! Trouble that the guest's kernel logs.

use std::fs::File;
use std::io::{self, Read};

use kernel_utils::trouble::is_trouble;
use rustix::fs::{open, Mode, OFlags};

use crate::wrong::Wrong;

/// What drivers of disks and file systems say if a disk does not do what it should.
const DISK: [&str; 11] = [
    "I/O error",
    "I/O Error",
    "EXT4-fs error",
    "EXT4-fs warning",
    "Aborting journal",
    "timeout",
    "resetting",
    "controller is down",
    "Removing after probe failure",
    "identifiers changed",
    "invalid id",
];

/// The kernel log.
pub(crate) struct Log(File);

impl Log {
    /// Opens the log at its start.
    pub(crate) fn open() -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(Log(open("/dev/kmsg", flags, Mode::empty())?.into()))
    }

    /// Reads new records, and fails if one is trouble.
    pub(crate) fn check(&mut self) -> Result<(), Wrong> {
        let mut record = [0; 8192];
        loop {
            let len = match self.0.read(&mut record) {
                Ok(len) => len,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // Records were overwritten before they were read. The next read starts after them.
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => continue,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(format!("/dev/kmsg: {e}").into()),
            };
            let text = String::from_utf8_lossy(&record[..len]);
            let text = text.split_once(';').map_or(&*text, |(_, text)| text);
            let line = text.lines().next().unwrap_or_default();
            if is_trouble(line) || is_disk_trouble(line) {
                return Err(format!("kernel log: {line}").into());
            }
        }
    }
}

/// Returns whether a line is a complaint about the disk.
fn is_disk_trouble(line: &str) -> bool {
    let about = ["nvme", "EXT4-fs", "JBD2", "dev ", "Buffer"];
    about.iter().any(|word| line.contains(word)) && DISK.iter().any(|word| line.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_about_disks() {
        for line in [
            "nvme nvme0: I/O tag 12 (100c) QID 1 timeout, completion polled",
            "nvme nvme0: I/O tag 0 (1000) opcode 0x2 (Read) QID 1 timeout, reset controller",
            "nvme0n1: I/O Cmd(0x2) @ LBA 8, 8 blocks, I/O Error (sct 0x0 / sc 0x4)",
            "I/O error, dev nvme0n1, sector 8 op 0x0:(READ) flags 0x0",
            "EXT4-fs error (device nvme0n1): ext4_lookup:1855: inode #2",
        ] {
            assert!(is_disk_trouble(line), "{line}");
        }
        for line in [
            "nvme nvme0: pci function 0000:00:05.0",
            "nvme nvme0: 1/0/0 default/read/poll queues",
            "EXT4-fs (nvme0n1): mounted filesystem with ordered data mode",
        ] {
            assert!(!is_disk_trouble(line), "{line}");
        }
    }
}
