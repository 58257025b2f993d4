// SPDX-License-Identifier: GPL-2.0

//! Checks of the data descriptor. The stream is opaque.

use std::io;

use vfio_client::v2::{DataFd, Migration, State};
use vfio_client::{errno, raw};

use crate::check::Check;
use crate::fault::{require, require_errno, require_invalid, Fault};
use crate::subject::{data_fd, restart, save, Subject};

pub(crate) const CHECKS: &[Check] = &[
    Check::changes(
        "stream.load",
        "enum vfio_device_mig_state",
        "A device loads what it saved.",
        load,
    ),
    Check::changes(
        "stream.end",
        "VFIO_MIG_GET_PRECOPY_INFO",
        "At the end of the stream in STOP_COPY each read returns 0.",
        end,
    ),
    Check::changes(
        "stream.truncated",
        "enum vfio_device_mig_state",
        "RESUMING to STOP fails if data is missing, and the state is RESUMING or ERROR.",
        truncated,
    ),
    Check::changes(
        "stream.refused",
        "enum vfio_device_mig_state",
        "RESUMING to STOP fails if the device refused the data that was written.",
        refused,
    ),
    Check::changes(
        "stream.closed",
        "struct vfio_device_feature_mig_state",
        "A data_fd of a session that ended gives no data.",
        closed,
    ),
    Check::changes(
        "precopy.end",
        "VFIO_MIG_GET_PRECOPY_INFO",
        "A read at the temporary end of the stream in PRE_COPY is ENOMSG.",
        precopy_end,
    ),
    Check::changes(
        "precopy.info",
        "VFIO_MIG_GET_PRECOPY_INFO",
        "An ``argsz`` below the structure is EINVAL; so is a call outside of the PRE_COPY states.",
        precopy_info,
    ),
];

/// Writes a stream in RESUMING, then goes to STOP. Returns both results.
fn resume(
    migration: &Migration,
    stream: &[u8],
) -> Result<(vfio_client::Result<()>, vfio_client::Result<()>), Fault> {
    migration.set_state(State::STOP)?;
    let file = data_fd(migration, State::RESUMING)?;
    let written = file.write_all(stream);
    let stopped = migration.set_state(State::STOP).map(drop);
    Ok((written, stopped))
}

fn load(subject: &Subject) -> Result<(), Fault> {
    let (_, migration) = subject.open_v2()?;
    let stream = save(&migration)?;
    require(!stream.is_empty(), "a stream of at least one byte", "none")?;
    let (written, stopped) = resume(&migration, &stream)?;
    let seen = format!("write {written:?}, to STOP {stopped:?}");
    require(written.is_ok() && stopped.is_ok(), "a load", seen)?;
    migration.set_state(State::RUNNING)?;
    Ok(())
}

fn end(subject: &Subject) -> Result<(), Fault> {
    let (_, migration) = subject.open_v2()?;
    let file = data_fd(&migration, State::STOP_COPY)?;
    file.read_available(&mut Vec::new())?;
    for _ in 0..3 {
        let read = file.read(&mut [0; 16]);
        require(matches!(read, Ok(0)), "0 at the end", format!("{read:?}"))?;
    }
    Ok(())
}

fn truncated(subject: &Subject) -> Result<(), Fault> {
    let (device, migration) = subject.open_v2()?;
    let stream = save(&migration)?;
    for len in [0, 1, stream.len() / 2, stream.len() - 1] {
        restart(&device, &migration)?;
        let (_, stopped) = resume(&migration, &stream[..len])?;
        let what = format!("to STOP to fail after {len} of {} bytes", stream.len());
        require(stopped.is_err(), what, "success")?;
        let state = migration.state()?;
        let good = state == State::RESUMING || state == State::ERROR;
        require(good, "RESUMING or ERROR after the failure", state)?;
    }
    Ok(())
}

fn refused(subject: &Subject) -> Result<(), Fault> {
    let (device, migration) = subject.open_v2()?;
    let stream = save(&migration)?;
    let mut refusals = 0;
    for at in 0..stream.len().min(64) {
        restart(&device, &migration)?;
        let mut changed = stream.clone();
        changed[at] ^= 0xff;
        let (written, stopped) = resume(&migration, &changed)?;
        if let Err(e) = written {
            refusals += 1;
            let what = format!("to STOP to fail, since byte {at} was refused ({e})");
            require(stopped.is_err(), what, "success")?;
        } else if stopped.is_err() {
            refusals += 1;
        }
    }
    let what = "a refusal of a stream with one of its first bytes inverted";
    require(refusals > 0, what, "no refusal")
}

fn closed(subject: &Subject) -> Result<(), Fault> {
    let (_, migration) = subject.open_v2()?;
    let file = data_fd(&migration, State::STOP_COPY)?;
    migration.set_state(State::RUNNING)?;
    let read = file.read(&mut [0; 16]);
    let what = "no byte from the data_fd after STOP_COPY ended";
    require(!matches!(read, Ok(1..)), what, format!("{read:?}"))
}

/// Opens the data descriptor of a pre-copy.
fn pre_copy(migration: &Migration) -> Result<DataFd, Fault> {
    if !migration.has_pre_copy() {
        return Err(Fault::Absent("VFIO_MIGRATION_PRE_COPY".into()));
    }
    data_fd(migration, State::PRE_COPY)
}

fn precopy_end(subject: &Subject) -> Result<(), Fault> {
    let (_, migration) = subject.open_v2()?;
    let file = pre_copy(&migration)?;
    // A running device may have new data at any time, an idle one ends soon.
    let mut last: io::Result<usize> = Ok(0);
    for _ in 0..1 << 16 {
        last = file.read(&mut [0; 1 << 16]);
        if !matches!(last, Ok(1..)) {
            break;
        }
    }
    let info = file.precopy_info()?;
    if info.initial_bytes != 0 || info.dirty_bytes != 0 {
        return Err(Fault::Absent(format!("temporary end: {info:?}")));
    }
    require_errno("read at the temporary end", errno::ENOMSG, last)
}

fn precopy_info(subject: &Subject) -> Result<(), Fault> {
    let (_, migration) = subject.open_v2()?;
    let file = pre_copy(&migration)?;
    let call = |argsz: u32| {
        let mut arg = [0; 24];
        arg[0..4].copy_from_slice(&argsz.to_ne_bytes());
        file.raw_ioctl(raw::nr(21), &mut arg)
    };
    for argsz in [0, 8, 23] {
        require_invalid(&format!("the call of argsz {argsz}"), call(argsz))?;
    }
    require(call(24).is_ok(), "success of argsz 24", "an error")?;
    migration.set_state(State::STOP_COPY)?;
    require_invalid("the call in STOP_COPY", call(24))
}
