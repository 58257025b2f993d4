// SPDX-License-Identifier: GPL-2.0

//! What a check is.

use crate::fault::Fault;
use crate::subject::Subject;

/// What a check does to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It opens the device and reads. A request that changes something is invalid.
    Read,
    /// It changes the migration state and resets the device, so nobody may need what is in the device.
    Change,
}

/// A row of the table.
#[derive(Debug)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// The symbol of `include/uapi/linux/vfio.h` that states the rule.
    pub symbol: &'static str,
    /// The rule.
    pub rule: &'static str,
    /// What it does to the device.
    pub access: Access,
    /// Runs it.
    pub run: fn(&Subject) -> Result<(), Fault>,
}

impl Check {
    /// Declares a check that reads.
    pub(crate) const fn reads(
        name: &'static str,
        symbol: &'static str,
        rule: &'static str,
        run: fn(&Subject) -> Result<(), Fault>,
    ) -> Self {
        Check {
            name,
            symbol,
            rule,
            access: Access::Read,
            run,
        }
    }

    /// Declares a check that changes the device.
    pub(crate) const fn changes(
        name: &'static str,
        symbol: &'static str,
        rule: &'static str,
        run: fn(&Subject) -> Result<(), Fault>,
    ) -> Self {
        Check {
            access: Access::Change,
            ..Check::reads(name, symbol, rule, run)
        }
    }
}
