// SPDX-License-Identifier: GPL-2.0

//! Errors of register accesses, and the register `REFUSED` that reports them.
//!
//! The access itself does not fail: as on a bus, a refused read returns all ones and a refused write
//! is dropped. The register has the number of refused accesses, and the last one.

use crate::regs::{REFUSED_COUNT, REFUSED_OFFSET, REFUSED_OFFSET_SHIFT, REFUSED_REASON_SHIFT};

/// Why an access to a register was refused: a code in `REFUSED.REASON`. A refused access changes
/// nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum RegisterError {
    /// No register at this offset, or not of this width.
    NoRegister = 1,
    /// The register is read only.
    ReadOnly = 2,
    /// The register may be written only while the queue is disabled.
    Enabled = 3,
    /// The register may be written only while the queue is enabled.
    Disabled = 4,
    /// The value is illegal, or the ring that is to be enabled.
    Illegal = 5,
}

/// Returns the value of `REFUSED` after one more refused access, at `offset`.
pub fn count(refused: u64, offset: u64, error: RegisterError) -> u64 {
    let count = (refused as u32 & REFUSED_COUNT) + 1;
    let offset = offset as u32 & REFUSED_OFFSET;
    let reason = error as u32;

    let last = (offset << REFUSED_OFFSET_SHIFT) | (reason << REFUSED_REASON_SHIFT);
    (count.min(REFUSED_COUNT) | last).into()
}

/// Returns whether `REFUSED` can have this value: 0, or a count and a reason that are not.
pub fn possible(refused: u64) -> bool {
    let count = refused & u64::from(REFUSED_COUNT);
    let reason = refused >> REFUSED_REASON_SHIFT;

    refused == 0 || (count != 0 && (1..=RegisterError::Illegal as u64).contains(&reason))
}
