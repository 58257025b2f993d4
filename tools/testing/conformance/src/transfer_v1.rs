// SPDX-License-Identifier: GPL-2.0

//! Checks of the data of protocol v1: the sequence of a save and of a load, and the data section.

use vfio_client::v1::{Access, Migration, State};

use crate::check::{Check, Line};
use crate::fault::{require, Fault};
use crate::region_v1;
use crate::states_v1::reach;
use crate::subject::Subject;

pub(crate) const CHECKS: &[Check] = &[
    Check::changes(
        "v1.pending_again",
        Line::v1("Repeated read on pending_bytes at this stage should have no side effects."),
        "``pending_bytes`` reads the same again in 010, and a buffer follows.",
        pending_again,
    ),
    Check::changes(
        "v1.buffer_again",
        Line::v1("Read on data_offset and data_size should return the offset and size of the current buffer"),
        "``data_offset`` and ``data_size`` stay the same until ``pending_bytes`` is read, and so do the bytes.",
        buffer_again,
    ),
    Check::changes(
        "v1.sequence",
        Line::v1("The user application should iterate in _SAVING (stop-and-copy) until pending_bytes is 0."),
        "Each buffer is inside the region and behind the registers, and ``pending_bytes`` reaches 0 in 010.",
        sequence,
    ),
    Check::changes(
        "v1.aligned",
        Line::v1("If mmapped, data_offset must be page aligned"),
        "``data_offset`` is a multiple of the page size if it is in a mappable area, and never 0.",
        aligned,
    ),
    Check::changes(
        "v1.section",
        Line::v1("The user is not required to access through mmap regardless of the capabilities"),
        "The data section has the same bytes mapped and trapped.",
        section,
    ),
    Check::changes(
        "v1.load",
        Line::v1("Vendor driver should apply the user-provided migration region data to the device resume state."),
        "A device loads what it saved, in the transactions of the source, by 100 and then 001.",
        load,
    ),
    Check::changes(
        "v1.resume_twice",
        Line::v1("After providing saved device data to the driver, the application should change the state"),
        "What a device has loaded it saves again, with the same number of bytes.",
        resume_twice,
    ),
];

/// The buffers that a device makes at most. No device that anybody waits for has more.
const BUFFERS: usize = 1 << 20;

/// Asks for the next buffer. Returns its place and its size, or nothing at the end.
fn stage(migration: &Migration) -> Result<Option<(u64, u64)>, Fault> {
    let pending = migration.pending_bytes()?;
    if pending == 0 {
        return Ok(None);
    }
    let size = migration.region().info().size;
    let at = migration.data_offset()?;
    let len = migration.data_size()?;
    let inside = at >= region_v1::SIZE && at.checked_add(len).is_some_and(|end| end <= size);
    let seen = format!("{len:#x} bytes at {at:#x}");
    let what = format!("a buffer behind the registers in {size:#x} bytes");
    require(inside, what, &seen)?;
    require(len > 0, format!("data of {pending} pending bytes"), &seen)?;
    Ok(Some((at, len)))
}

/// Reads a buffer that [`stage`] found.
fn fetch(migration: &Migration, (at, len): (u64, u64)) -> Result<Vec<u8>, Fault> {
    let mut bytes = vec![0; len as usize];
    migration.read_data(at, &mut bytes)?;
    Ok(bytes)
}

/// Saves the device in 010 and leaves it in 000. Returns the transactions.
fn save(migration: &Migration) -> Result<Vec<Vec<u8>>, Fault> {
    reach(migration, State::STOP_AND_COPY)?;
    let mut buffers = Vec::new();
    while let Some(buffer) = stage(migration)? {
        require(
            buffers.len() < BUFFERS,
            "pending_bytes to reach 0",
            format!("more after {BUFFERS} buffers"),
        )?;
        buffers.push(fetch(migration, buffer)?);
    }
    reach(migration, State::STOP)?;
    Ok(buffers)
}

/// Loads transactions in 100, then goes to 001.
fn resume(migration: &Migration, buffers: &[Vec<u8>]) -> Result<(), Fault> {
    reach(migration, State::RESUMING)?;
    for (n, buffer) in buffers.iter().enumerate() {
        let loaded = migration.load_buffer(buffer);
        let what = format!("buffer {n} of {} bytes to be loaded", buffer.len());
        require(loaded.is_ok(), what, format!("{loaded:?}"))?;
    }
    reach(migration, State::RUNNING)
}

