// SPDX-License-Identifier: GPL-2.0

//! Checks of the migration region of protocol v1: its place, its registers and their widths.

use vfio_client::uapi::{VFIO_DEVICE_FLAGS_PCI, VFIO_PCI_NUM_REGIONS};
use vfio_client::v1::{offset, Migration, State};
use vfio_client::{Device, Region};

use crate::check::{Check, Line};
use crate::fault::{require, Fault};
use crate::subject::Subject;

pub(crate) const READS: &[Check] = &[
    Check::reads(
        "v1.region",
        Line::vfio(
            "VFIO_PCI_NUM_REGIONS",
            "Fixed user ABI, region indexes >=9 use device specific cap to define content.",
        ),
        "The region is behind the fixed PCI regions, can be read and written, and is larger than its registers.",
        region,
    ),
    Check::reads(
        "v1.mmap",
        Line::v1("The data section partition can be defined as mapped by the sparse mmap capability."),
        "No mappable area covers the registers, so that they trap.",
        mmap,
    ),
    Check::reads(
        "v1.widths",
        Line::v1("Field accesses from this structure are only supported at their native width and alignment."),
        "Each register is read with its width.",
        widths,
    ),
    Check::reads(
        "v1.other_widths",
        Line::v1("Otherwise, the result is undefined and vendor drivers should return an error."),
        "A read of another width, at another offset or across two registers fails.",
        other_widths,
    ),
    Check::reads(
        "v1.default_state",
        Line::v1("001b => Device running, which is the default state"),
        "``device_state`` is 001 at open.",
        default_state,
    ),
    Check::reads(
        "v1.idle",
        Line::v1("The number of pending bytes still to be migrated from the vendor driver."),
        "``pending_bytes`` is 0 while the device is not saving.",
        idle,
    ),
    Check::reads(
        "v1.reserved_reads",
        Line::v1("Reads on this field return zero and writes are ignored."),
        "``reserved`` reads 0.",
        reserved_reads,
    ),
];

pub(crate) const CHECKS: &[Check] = &[
    Check::changes(
        "v1.reserved_writes",
        Line::v1("Reads on this field return zero and writes are ignored."),
        "A write to ``reserved`` succeeds, and it reads 0 afterwards.",
        reserved_writes,
    ),
    Check::changes(
        "v1.read_only",
        Line::v1("pending_bytes: (read only)"),
        "A write to ``pending_bytes`` or ``data_offset`` changes neither of them nor the state.",
        read_only,
    ),
    Check::changes(
        "v1.other_writes",
        Line::v1("Otherwise, the result is undefined and vendor drivers should return an error."),
        "A write of another width, at another offset or across two registers fails, and the state stays.",
        other_writes,
    ),
];

/// The registers: name, offset and width.
const REGISTERS: [(&str, u64, usize); 5] = [
    ("device_state", offset::DEVICE_STATE, 4),
    ("reserved", offset::RESERVED, 4),
    ("pending_bytes", offset::PENDING_BYTES, 8),
    ("data_offset", offset::DATA_OFFSET, 8),
    ("data_size", offset::DATA_SIZE, 8),
];

/// The bytes that the registers take.
pub(crate) const SIZE: u64 = 32;

fn open(subject: &Subject) -> Result<(Device, Migration), Fault> {
    let device = subject.open()?;
    let migration = device.migration_v1()?;
    let absent = || Fault::Absent("migration by protocol v1".into());
    Ok((device, migration.ok_or_else(absent)?))
}

fn region(subject: &Subject) -> Result<(), Fault> {
    let (device, migration) = open(subject)?;
    let info = migration.region().info();
    let seen = format!("{info:?}");
    if device.info().flags & VFIO_DEVICE_FLAGS_PCI != 0 {
        let behind = info.index >= VFIO_PCI_NUM_REGIONS;
        require(behind, "an index behind the fixed regions", &seen)?;
    }
    let both = info.readable() && info.writable();
    require(both, "a region to read and write", &seen)?;
    require(info.size > SIZE, format!("more than {SIZE} bytes"), &seen)
}

