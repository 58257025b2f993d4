// SPDX-License-Identifier: GPL-2.0

//! The attributes of an instance: files in its directory of sysfs.
//!
//! ```text
//!   keep_state          whether the state of the device stays when its last user closes it
//!   migration_abi       the migration interface
//!   payload_checksums   whether device memory in a saved state has checksums
//!   migration_version   which streams the device takes; a write asks whether it takes those of a device
//!                       whose text this is, and changes nothing
//! ```

use crate::{
    device::{
        Device,
        VfioDevice, //
    },
    driver::Driver, //
};
use core::fmt;
use kernel::{
    prelude::*,
    str::kstrtobool, //
};
use migration::generation::Generation;

/// An attribute of an instance.
#[derive(Clone, Copy)]
pub(crate) enum Attribute {
    KeepState,
    MigrationAbi,
    PayloadChecksums,
    MigrationVersion,
}

impl Attribute {
    /// Returns all attributes.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        [
            Self::KeepState,
            Self::MigrationAbi,
            Self::PayloadChecksums,
            Self::MigrationVersion,
        ]
        .into_iter()
    }

    /// Returns the name of the file.
    pub(crate) fn name(self) -> &'static CStr {
        match self {
            Self::KeepState => c"keep_state",
            Self::MigrationAbi => c"migration_abi",
            Self::PayloadChecksums => c"payload_checksums",
            Self::MigrationVersion => c"migration_version",
        }
    }

    /// Writes the text of the file.
    pub(crate) fn show<T: Driver>(self, dev: &VfioDevice<T>, out: &mut dyn fmt::Write) -> fmt::Result {
        match self {
            Self::KeepState => write!(out, "{}", u8::from(dev.keeps_state())),
            Self::MigrationAbi => out.write_str(dev.generation().name()),
            Self::PayloadChecksums => write!(out, "{}", u8::from(dev.machine.has_checksums())),
            Self::MigrationVersion => write!(out, "{}", dev.identity_text()),
        }
    }

    /// Takes what was written to the file.
    pub(crate) fn store<T: Driver>(self, dev: &VfioDevice<T>, text: &CStr) -> Result {
        match self {
            Self::KeepState => dev.set_keep_state(kstrtobool(text)?),
            Self::MigrationAbi => {
                let generation = Generation::from_name(line(text)).ok_or(EINVAL)?;
                Device::set_generation(dev, generation)
            }
            Self::PayloadChecksums => {
                dev.machine.set_checksums(kstrtobool(text)?);
                Ok(())
            }
            Self::MigrationVersion => dev.check_identity_text(text.to_str()?),
        }
    }
}

/// Returns the bytes of a line without its end.
fn line(text: &CStr) -> &[u8] {
    let text = text.to_bytes();
    text.strip_suffix(b"\n").unwrap_or(text)
}
