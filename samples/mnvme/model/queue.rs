// SPDX-License-Identifier: GPL-2.0

//! Queues: indexes and addresses. A queue of 0 entries does not exist.

use crate::command::ENTRY_SIZE;
use crate::job::Job;
use crate::{ENTRIES_MAX, PAGE};

/// Bytes of a completion queue entry.
pub const COMPLETION_SIZE: usize = 16;

/// Offset in a completion queue entry of the byte with the phase tag.
pub const PHASE_AT: usize = 14;

/// Returns whether a queue can have these entries at this IOVA.
pub fn legal(entries: u32, base: u64, entry_size: usize) -> bool {
    (2..=u32::from(ENTRIES_MAX)).contains(&entries)
        && base % PAGE as u64 == 0
        && base
            .checked_add(u64::from(entries) * entry_size as u64 - 1)
            .is_some()
}

/// A submission queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubmissionQueue {
    /// IOVA of the first entry, a multiple of the page size.
    pub base: u64,
    /// Number of entries.
    pub entries: u16,
    /// Index of the entry that the device fetches next.
    pub head: u16,
    /// Index after the last entry that software has filled.
    pub tail: u16,
    /// Number of the completion queue.
    pub cq: u16,
    /// The command in progress, if one takes several units.
    pub job: Option<Job>,
}

impl SubmissionQueue {
    /// Returns whether the queue exists.
    pub fn exists(&self) -> bool {
        self.entries != 0
    }

    /// Returns whether there is something to do.
    pub fn is_ready(&self) -> bool {
        self.job.is_some() || self.head != self.tail
    }

    /// Returns how many entries are not fetched.
    fn waiting(&self) -> u16 {
        between(self.head, self.tail, self.entries)
    }

    /// Software has filled the entries before `tail`. Returns whether there was room for them.
    pub fn fill(&mut self, tail: u16) -> bool {
        let filled = Self { tail, ..*self };
        let legal = tail < self.entries && filled.waiting() >= self.waiting();
        if legal {
            self.tail = tail;
        }
        legal
    }

    /// Returns the IOVA of the entry to fetch.
    pub fn entry(&self) -> u64 {
        self.base + u64::from(self.head) * ENTRY_SIZE as u64
    }

    /// Moves the head over the entry that was fetched.
    pub fn advance(&mut self) {
        self.head = next(self.head, self.entries);
    }
}

/// A completion queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompletionQueue {
    /// IOVA of the first entry, a multiple of the page size.
    pub base: u64,
    /// Number of entries.
    pub entries: u16,
    /// Index of the entry that software takes next.
    pub head: u16,
    /// Index of the entry that the device writes next.
    pub tail: u16,
    /// The phase tag of that entry.
    pub phase: bool,
    /// Interrupt vector.
    pub vector: u16,
    /// Interrupts are enabled.
    pub interrupts: bool,
}

impl CompletionQueue {
    /// Returns whether the queue exists.
    pub fn exists(&self) -> bool {
        self.entries != 0
    }

    /// Returns whether there is no room for an entry.
    pub fn is_full(&self) -> bool {
        next(self.tail, self.entries) == self.head
    }

    /// Returns how many entries software has not taken.
    pub fn pending(&self) -> u16 {
        between(self.head, self.tail, self.entries)
    }

    /// Returns the IOVA of the entry to write.
    pub fn entry(&self) -> u64 {
        self.base + u64::from(self.tail) * COMPLETION_SIZE as u64
    }

    /// Moves the tail over that entry.
    pub fn advance(&mut self) {
        self.tail = next(self.tail, self.entries);
        if self.tail == 0 {
            self.phase = !self.phase;
        }
    }

    /// Software has taken the entries before `head`. Returns whether it can have.
    pub fn take(&mut self, head: u16) -> bool {
        let taken = Self { head, ..*self };
        let legal = head < self.entries && taken.pending() <= self.pending();
        if legal {
            self.head = head;
        }
        legal
    }
}

/// Returns how many entries there are from `head` on, before `tail`.
fn between(head: u16, tail: u16, entries: u16) -> u16 {
    if tail >= head {
        tail - head
    } else {
        tail + entries - head
    }
}

/// Returns the index after `index`.
fn next(index: u16, entries: u16) -> u16 {
    if index + 1 >= entries {
        0
    } else {
        index + 1
    }
}
