// SPDX-License-Identifier: GPL-2.0

//! The language of programs: the table of calls and their arguments.
//!
//! Results of calls go to numbered slots, and arguments come from there: `d0` is the device in slot 0, whatever opened
//! it. A call with an empty slot does nothing. So any sequence of calls is a valid program, however it was cut and
//! joined, and no call depends on the success of earlier ones.

use crate::domain::Domain::{self, New, Number, Seed, Slot, Word};
use crate::domain::{
    Kind, CLOSABLE, GROUND, IOVA, LIMITS, REGIONS, STALLS, STATES_V1, STATES_V2, V1,
};
use crate::samples::Sample;
use crate::samples::{mdma, mnvme, mserial, TYPES};

const SIZES: &[u64] = &[
    0, 1, 2, 3, 4, 7, 8, 16, 31, 32, 33, 63, 64, 255, 256, 4095, 4096, 4097, 8192, 65536, 0x10_0000,
];
const IOVAS: &[u64] = &[
    0,
    0x1000,
    IOVA,
    IOVA + 0x1000,
    IOVA + 0x2000,
    IOVA + 0x10_0000,
    IOVA + GROUND - 0x1000,
    IOVA + GROUND - 8,
    IOVA + GROUND,
    0x1000_0000,
    0x1_0000_0000,
    0xffff_f000,
    0xfee0_0000,
    1 << 47,
    1 << 48,
    1 << 63,
    u64::MAX - 0xfff,
    u64::MAX,
];
const OFFSETS: &[u64] = &[
    0,
    1,
    2,
    3,
    4,
    6,
    8,
    0xc,
    0x10,
    0x18,
    0x1c,
    0x20,
    0x24,
    0x28,
    0x2c,
    0x30,
    0x34,
    0x38,
    0x3c,
    0x3e,
    0x40,
    0x44,
    0x48,
    0x4c,
    0x50,
    0x58,
    0x60,
    0x68,
    0x70,
    0x80,
    0xfc,
    0xff,
    0x100,
    0xff8,
    0xfff,
    0x1000,
    0x1001,
    0x1008,
    0x2000,
    0x8000,
    0x10_0000,
    0x10_1000,
    0xff_f000,
    0xff_fff8,
    0x100_0000,
    0x1000_0000,
    0xff_ffff_f000,
    0x100_0000_0000,
];
const VALUES: &[u64] = &[
    0,
    1,
    2,
    3,
    4,
    6,
    7,
    8,
    0xf,
    0x10,
    0xff,
    0x400,
    0x406,
    0x1000,
    0xffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    IOVA,
    IOVA + 0x1000,
    1 << 63,
    u64::MAX,
];
const LENGTHS: &[u64] = &[
    0,
    1,
    7,
    8,
    9,
    4095,
    4096,
    4097,
    65535,
    65536,
    65537,
    200_000,
    0x10_0000,
    GROUND,
    0x100_0000,
    1 << 32,
    (1 << 32) + 1,
    u64::MAX,
];
const SMALL: &[u64] = &[0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 31, 32, 63, 64];
const ARGSZ: &[u64] = &[
    0,
    4,
    7,
    8,
    9,
    12,
    15,
    16,
    17,
    19,
    20,
    24,
    28,
    32,
    40,
    48,
    64,
    96,
    128,
    4096,
    0x10_0000,
    0x7fff_ffff,
    0xffff_ffff,
];
const IRQ_FLAGS: &[u64] = &[
    0x21, 0x22, 0x24, 0x09, 0x0a, 0x0c, 0x11, 0x12, 0x14, 0, 1, 7, 0x38, 0x3f, 0x20, 0x61,
];
const FEATURES: &[u64] = &[
    0x1_0001,
    0x1_0002,
    0x2_0002,
    0x4_0002,
    0x5_0002,
    0x6_0002,
    0x7_0002,
    0x1_0009,
    0x5_0009,
    0x1_0003,
    0x1_0000,
    0x2_0000,
    0x5_0001,
    0x3_0002,
    0x2_0005,
    0x4_0006,
    0x5_0006,
    0x2_0007,
    0x1_0008,
    0x1_000a,
    0x1_ffff,
    0,
    0xffff_ffff,
    0x8_0002,
];
const SEED: (&str, Domain) = ("seed", Seed);

/// A call: its name, its weight in random programs, and its arguments.
pub(crate) struct Row {
    pub(crate) op: Op,
    pub(crate) name: &'static str,
    pub(crate) weight: u32,
    /// The device that it makes sense with; `None` for any.
    pub(crate) sample: Option<Sample>,
    pub(crate) args: &'static [(&'static str, Domain)],
}

