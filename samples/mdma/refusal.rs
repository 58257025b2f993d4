// SPDX-License-Identifier: GPL-2.0

//! Why an access to a register is refused.
//!
//! This file imports `core` only: it is compiled into the module and into userspace.

use crate::queue::Illegal;
use crate::regs::Reg;
use core::fmt;

/// Why an access to a register was refused. Nothing has changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No register there, or not by this length.
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
    Ring(Illegal),
    /// A unit of the queue's previous run is still in flight.
    InFlight,
    /// The doorbell rings for a queue that is not enabled.
    Disabled,
    /// The doorbell would take back descriptors, or has overrun the ring.
    Overrun {
        /// `HEAD`.
        head: u32,
        /// `TAIL`.
        tail: u32,
        /// What was written.
        value: u32,
    },
    /// The value is beyond the limit.
    Limit {
        /// The register.
        reg: Reg,
        /// What was written.
        value: u64,
        /// The first value that is too much.
        limit: u64,
    },
}

impl Refusal {
    /// Returns whether a later try may succeed: `-EBUSY`. All others are `-EINVAL`.
    pub fn busy(&self) -> bool {
        matches!(self, Refusal::Enabled(_) | Refusal::InFlight)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Refusal::NoRegister { offset, len } => {
                write!(f, "no register of {len} bytes at offset {offset:#x}")
            }
            Refusal::ReadOnly(reg) => write!(f, "{} is read only", reg.row().name),
            Refusal::Enabled(reg) => {
                write!(f, "{} may be written only while disabled", reg.row().name)
            }
            Refusal::ReservedBits(reg, bits) => {
                write!(f, "reserved bits {bits:#x} set in {}", reg.row().name)
            }
            Refusal::Ring(Illegal::Order(order)) => write!(f, "RING_ORDER {order} is illegal"),
            Refusal::Ring(Illegal::Base(base)) => write!(f, "RING_BASE {base:#x} is illegal"),
            Refusal::Ring(Illegal::Completions(base)) => {
                write!(f, "COMPLETION_BASE {base:#x} is illegal")
            }
            Refusal::InFlight => f.write_str("enabled while a unit is in flight"),
            Refusal::Disabled => f.write_str("TAIL written while disabled"),
            Refusal::Overrun { head, tail, value } => {
                write!(f, "TAIL {value} lies between HEAD {head} and TAIL {tail}")
            }
            Refusal::Limit { reg, value, limit } => {
                write!(f, "{} {value} is not below {limit}", reg.row().name)
            }
        }
    }
}
