// SPDX-License-Identifier: GPL-2.0

//! Trouble that the guest's kernel logs.

use std::fs::File;
use std::io::{self, Read};

use kernel_utils::trouble::is_trouble;
use rustix::fs::{open, Mode, OFlags};

/// The kernel log.
#[derive(Debug)]
pub struct KernelLog {
    file: File,
    trouble: Option<String>,
}

impl KernelLog {
    /// Opens the log at its start.
    pub fn open() -> io::Result<Self> {
        let file = open(
            "/dev/kmsg",
            OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        Ok(KernelLog {
            file: file.into(),
            trouble: None,
        })
    }

    /// Reads new records. Returns the first trouble ever found.
    pub fn trouble(&mut self) -> io::Result<Option<&str>> {
        let mut record = [0; 8192];
        loop {
            match self.file.read(&mut record) {
                Ok(0) => break,
                Ok(len) => {
                    let text = String::from_utf8_lossy(&record[..len]);
                    if self.trouble.is_none() && is_trouble(message(&text)) {
                        self.trouble = Some(message(&text).to_owned());
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                // Records were overwritten before they were read. The next read starts after them.
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => (),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => (),
                Err(e) => return Err(e),
            }
        }
        Ok(self.trouble.as_deref())
    }
}

/// Returns the text of a record: `level,sequence,time,flags;text`, then lines that begin with a
/// blank.
fn message(record: &str) -> &str {
    let words = record.split_once(';').map_or(record, |(_, words)| words);
    words.lines().next().unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records() {
        let record = "4,1234,99,-;WARNING: CPU: 0 PID: 1 at x.c:1\n SUBSYSTEM=pci\n";
        assert_eq!(message(record), "WARNING: CPU: 0 PID: 1 at x.c:1");
        assert!(is_trouble(message(record)));
        assert!(!is_trouble(message("6,1,1,-;BUG-free; Linux version 7\n")));
    }
}
