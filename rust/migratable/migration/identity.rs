// SPDX-License-Identifier: GPL-2.0

//! The identity of the device in a stream.

use super::state_machine::errno;
use crate::{
    device::Device,
    driver::Driver,
    host_end,
    timers, //
};
use kernel::{
    page::PAGE_SIZE,
    prelude::*, //
};
use migration::stream::{
    self,
    Identity,
    IdentityText,
    PartTable, //
};
use vfio::refuse;

/// Returns the parts of the state of driver `T`.
pub(crate) const fn parts<T: Driver>() -> PartTable {
    const {
        match PartTable::new(T::PARTS, PAGE_SIZE as u32) {
            Some(parts) => parts,
            None => panic!("PARTS are not in ascending order, too many, empty or too large"),
        }
    }
}

/// Returns whether a device type has 1 to 16 bytes, all printable and none a space.
const fn is_name(name: &[u8]) -> bool {
    let mut rest = name;
    while let Some((byte, behind)) = rest.split_first() {
        if !byte.is_ascii_graphic() {
            return false;
        }
        rest = behind;
    }
    !name.is_empty() && name.len() <= 16
}

impl<T: Driver> Device<T> {
    /// Returns which streams the device takes: `migration_version`.
    pub(crate) fn identity_text(&self) -> IdentityText {
        IdentityText {
            identity: self.machine.identity,
            oldest_version: T::OLDEST_VERSION,
        }
    }

    /// Returns whether the device takes the streams of a device whose text this is. `EINVAL` if not, or if
    /// the text is malformed; the log says which field differs.
    pub(crate) fn check_identity_text(&self, text: &str) -> Result {
        IdentityText::parse(text)
            .and_then(|found| {
                let identity = &self.machine.identity;
                identity.accept_since(T::OLDEST_VERSION, &found.identity)
            })
            .map_err(|error| {
                refuse!(self, "migration_version: {error}");
                errno(error)
            })
    }
}

/// Returns the identity of a device of driver `T` with that many bytes of device memory (P49).
pub(crate) fn identity<T: Driver>(memory_size: u64) -> Identity {
    let state_size_max = const {
        let mut size = T::INFO.state_size_max + timers::saved_size(T::TIMERS);
        if T::HOST_END {
            size += host_end::SAVED_SIZE;
        }
        assert!(is_name(T::INFO.device_type.as_bytes()));
        assert!(size <= u32::MAX as usize);
        size as u32
    };
    Identity {
        device_type: stream::device_type(T::INFO.device_type),
        device_version: T::INFO.version,
        features: T::INFO.features,
        memory_size,
        page_size: PAGE_SIZE as u32,
        state_size_max,
    }
}
