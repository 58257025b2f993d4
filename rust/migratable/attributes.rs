// SPDX-License-Identifier: GPL-2.0

//! The attributes of an instance: files in its directory of sysfs.
//!
//! ```text
//!   keep_state          whether the state of the device stays when its last user closes it
//!   migration_abi       the migration interface
//!   data_section_kib    the size of the data section of its region
//!   payload_checksums   whether device memory in a saved state has checksums
//!   migration_version   which streams the device takes; a write asks whether it takes those of a device
//!                       whose text this is, and changes nothing
//! ```
//!
//! A driver adds its own: [`Driver::ATTRIBUTES`].

use crate::{
    attribute::Attribute,
    device::{
        Device,
        VfioDevice, //
    },
    driver::Driver, //
};
use core::fmt;
use kernel::{
    prelude::*,
    str::{
        kstrtobool,
        parse_int::ParseInt,
        BStr, //
    },
};
use migration::generation::Generation;

/// One of the attributes of an instance.
pub(crate) enum AnyAttribute<T: Driver> {
    KeepState,
    MigrationAbi,
    DataSectionKib,
    PayloadChecksums,
    MigrationVersion,
    /// One of [`Driver::ATTRIBUTES`].
    Driver(&'static Attribute<T>),
}

impl<T: Driver> Clone for AnyAttribute<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: Driver> Copy for AnyAttribute<T> {}

impl<T: Driver> AnyAttribute<T> {
    /// Returns all attributes.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let every = [
            Self::KeepState,
            Self::MigrationAbi,
            Self::DataSectionKib,
            Self::PayloadChecksums,
            Self::MigrationVersion,
        ];
        Iterator::chain(every.into_iter(), T::ATTRIBUTES.iter().map(Self::Driver))
    }

    /// Returns the name of the file.
    pub(crate) fn name(self) -> &'static CStr {
        match self {
            Self::KeepState => c"keep_state",
            Self::MigrationAbi => c"migration_abi",
            Self::DataSectionKib => c"data_section_kib",
            Self::PayloadChecksums => c"payload_checksums",
            Self::MigrationVersion => c"migration_version",
            Self::Driver(attribute) => attribute.name,
        }
    }

    /// Writes the text of the file.
    pub(crate) fn show(self, dev: &VfioDevice<T>, out: &mut dyn fmt::Write) -> fmt::Result {
        match self {
            Self::KeepState => write!(out, "{}", u8::from(dev.keeps_state())),
            Self::MigrationAbi => out.write_str(dev.generation().name()),
            Self::DataSectionKib => write!(out, "{}", dev.data_section_size() >> 10),
            Self::PayloadChecksums => write!(out, "{}", u8::from(dev.machine.has_checksums())),
            Self::MigrationVersion => write!(out, "{}", dev.identity_text()),
            Self::Driver(attribute) => write!(out, "{}", (attribute.show)(dev)),
        }
    }

    /// Takes what was written to the file.
    pub(crate) fn store(self, dev: &VfioDevice<T>, text: &CStr) -> Result {
        match self {
            Self::KeepState => dev.set_keep_state(kstrtobool(text)?),
            Self::MigrationAbi => {
                let generation = Generation::from_name(line(text)).ok_or(EINVAL)?;
                Device::set_generation(dev, generation)
            }
            Self::DataSectionKib => {
                let kib = usize::try_from(number(text)?)?;
                // What is too large stays too large.
                dev.set_data_section_size(kib.saturating_mul(1 << 10))
            }
            Self::PayloadChecksums => {
                dev.machine.set_checksums(kstrtobool(text)?);
                Ok(())
            }
            Self::MigrationVersion => dev.check_identity_text(text.to_str()?),
            Self::Driver(attribute) => {
                let value = number(text)?;
                dev.before_first_open(attribute.name.to_str()?, || (attribute.store)(dev, value))
            }
        }
    }
}

/// Returns the bytes of a line without its end.
fn line(text: &CStr) -> &[u8] {
    let text = text.to_bytes();
    text.strip_suffix(b"\n").unwrap_or(text)
}

/// Returns the number that a line has: decimal, or with `0x`.
fn number(text: &CStr) -> Result<u64> {
    ParseInt::from_str(BStr::from_bytes(line(text)))
}
