// SPDX-License-Identifier: GPL-2.0

//! Which parts of a device's state a save still has to send.

use crate::part::{bit, Changes, Part, PartTable};

/// The parts that a save still has to send: bits by their index in the table.
#[derive(Debug)]
pub(crate) struct PendingParts {
    pub(crate) table: PartTable,
    /// The parts of pre-copy, and the others.
    pre_copy: u32,
    others: u32,
    /// The parts to send.
    pending: u32,
    /// The parts of pre-copy that were not sent since it began, or started over.
    unsent: u32,
    /// Pre-copy has started over, and the user does not know it yet.
    pub(crate) reinit: bool,
}

impl PendingParts {
    /// Returns what is to be sent while the device runs.
    pub(crate) fn new(table: PartTable) -> Self {
        let pre_copy = table.mask(|part| part.pre_copy);
        PendingParts {
            table,
            pre_copy,
            others: table.mask(|part| !part.pre_copy),
            pending: pre_copy,
            unsent: pre_copy,
            reinit: false,
        }
    }

    /// The device has stopped: all other parts are to be sent too.
    pub(crate) fn stop(&mut self) {
        self.pending |= self.others;
    }

    /// Returns the parts that are to be sent after these changes.
    #[inline]
    fn after(&self, changes: Changes) -> u32 {
        let chosen = if changes.reinit {
            u32::MAX
        } else {
            changes.parts
        };
        self.pending | self.pre_copy & chosen
    }

    /// Takes changes of the device into account.
    pub(crate) fn update(&mut self, changes: Changes) {
        self.pending = self.after(changes);
        if changes.reinit {
            self.unsent = self.pre_copy;
            self.reinit = true;
        }
    }

    /// Returns whether nothing is to be sent after these changes.
    #[inline]
    pub(crate) fn is_empty(&self, changes: Changes) -> bool {
        self.after(changes) == 0
    }

    /// Returns the next part to send, with its index.
    pub(crate) fn next(&self) -> Option<(u32, &'static Part)> {
        let index = self.pending.trailing_zeros();
        Some((index, self.table.get(index as usize)?))
    }

    /// The part with this index was sent, or has nothing to send.
    pub(crate) fn done(&mut self, index: u32) {
        self.pending &= !bit(index);
        self.unsent &= !bit(index);
    }

    /// Returns how many bytes an immediate stop would have to send, if these are the changes and `size`
    /// returns the bytes of a part.
    pub(crate) fn remaining(
        &self,
        stopped: bool,
        changes: Changes,
        size: impl Fn(&Part) -> u64,
    ) -> u64 {
        let others = match stopped {
            true => 0,
            false => self.others,
        };
        match self.after(changes) | others {
            0 => 0,
            parts => self.table.bytes(parts, size),
        }
    }

    /// Returns how many bytes pre-copy has to send for the first time, and again.
    pub(crate) fn pre_copy(&self, size: impl Fn(&Part) -> u64) -> (u64, u64) {
        let pending = self.pending & self.pre_copy;
        if pending == 0 {
            return (0, 0);
        }
        (
            self.table.bytes(pending & self.unsent, &size),
            self.table.bytes(pending & !self.unsent, &size),
        )
    }
}