fn mmap(subject: &Subject) -> Result<(), Fault> {
    let (_, migration) = open(subject)?;
    for area in migration.region().info().areas() {
        let seen = format!("{area:x?}");
        require(area.offset >= SIZE, "no mapping of the registers", seen)?;
    }
    Ok(())
}

fn widths(subject: &Subject) -> Result<(), Fault> {
    let (_, migration) = open(subject)?;
    for (name, at, width) in REGISTERS {
        let read = migration.region().pread(at, &mut [0; 8][..width]);
        let good = matches!(read, Ok(n) if n == width);
        let what = format!("{width} bytes of {name}");
        require(good, what, format!("{read:?}"))?;
    }
    Ok(())
}

/// Makes all accesses inside the registers that are not of one register and its width.
fn others(verb: &str, access: impl Fn(u64, usize) -> std::io::Result<usize>) -> Result<(), Fault> {
    for at in 0..SIZE {
        for width in 1..=(SIZE - at) as usize {
            if REGISTERS.iter().any(|r| (r.1, r.2) == (at, width)) {
                continue;
            }
            let result = access(at, width);
            let what = format!("an error of a {verb} of {width} bytes at {at}");
            require(result.is_err(), what, format!("{result:?}"))?;
        }
    }
    Ok(())
}

fn other_widths(subject: &Subject) -> Result<(), Fault> {
    let (_, migration) = open(subject)?;
    let region = migration.region();
    others("read", |at, width| {
        region.pread(at, &mut [0; SIZE as usize][..width])
    })
}

fn default_state(subject: &Subject) -> Result<(), Fault> {
    let (_, migration) = open(subject)?;
    let state = migration.state()?;
    require(state == State::RUNNING, "001 at open", state)
}

fn idle(subject: &Subject) -> Result<(), Fault> {
    let (_, migration) = open(subject)?;
    let pending = migration.pending_bytes()?;
    require(pending == 0, "0 in 001", pending)
}

/// Requires that `reserved` reads 0.
fn require_reserved(region: &Region, when: &str) -> Result<(), Fault> {
    let value = region.read_u32(offset::RESERVED)?;
    require(value == 0, format!("0 {when}"), value)
}

fn reserved_reads(subject: &Subject) -> Result<(), Fault> {
    let (_, migration) = open(subject)?;
    require_reserved(migration.region(), "at open")
}

fn reserved_writes(subject: &Subject) -> Result<(), Fault> {
    let (_, migration) = subject.open_v1()?;
    let region = migration.region();
    let written = region.pwrite(offset::RESERVED, &[0xff; 4]);
    let good = matches!(written, Ok(4));
    require(good, "a write of 4 bytes", format!("{written:?}"))?;
    require_reserved(region, "after a write of 0xffffffff")?;
    let state = migration.state()?;
    require(state == State::RUNNING, "001", state)
}

fn read_only(subject: &Subject) -> Result<(), Fault> {
    let (_, migration) = subject.open_v1()?;
    let region = migration.region();
    let at = migration.data_offset()?;
    for (name, register) in [
        ("pending_bytes", offset::PENDING_BYTES),
        ("data_offset", offset::DATA_OFFSET),
    ] {
        // It may fail, or be ignored.
        let _ = region.pwrite(register, &0x5a5au64.to_ne_bytes());
        let seen = (migration.pending_bytes()?, migration.data_offset()?);
        let what = format!("(0, {at:#x}) after a write to {name}");
        require(seen == (0, at), what, format!("{seen:x?}"))?;
    }
    let state = migration.state()?;
    require(state == State::RUNNING, "001", state)
}

fn other_writes(subject: &Subject) -> Result<(), Fault> {
    let (_, migration) = subject.open_v1()?;
    let region = migration.region();
    // Ones in the state would be invalid by themselves, so the bytes are those of 000.
    others("write", |at, width| {
        region.pwrite(at, &[0; SIZE as usize][..width])
    })?;
    let state = migration.state()?;
    require(state == State::RUNNING, "001", state)
}