macro_rules! rows {
    (@sample) => { None };
    (@sample $sample:ident) => { Some(Sample::$sample) };
    ($($op:ident $name:literal $weight:literal $(of $sample:ident)? [$($arg:expr),* $(,)?];)*) => {
        /// Every call.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(usize)]
        pub(crate) enum Op {
            $($op,)*
        }

        /// The table, in the order of [`Op`].
        pub(crate) const ROWS: &[Row] = &[$(Row {
            op: Op::$op,
            name: $name,
            weight: $weight,
            sample: rows!(@sample $($sample)?),
            args: &[$($arg),*],
        },)*];
    };
}

const CONTAINER: (&str, Domain) = ("container", Slot(Kind::Container));
const GROUP: (&str, Domain) = ("group", Slot(Kind::Group));
const DEVICE: (&str, Domain) = ("device", Slot(Kind::Device));
const DATA: (&str, Domain) = ("data_fd", Slot(Kind::Data));
const STREAM: (&str, Domain) = ("stream", Slot(Kind::Stream));
const MAPPING: (&str, Domain) = ("mapping", Slot(Kind::Mapping));
const EVENT: (&str, Domain) = ("eventfd", Slot(Kind::Event));
const REGION: (&str, Domain) = ("region", Word(REGIONS));
const OFFSET: (&str, Domain) = ("offset", Number(OFFSETS));
const SIZE: (&str, Domain) = ("size", Number(SIZES));
const VALUE: (&str, Domain) = ("value", Number(VALUES));
const IOVA_ARG: (&str, Domain) = ("iova", Number(IOVAS));
const LENGTH: (&str, Domain) = ("size", Number(LENGTHS));
const FLAGS: (&str, Domain) = ("flags", Number(SMALL));
const ARGSZ_ARG: (&str, Domain) = ("argsz", Number(ARGSZ));
const NR: (&str, Domain) = (
    "nr",
    Number(&[
        0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12, 14, 15, 16, 17, 19, 20, 21,
    ]),
);
const PIECE: (&str, Domain) = (
    "piece",
    Number(&[1, 31, 32, 4096, 4128, 65536, 0x10_0000, 0x20_0000]),
);
const LIMIT: (&str, Domain) = ("buffers", Number(&[0, 1, 2, 3, 8, 64, 10_000]));

const QUEUE: (&str, Domain) = ("queue", Number(mnvme::QUEUES));
const SLOT: (&str, Domain) = ("slot", Number(SMALL));
const PRP: (&str, Domain) = ("prp", Number(mnvme::PRPS));

