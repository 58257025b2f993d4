// SPDX-License-Identifier: GPL-2.0

//! How a unit of work ends.

use crate::command::Command;
use crate::job::Job;

/// A command that is complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Completion {
    /// Command identifier.
    pub(crate) cid: u16,
    /// Dword 0.
    pub(crate) result: u32,
    /// The status field without the phase tag.
    pub(crate) status: u16,
    /// Blocks read by a command that succeeded.
    pub(crate) read: u32,
    /// Blocks written.
    pub(crate) written: u32,
}

impl Completion {
    /// The success of a command.
    pub(crate) fn of(command: &Command) -> Self {
        Self {
            cid: command.cid,
            ..Self::default()
        }
    }
}

/// How a unit ended.
pub(crate) enum Outcome {
    /// A command is complete.
    Completed(Completion),
    /// A command takes more units.
    Begun(Job),
    /// A command completes when an event occurs.
    Held,
}
