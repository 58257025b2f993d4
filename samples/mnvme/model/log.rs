// SPDX-License-Identifier: GPL-2.0

//! The log pages: the table, and what they list and count.

use crate::command::{Command, NAMESPACE};
use crate::status::Status;

/// Error Information.
pub const ERRORS: u8 = 0x01;
/// SMART / Health Information.
pub const SMART: u8 = 0x02;
/// Firmware Slot Information.
pub const FIRMWARE: u8 = 0x03;
/// Commands Supported and Effects.
pub const EFFECTS: u8 = 0x05;

/// Entries of the error log.
pub const ERROR_ENTRIES: usize = 4;
/// Bytes of an entry of the error log.
pub(crate) const ERROR_SIZE: usize = 64;

/// The command identifier of an error that no command has caused.
const NO_COMMAND: u16 = 0xffff;

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Log page identifier.
    pub id: u8,
    /// Its name.
    pub name: &'static str,
    /// Bytes.
    pub size: usize,
    /// Its contents.
    pub meaning: &'static str,
}

/// The log pages.
#[rustfmt::skip]
pub const PAGES: [Page; 4] = [
    Page { id: ERRORS, name: "Error Information", size: ERROR_ENTRIES * ERROR_SIZE, meaning: "The last 4 commands that failed, and writes to invalid doorbells." },
    Page { id: SMART, name: "SMART / Health Information", size: 512, meaning: "Of the controller. Counts data and commands since power-on; they migrate." },
    Page { id: FIRMWARE, name: "Firmware Slot Information", size: 512, meaning: "One slot, which cannot be changed." },
    Page { id: EFFECTS, name: "Commands Supported and Effects", size: 4096, meaning: "The tables of commands." },
];

/// The firmware revision.
pub const REVISION: &[u8; 8] = b"1.0     ";

/// An entry of the error log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrorEntry {
    /// The number of the error; 0 for no entry.
    pub number: u64,
    /// The submission queue.
    pub sq: u16,
    /// The command.
    pub cid: u16,
    /// The status field without the phase tag.
    pub status: u16,
    /// The first block.
    pub lba: u64,
    /// The namespace.
    pub nsid: u32,
}

/// The error log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrorLog {
    /// Errors since power-on.
    pub count: u64,
    /// The newest errors, the newest first.
    pub entries: [ErrorEntry; ERROR_ENTRIES],
}

impl ErrorLog {
    /// Adds an entry, whose number is not yet set.
    fn push(&mut self, entry: ErrorEntry) {
        self.count = self.count.wrapping_add(1).max(1);
        self.entries.rotate_right(1);
        self.entries[0] = ErrorEntry {
            number: self.count,
            ..entry
        };
    }

    /// Command `cid` of queue `sq` has failed; `None` if it took several units.
    pub(crate) fn command(
        &mut self,
        sq: usize,
        cid: u16,
        command: Option<&Command>,
        status: Status,
    ) {
        self.push(ErrorEntry {
            number: 0,
            sq: sq as u16,
            cid,
            status: status.field(),
            lba: command.filter(|_| sq != 0).map_or(0, Command::slba),
            nsid: command.map_or(NAMESPACE, |command| command.nsid),
        });
    }

    /// A doorbell of queue pair `queue` was written in error.
    pub(crate) fn doorbell(&mut self, queue: usize) {
        self.push(ErrorEntry {
            sq: queue as u16,
            cid: NO_COMMAND,
            ..ErrorEntry::default()
        });
    }
}

/// What SMART counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Blocks read by the host.
    pub blocks_read: u64,
    /// Blocks written by the host.
    pub blocks_written: u64,
    /// Read commands.
    pub reads: u64,
    /// Write commands.
    pub writes: u64,
}
