// SPDX-License-Identifier: GPL-2.0

//! What a check is.

use std::fmt;

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

/// Where a line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// `include/uapi/linux/vfio.h`.
    Vfio,
    /// `include/uapi/linux/vfio.h` of Linux 5.17. Later kernels only have the structure of protocol v1.
    VfioV1,
    /// The PCI Local Bus Specification, revision 3.0.
    Pci,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Source::Vfio => "vfio.h",
            Source::VfioV1 => "vfio.h of Linux 5.17",
            Source::Pci => "PCI 3.0",
        })
    }
}

/// The line of the UAPI that a check is about.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// Where it is written.
    pub source: Source,
    /// The ioctl, structure or constant whose comment has it, or the section.
    pub symbol: &'static str,
    /// Its words. Empty for a section.
    pub text: &'static str,
}

impl Line {
    pub(crate) const fn vfio(symbol: &'static str, text: &'static str) -> Self {
        let source = Source::Vfio;
        Line {
            source,
            symbol,
            text,
        }
    }

    pub(crate) const fn v1(text: &'static str) -> Self {
        Line {
            source: Source::VfioV1,
            symbol: "struct vfio_device_migration_info",
            text,
        }
    }

    pub(crate) const fn pci(section: &'static str) -> Self {
        Line {
            source: Source::Pci,
            symbol: section,
            text: "",
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.source, self.symbol)?;
        match self.text {
            "" => Ok(()),
            text => write!(f, ": \"{text}\""),
        }
    }
}

/// A row of the table.
#[derive(Debug)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// The line that states the rule.
    pub line: Line,
    /// The rule as this check reads it.
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
        line: Line,
        rule: &'static str,
        run: fn(&Subject) -> Result<(), Fault>,
    ) -> Self {
        Check {
            name,
            line,
            rule,
            access: Access::Read,
            run,
        }
    }

    /// Declares a check that changes the device.
    pub(crate) const fn changes(
        name: &'static str,
        line: Line,
        rule: &'static str,
        run: fn(&Subject) -> Result<(), Fault>,
    ) -> Self {
        Check {
            access: Access::Change,
            ..Check::reads(name, line, rule, run)
        }
    }
}
