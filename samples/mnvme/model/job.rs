// SPDX-License-Identifier: GPL-2.0

//! Commands that take several units.

/// The most ranges of a Dataset Management command.
pub const RANGES_MAX: u16 = 256;

/// A command that takes several units: Write Zeroes or Dataset Management.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Job {
    /// Command identifier.
    pub cid: u16,
    /// Ranges of Dataset Management; 0 for Write Zeroes.
    pub ranges: u16,
    /// The range to read when this one is done.
    pub index: u16,
    /// The first block that is left of this range.
    pub slba: u64,
    /// How many blocks are left of it.
    pub left: u64,
    /// Where the ranges are.
    pub prp1: u64,
    /// See `prp1`.
    pub prp2: u64,
    /// An Abort command has named it.
    pub aborted: bool,
}
