// SPDX-License-Identifier: GPL-2.0

//! The devices that programs use: each is a module, with its types, its own calls, and a check that it works.

use vfio_client::{Container, Device};

pub(crate) mod mdma;
pub(crate) mod mnvme;
pub(crate) mod mserial;

/// Types of instances. The first of each device is small enough for many instances.
pub(crate) const TYPES: &[&str] = &[
    "mdma-16M",
    "mdma-256M",
    "mdma-1G",
    "mserial-1",
    "mnvme-64M",
    "mnvme-256M",
    "mnvme-1G",
    "mnvme-4G",
];

/// A device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Sample {
    Mdma,
    Mserial,
    Mnvme,
}

impl Sample {
    /// The number of devices.
    pub(crate) const COUNT: usize = 3;
    /// All of them.
    pub(crate) const ALL: [Sample; Sample::COUNT] = [Sample::Mdma, Sample::Mserial, Sample::Mnvme];

    /// Returns the name of its module, which is that of the parent of its instances and the prefix of its types.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Sample::Mdma => "mdma",
            Sample::Mserial => "mserial",
            Sample::Mnvme => "mnvme",
        }
    }

    /// Returns the device of this name.
    pub(crate) fn named(name: &str) -> Option<Sample> {
        Sample::ALL.into_iter().find(|sample| sample.name() == name)
    }

    /// Returns the device with this type, as its name in sysfs.
    pub(crate) fn of_type(id: &str) -> Option<Sample> {
        id.split_once('-').and_then(|(name, _)| Sample::named(name))
    }

    /// Checks that a device works that was just reset and enabled. The container has no mappings; the error says what
    /// is wrong.
    pub(crate) fn works(self, container: &Container, device: &Device) -> Result<(), String> {
        match self {
            Sample::Mdma => mdma::works(container, device),
            Sample::Mserial => mserial::works(device),
            Sample::Mnvme => mnvme::works(device),
        }
    }
}

/// Returns the type of this number, which may be too large.
pub(crate) fn type_named(number: u64) -> &'static str {
    TYPES[(number % TYPES.len() as u64) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_has_types() {
        for sample in Sample::ALL {
            assert_eq!(Sample::named(sample.name()), Some(sample));
            assert!(TYPES.iter().any(|id| Sample::of_type(id) == Some(sample)));
        }
        assert!(TYPES.iter().all(|id| Sample::of_type(id).is_some()));
        assert_eq!(Sample::of_type("mtty-1"), None);
    }
}
