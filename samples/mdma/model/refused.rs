// SPDX-License-Identifier: GPL-2.0

//! Errors of register accesses, and the register `REFUSED` that reports them.
//!
//! The access itself does not fail: as on a bus, a refused read returns all ones and a refused write
//! is dropped. The register `REFUSED` reports it to software: a [`RefusedRegister`].

use crate::queue::RingError;
use crate::regs::{self, Reg};
use core::fmt;

/// Why an access to a register was refused. A refused access changes nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegisterError {
    /// No register at this offset, or not of this width.
    NoRegister {
        /// Offset in the BAR.
        offset: u64,
        /// Length in bytes.
        len: usize,
    },
    /// The register is read only.
    ReadOnly(Reg),
    /// The register may be written only while the queue is disabled.
    Enabled(Reg),
    /// A reserved bit is set.
    ReservedBits(Reg, u64),
    /// The ring cannot be enabled.
    Ring(RingError),
    /// `TAIL` was written while the queue is disabled.
    Disabled,
    /// The value is too large.
    Limit {
        /// The register.
        reg: Reg,
        /// The value written.
        value: u64,
        /// The smallest value that is too large.
        limit: u64,
    },
}

impl RegisterError {
    /// Returns the code of this error in `REFUSED.REASON`.
    pub const fn reason(&self) -> u32 {
        match self {
            RegisterError::NoRegister { .. } => 1,
            RegisterError::ReadOnly(_) => 2,
            RegisterError::Enabled(_) => 3,
            RegisterError::Disabled => 4,
            RegisterError::ReservedBits(..)
            | RegisterError::Ring(_)
            | RegisterError::Limit { .. } => 5,
        }
    }
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

    /// The largest reason.
    pub const REASON_MAX: u32 = 5;

    /// Returns the register's value.
    pub fn to_raw(self) -> u32 {
        self.0
    }

    /// Returns the register with a saved value, or `None` if the value is impossible.
    pub fn from_raw(raw: u32) -> Option<RefusedRegister> {
        let count = raw & regs::REFUSED_COUNT;
        let reason = raw >> regs::REFUSED_REASON_SHIFT;

        // INVARIANT: Checked here.
        (raw == 0 || (count != 0 && (1..=Self::REASON_MAX).contains(&reason)))
            .then_some(RefusedRegister(raw))
    }

    /// Counts the error of an access at `offset`.
    pub fn add(&mut self, offset: u64, refusal: RegisterError) {
        let count = (self.0 & regs::REFUSED_COUNT) + 1;

        // INVARIANT: The count is not 0, and no reason is.
        self.0 = count.min(regs::REFUSED_COUNT)
            | ((offset as u32 & regs::REFUSED_OFFSET) << regs::REFUSED_OFFSET_SHIFT)
            | (refusal.reason() << regs::REFUSED_REASON_SHIFT);
    }
}

impl fmt::Display for RegisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            RegisterError::NoRegister { offset, len } => {
                write!(f, "no register of {len} bytes at offset {offset:#x}")
            }
            RegisterError::ReadOnly(reg) => write!(f, "{} is read only", reg.row().name),
            RegisterError::Enabled(reg) => {
                write!(f, "{} may be written only while disabled", reg.row().name)
            }
            RegisterError::ReservedBits(reg, bits) => {
                write!(f, "reserved bits {bits:#x} set in {}", reg.row().name)
            }
            RegisterError::Ring(RingError::Order(order)) => {
                write!(f, "RING_ORDER {order} is illegal")
            }
            RegisterError::Ring(RingError::Base(base)) => {
                write!(f, "RING_BASE {base:#x} is illegal")
            }
            RegisterError::Ring(RingError::Completions(base)) => {
                write!(f, "COMPLETION_BASE {base:#x} is illegal")
            }
            RegisterError::Disabled => f.write_str("TAIL written while disabled"),
            RegisterError::Limit { reg, value, limit } => {
                write!(f, "{} {value} is not below {limit}", reg.row().name)
            }
        }
    }
}
