// SPDX-License-Identifier: GPL-2.0

//! Errors of register accesses, and the register `REFUSED` that reports them.
//!
//! The access itself does not fail: as on a bus, a refused read returns all ones and a refused write
//! is dropped. The register `REFUSED` reports it to software: a [`RefusedRegister`].

use crate::regs;

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

/// The value of the register `REFUSED`: the number of refused accesses, and the last one.
///
/// # Invariants
///
/// Either all fields are 0, or neither the count nor the reason is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefusedRegister(u32);

impl RefusedRegister {
    /// No access was refused since reset.
    pub const NONE: RefusedRegister = RefusedRegister(0);

    /// Returns the register's value.
    pub fn to_raw(self) -> u32 {
        self.0
    }

    /// Returns the register with a saved value, or `None` if the value is impossible.
    pub fn from_raw(raw: u32) -> Option<RefusedRegister> {
        let count = raw & regs::REFUSED_COUNT;
        let reason = raw >> regs::REFUSED_REASON_SHIFT;

        // INVARIANT: Checked here.
        (raw == 0 || (count != 0 && (1..=RegisterError::Illegal as u32).contains(&reason)))
            .then_some(RefusedRegister(raw))
    }

    /// Counts the error of an access at `offset`.
    pub fn add(&mut self, offset: u64, error: RegisterError) {
        let count = (self.0 & regs::REFUSED_COUNT) + 1;

        // INVARIANT: The count is not 0, and no reason is.
        self.0 = count.min(regs::REFUSED_COUNT)
            | ((offset as u32 & regs::REFUSED_OFFSET) << regs::REFUSED_OFFSET_SHIFT)
            | ((error as u32) << regs::REFUSED_REASON_SHIFT);
    }
}
