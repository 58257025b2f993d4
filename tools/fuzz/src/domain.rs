// SPDX-License-Identifier: GPL-2.0

//! The types of arguments, and the words for numbers.

/// The content of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An instance in sysfs. Its UUID depends on the slot number only, so it can be created twice.
    Instance,
    /// An open container.
    Container,
    /// An open group.
    Group,
    /// An open device.
    Device,
    /// A mapping of part of a device.
    Mapping,
    /// A data descriptor of v2.
    Data,
    /// An eventfd.
    Event,
    /// The stream of a saved device.
    Stream,
}

impl Kind {
    /// Returns the letter before a slot number.
    pub(crate) fn letter(self) -> char {
        match self {
            Kind::Instance => 'i',
            Kind::Container => 'c',
            Kind::Group => 'g',
            Kind::Device => 'd',
            Kind::Mapping => 'm',
            Kind::Data => 'f',
            Kind::Event => 'e',
            Kind::Stream => 's',
        }
    }

    /// Returns the number of slots.
    pub(crate) fn slots(self) -> u64 {
        match self {
            Kind::Instance | Kind::Group | Kind::Device => 64,
            Kind::Container | Kind::Mapping | Kind::Data => 16,
            Kind::Event | Kind::Stream => 8,
        }
    }
}

/// The type of an argument.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Domain {
    /// The content of a slot.
    Slot(Kind),
    /// The slot for the result.
    New(Kind),
    /// A number, usually one with a name here.
    Word(&'static [&'static str]),
    /// A number, usually one of these.
    Number(&'static [u64]),
    /// The seed of random bytes.
    Seed,
}

/// Regions by index.
pub(crate) const REGIONS: &[&str] = &[
    "bar0",
    "bar1",
    "bar2",
    "bar3",
    "bar4",
    "bar5",
    "rom",
    "config",
    "vga",
    "migration",
];
/// Registers of the migration region.
pub(crate) const V1: &[&str] = &[
    "device_state",
    "reserved",
    "pending_bytes",
    "data_offset",
    "data_size",
];
/// `device_state` of v1.
pub(crate) const STATES_V1: &[&str] = &[
    "stop",
    "running",
    "stop_and_copy",
    "pre_copy",
    "resuming",
    "invalid5",
    "error",
    "invalid7",
];
/// `enum vfio_device_mig_state`.
pub(crate) const STATES_V2: &[&str] = &[
    "ERROR",
    "STOP",
    "RUNNING",
    "STOP_COPY",
    "RESUMING",
    "RUNNING_P2P",
    "PRE_COPY",
    "PRE_COPY_P2P",
];
/// Kinds of descriptors that `close` closes.
pub(crate) const CLOSABLE: &[&str] = &["container", "group", "device", "mapping", "data", "event"];

/// Backends of stalled memory.
pub(crate) const STALLS: &[&str] = &["userfaultfd", "fuse"];
/// Resources that can be limited for the second process.
pub(crate) const LIMITS: &[&str] = &["memory", "cpu", "pids"];

/// IOVAs of memory. The ring of the snippets is at the first one.
pub(crate) const IOVA: u64 = 0x10_0000;
/// Bytes of memory for devices.
pub(crate) const GROUND: u64 = 4 << 20;