#[rustfmt::skip]
rows! {
    Create "create" 4 [("instance", New(Kind::Instance)), ("type", Word(TYPES))];
    Remove "remove" 3 [("instance", Slot(Kind::Instance))];
    Attribute "attribute" 1 [("instance", Slot(Kind::Instance)), ("which", Number(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])), SEED];
    Container "container" 2 [("container", New(Kind::Container))];
    Group "group" 3 [("group", New(Kind::Group)), ("instance", Slot(Kind::Instance))];
    Attach "attach" 3 [GROUP, CONTAINER];
    Detach "detach" 1 [GROUP];
    Iommu "iommu" 2 [CONTAINER, ("type", Number(&[3, 1, 7, 8, 0, 0xffff_ffff]))];
    Device "device" 4 [("device", New(Kind::Device)), GROUP, ("instance", Slot(Kind::Instance))];
    Close "close" 6 [("what", Word(CLOSABLE)), ("slot", Number(&[0, 1, 2, 3]))];
    ContainerIoctl "container_ioctl" 3 [CONTAINER, NR, ARGSZ_ARG, FLAGS, SEED];
    GroupIoctl "group_ioctl" 2 [GROUP, NR, ARGSZ_ARG, FLAGS, SEED];
    DeviceIoctl "device_ioctl" 6 [DEVICE, NR, ARGSZ_ARG, FLAGS, SEED];
    DataIoctl "data_ioctl" 2 [DATA, NR, ARGSZ_ARG, FLAGS, SEED];
    Info "info" 4 [DEVICE, NR, ("index", Number(SMALL)), ARGSZ_ARG];
    SetIrqs "set_irqs" 14 [DEVICE, ("flags", Number(IRQ_FLAGS)), ("index", Number(&[0, 1, 2, 3, 4, 5, u64::MAX])),
        ("start", Number(&[0, 1, 2, 3, 0xffff_ffff])), ("count", Number(&[0, 1, 2, 3, 8, 2048, 0xffff_ffff])),
        EVENT, ("argsz", Number(&[0, 0, 0, 0, 19, 20, 21, 24, 0xffff_ffff])), SEED];
    Reset "reset" 3 [DEVICE];
    Feature "feature" 8 [DEVICE, ("argsz", Number(&[16, 16, 16, 8, 0, 7, 9, 15, 17, 24, 0xffff_ffff])), ("flags", Number(FEATURES)), SEED];
    SetState "set_state" 20 [("data_fd", New(Kind::Data)), DEVICE, ("state", Word(STATES_V2))];
    Pread "pread" 12 [DEVICE, REGION, OFFSET, SIZE];
    Pwrite "pwrite" 14 [DEVICE, REGION, OFFSET, SIZE, VALUE];
    PreadMapping "pread_mapping" 3 [DEVICE, REGION, OFFSET, MAPPING, OFFSET, SIZE];
    PwriteMapping "pwrite_mapping" 3 [DEVICE, REGION, OFFSET, MAPPING, OFFSET, SIZE];
    Register "register" 14 of Mdma [DEVICE, ("register", Word(mdma::REGISTERS)), VALUE];
    V1Register "v1_register" 8 [DEVICE, ("register", Word(V1)), VALUE];
    V1Read "v1_read" 10 [DEVICE, ("register", Word(V1))];
    V1State "v1_state" 18 [DEVICE, ("state", Word(STATES_V1))];
    BusMaster "bus_master" 4 [DEVICE, ("on", Number(&[0, 1]))];
    Mmap "mmap" 6 [("mapping", New(Kind::Mapping)), DEVICE, REGION, OFFSET,
        ("size", Number(&[0x1000, 0x2000, 0x1_0000, 0x10_0000, 0x100_0000, 0x200_0000])), ("prot", Number(&[11, 9, 10, 3, 15, 8, 1]))];
    Load "load" 4 [MAPPING, OFFSET, SIZE];
    Store "store" 8 [MAPPING, OFFSET, SIZE, VALUE];
    Map "map" 6 [CONTAINER, ("flags", Number(&[3, 1, 2, 0, 4, 7])), IOVA_ARG, LENGTH, OFFSET];
    MapMapping "map_mapping" 2 [CONTAINER, ("flags", Number(&[3, 1, 2])), IOVA_ARG, MAPPING];
    Unmap "unmap" 5 [CONTAINER, ("flags", Number(&[0, 0, 0, 2, 4, 1, 3])), IOVA_ARG, LENGTH];
    UnmapDirty "unmap_dirty" 2 [CONTAINER, IOVA_ARG, LENGTH, ("pgsize", Number(&[4096, 4096, 8192, 1])), ("bad", Number(&[0, 0, 1]))];
    DirtyPages "dirty_pages" 4 [CONTAINER, ("flags", Number(&[1, 2, 3, 0, 4, 8]))];
    DirtyBitmap "dirty_bitmap" 4 [CONTAINER, IOVA_ARG, LENGTH, ("pgsize", Number(&[4096, 4096, 8192, 1])), ("bad", Number(&[0, 0, 1]))];
    Descriptor "descriptor" 12 of Mdma [("slot", Number(SMALL)), ("op", Word(mdma::OPERATIONS)), ("flags", Number(SMALL)),
        ("src", Number(IOVAS)), ("dst", Number(IOVAS)), LENGTH, ("entries", Number(&[0, 0, 0, 1, 2, 3, 16, 4096, 4097]))];
    List "list" 6 of Mdma [("offset", Number(&[0x3000, 0x3010, 0x3800, 0x2000, 0x3008])), ("entries", Number(&[1, 2, 3, 16, 64])), SEED];
    Scribble "scribble" 3 [("offset", Number(&[0, 0x40, 0x80, 0x1000, 0x2000])), ("size", Number(&[1, 8, 64, 256, 4096])), SEED];
    Doorbell "doorbell" 10 of Mdma [DEVICE, ("tail", Number(SMALL))];
    Read "read" 8 [DATA, SIZE];
    Write "write" 5 [DATA, STREAM, SIZE, SIZE];
    ReadMapping "read_mapping" 2 [DATA, MAPPING, OFFSET, SIZE];
    Poll "poll" 3 [DATA, ("events", Number(&[1, 4, 5, 0]))];
    Dup "dup" 1 [("data_fd", New(Kind::Data)), DATA];
    PrecopyInfo "precopy_info" 4 [DATA];
    V1Save "v1_save" 8 [DEVICE, ("stream", New(Kind::Stream)), LIMIT];
    V1Load "v1_load" 6 [DEVICE, STREAM, PIECE];
    V2Save "v2_save" 8 [DATA, ("stream", New(Kind::Stream)), PIECE, LIMIT];
    V2Load "v2_load" 6 [DATA, STREAM, PIECE];
    Mutate "mutate" 8 [STREAM, ("how", Word(records::spoil::WAYS)), SEED];
    EventFd "eventfd" 2 [("eventfd", New(Kind::Event))];
    Signal "signal" 2 [EVENT];
    Wait "wait" 2 [("us", Number(&[0, 10, 100, 1000, 5000]))];
    Die "die" 0 [];
    Stalled "stalled" 4 [("mapping", New(Kind::Mapping)), ("by", Word(STALLS)), ("pages", Number(&[1, 2, 4, 16])), ("us", Number(&[0, 100, 3000, 20_000]))];
    BitmapIn "bitmap_in" 3 [CONTAINER, ("unmap", Number(&[0, 0, 1])), IOVA_ARG, LENGTH, MAPPING, OFFSET];
    WriteMapping "write_mapping" 3 [DATA, MAPPING, OFFSET, SIZE];
    PassDevice "pass_device" 3 [DEVICE];
    PassData "pass_data" 3 [DATA];
    PassContainer "pass_container" 2 [CONTAINER];
    PassGroup "pass_group" 1 [GROUP];
    Kill "kill" 2 [];
    Limit "limit" 3 [("what", Word(LIMITS)), ("to", Number(&[0, 1, 2, 3]))];
    Freeze "freeze" 2 [("us", Number(&[0, 100, 3000, 20_000]))];
    Suspend "suspend" 1 [];
    WriteBytes "write_bytes" 4 [DATA, SIZE, SEED];
    UartRead "uart_read" 12 of Mserial [DEVICE, ("register", Word(mserial::REGISTERS))];
    UartWrite "uart_write" 20 of Mserial [DEVICE, ("register", Word(mserial::REGISTERS)), ("value", Number(mserial::VALUES))];
    HostOpen "host_open" 4 of Mserial [("data_fd", New(Kind::Data)), ("instance", Slot(Kind::Instance))];
    HostWaits "host_waits" 4 of Mserial [("instance", Slot(Kind::Instance)), ("in", Word(mserial::CALLS)), ("us", Number(&[0, 100, 3000, 20_000]))];
    NvmeRegister "nvme_register" 14 of Mnvme [DEVICE, ("register", Word(mnvme::REGISTERS)), ("value", Number(mnvme::VALUES))];
    NvmeDoorbell "nvme_doorbell" 14 of Mnvme [DEVICE, ("which", Word(mnvme::DOORBELLS)), QUEUE, ("value", Number(SMALL))];
    NvmeAdmin "nvme_admin" 14 of Mnvme [SLOT, ("command", Word(mnvme::ADMIN)), ("flags", Number(&[0, 0, 0, 0, 0, 0, 0, 1, 0x40, 0xff])),
        ("nsid", Number(mnvme::NAMESPACES)), PRP, PRP, ("dword10", Number(mnvme::DWORDS)), ("dword11", Number(mnvme::DWORDS)), ("dword12", Number(SMALL))];
    NvmeIo "nvme_io" 18 of Mnvme [QUEUE, SLOT, ("command", Word(mnvme::IO)), ("nsid", Number(&[1, 1, 1, 1, 1, 1, 1, 0, 2, 0xffff_ffff])),
        PRP, PRP, ("block", Number(mnvme::BLOCKS)), ("dword12", Number(mnvme::COUNTS))];
    NvmeList "nvme_list" 8 of Mnvme [("offset", Number(mnvme::LISTS)), ("entries", Number(&[1, 2, 3, 31, 32, 512])), SEED];
    NvmeRanges "nvme_ranges" 4 of Mnvme [("offset", Number(mnvme::LISTS)), ("ranges", Number(&[1, 2, 3, 16, 256])), SEED];
    NvmeWait "nvme_wait" 3 of Mnvme [QUEUE, SLOT];
}

impl Op {
    /// Returns its row of the table.
    pub(crate) fn row(self) -> &'static Row {
        &ROWS[self as usize]
    }

    /// Returns whether only the first process can make it, whatever its line says: it needs root, or concerns the
    /// second.
    pub(crate) fn is_roots(self) -> bool {
        matches!(
            self,
            Op::Create
                | Op::Remove
                | Op::Attribute
                | Op::Stalled
                | Op::PassDevice
                | Op::PassData
                | Op::PassContainer
                | Op::PassGroup
                | Op::Kill
                | Op::Limit
                | Op::Freeze
                | Op::Suspend
        )
    }

    /// Returns the call of this name.
    pub(crate) fn named(name: &str) -> Option<Op> {
        ROWS.iter().find(|row| row.name == name).map(|row| row.op)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order() {
        for (n, row) in ROWS.iter().enumerate() {
            assert_eq!(row.op as usize, n, "{}", row.name);
            assert_eq!(Op::named(row.name), Some(row.op));
        }
    }

    #[test]
    fn at_most_one_result() {
        for row in ROWS {
            let results = row.args.iter().filter(|a| matches!(a.1, New(_))).count();
            assert!(results <= 1, "{}", row.name);
        }
    }
}
