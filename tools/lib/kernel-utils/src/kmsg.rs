// SPDX-License-Identifier: GPL-2.0

//! The kernel log, read as it grows.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Mutex;

use rustix::fs::{open, seek, Mode, OFlags, SeekFrom};

use crate::trouble;

/// `KERN_CRIT`. A line of this priority or worse is trouble whatever it says.
const KERN_CRIT: u32 = 2;

/// One record of the log.
#[derive(Clone, Debug)]
pub struct Line {
    /// 0 emergency to 7 debug.
    pub priority: u32,
    /// The text, without the lines of context.
    pub text: String,
}

impl Line {
    /// Returns whether the line reports a fault of the kernel.
    pub fn is_trouble(&self) -> bool {
        self.priority <= KERN_CRIT || trouble::is_trouble(&self.text)
    }
}

/// The log from the moment of [`Kmsg::open`] on.
pub struct Kmsg(Mutex<Inner>);

struct Inner {
    file: File,
    lines: Vec<Line>,
}

/// A position in the log.
#[derive(Clone, Copy, Debug)]
pub struct Mark(usize);

impl Kmsg {
    /// Opens the log at its end.
    ///
    /// # Errors
    ///
    /// Those of opening `/dev/kmsg`, which is for root.
    pub fn open() -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file: File = open("/dev/kmsg", flags, Mode::empty())?.into();
        seek(&file, SeekFrom::End(0))?;
        Ok(Kmsg(Mutex::new(Inner {
            file,
            lines: Vec::new(),
        })))
    }

    /// Writes a line of our own, so that the console shows what the lines around it belong to.
    pub fn note(&self, text: &str) {
        let inner = self.0.lock().unwrap();
        // The kernel may drop the line because of its rate limit. Nothing depends on it.
        let _ = (&inner.file).write_all(format!("<6>{text}\n").as_bytes());
    }

    /// Returns the present end of the log.
    pub fn mark(&self) -> Mark {
        let mut inner = self.0.lock().unwrap();
        inner.pump();
        Mark(inner.lines.len())
    }

    /// Returns the lines from `mark` on.
    pub fn since(&self, mark: Mark) -> Vec<Line> {
        let mut inner = self.0.lock().unwrap();
        inner.pump();
        inner.lines[mark.0..].to_vec()
    }
}

impl Inner {
    /// Reads what has been logged since the last call.
    fn pump(&mut self) {
        let mut record = [0; 8192];
        loop {
            match (&self.file).read(&mut record) {
                Ok(len) => self.lines.extend(parse(&record[..len])),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                // The oldest unread records were overwritten. The next read starts after them.
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {}
                Err(e) => panic!("/dev/kmsg: {e}"),
            }
        }
    }
}

/// Parses `priority,sequence,time,flags;text`, which may be followed by lines of context.
pub(crate) fn parse(record: &[u8]) -> Option<Line> {
    let record = String::from_utf8_lossy(record);
    let (head, text) = record.split_once(';')?;
    let priority: u32 = head.split(',').next()?.parse().ok()?;
    Some(Line {
        priority: priority & 7,
        text: text.lines().next().unwrap_or("").to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(record: &str) -> Line {
        parse(record.as_bytes()).unwrap()
    }

    #[test]
    fn records_with_context() {
        let l = line("6,339,5140900,-;NET: Registered PF_PACKET\n SUBSYSTEM=net\n");
        assert_eq!(l.text, "NET: Registered PF_PACKET");
        assert_eq!(l.priority, 6);
        assert!(parse(b"nonsense").is_none());
    }

    #[test]
    fn trouble_by_priority_or_text() {
        assert!(line("2,1,1,-;something grave").is_trouble());
        assert!(line("4,1,1,-;WARNING: CPU: 0 PID: 1 at x.c:1").is_trouble());
        assert!(!line("4,1,1,-;something else").is_trouble());
    }
}