fn pending_again(subject: &Subject) -> Result<(), Fault> {
    let (_, migration) = subject.open_v1()?;
    reach(&migration, State::STOP_AND_COPY)?;
    let first = migration.pending_bytes()?;
    for _ in 0..3 {
        let again = migration.pending_bytes()?;
        require(again == first, format!("{first} again"), again)?;
    }
    let staged = stage(&migration)?;
    require(staged.is_some(), "a buffer of a stopped device", "none")
}

fn buffer_again(subject: &Subject) -> Result<(), Fault> {
    let (_, migration) = subject.open_v1()?;
    reach(&migration, State::STOP_AND_COPY)?;
    // The first ones: a device may have gigabytes.
    for _ in 0..16 {
        let Some(buffer) = stage(&migration)? else {
            return Ok(());
        };
        let bytes = fetch(&migration, buffer)?;
        for _ in 0..2 {
            let again = (migration.data_offset()?, migration.data_size()?);
            let what = format!("{buffer:x?} again");
            require(again == buffer, what, format!("{again:x?}"))?;
            let same = fetch(&migration, again)? == bytes;
            require(same, "the same bytes again", "others")?;
        }
    }
    Ok(())
}

fn sequence(subject: &Subject) -> Result<(), Fault> {
    let (_, migration) = subject.open_v1()?;
    reach(&migration, State::PRE_COPY)?;
    if let Some(buffer) = stage(&migration)? {
        fetch(&migration, buffer)?;
    }
    let buffers = save(&migration)?;
    require(!buffers.is_empty(), "a buffer of a stopped device", "none")?;
    reach(&migration, State::RUNNING)
}

fn aligned(subject: &Subject) -> Result<(), Fault> {
    for state in [State::RESUMING, State::STOP_AND_COPY] {
        let (_, migration) = subject.open_v1()?;
        reach(&migration, state)?;
        migration.pending_bytes()?;
        let areas = migration.region().info().areas();
        let at = migration.data_offset()?;
        require(at != 0, "a data_offset that is not 0", at)?;
        let mapped = areas
            .iter()
            .any(|a| (a.offset..a.offset + a.size).contains(&at));
        let good = !mapped || at % 4096 == 0;
        require(good, "a multiple of the page size", format!("{at:#x}"))?;
    }
    Ok(())
}

fn section(subject: &Subject) -> Result<(), Fault> {
    let (_, mut migration) = subject.open_v1()?;
    if migration.mapping().is_none() {
        return Err(Fault::Absent("mapping of the data section".into()));
    }
    reach(&migration, State::RESUMING)?;
    let at = migration.data_offset()?;
    for (written, read) in [
        (Access::Mapped, Access::Trapped),
        (Access::Trapped, Access::Mapped),
    ] {
        let bytes: Vec<u8> = (0..2048u32).map(|n| (n * 7 + at as u32) as u8).collect();
        migration.set_access(written)?;
        migration.write_data(at, &bytes)?;
        migration.set_access(read)?;
        let mut found = vec![0; bytes.len()];
        migration.read_data(at, &mut found)?;
        let what = format!("the bytes written {written:?} to be read {read:?}");
        require(found == bytes, what, "others")?;
        migration.write_data(at, &vec![0; bytes.len()])?;
    }
    Ok(())
}

fn load(subject: &Subject) -> Result<(), Fault> {
    let (device, migration) = subject.open_v1()?;
    let buffers = save(&migration)?;
    device.reset()?;
    resume(&migration, &buffers)
}

fn resume_twice(subject: &Subject) -> Result<(), Fault> {
    let (device, migration) = subject.open_v1()?;
    let len = |buffers: &[Vec<u8>]| buffers.iter().map(Vec::len).sum::<usize>();
    let first = save(&migration)?;
    device.reset()?;
    resume(&migration, &first)?;
    let second = save(&migration)?;
    let what = format!("{} bytes again", len(&first));
    require(len(&first) == len(&second), what, len(&second))
}
