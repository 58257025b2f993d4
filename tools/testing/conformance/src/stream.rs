// SPDX-License-Identifier: GPL-2.0

//! Checks of the data descriptor. The stream is opaque.

use std::io;
use std::time::Duration;

use kernel_utils::Kmsg;
use vfio_client::v2::{DataFd, Migration, State};
use vfio_client::{errno, raw};

use crate::check::{Check, Line};
use crate::fault::{require, require_errno, require_invalid, Fault};
use crate::subject::{data_fd, restart, save, Subject};

pub(crate) const CHECKS: &[Check] = &[
    Check::changes(
        "stream.load",
        Line::vfio("enum vfio_device_mig_state", "The data stream fed into the data_fd should be taken from the data transfer output of a single FD"),
        "A device loads what it saved.",
        load,
    ),
    Check::changes(
        "stream.end",
        Line::vfio("VFIO_MIG_GET_PRECOPY_INFO", "signaled in the usual way by read() always returning 0 and poll always returning readable."),
        "At the end of the stream in STOP_COPY each read returns 0, and poll returns readable.",
        end,
    ),
    Check::changes(
        "stream.truncated",
        Line::vfio("enum vfio_device_mig_state", "found to be incomplete, inconsistent, or otherwise invalid, the migration driver must fail the SET_STATE ioctl"),
        "RESUMING to STOP fails if data is missing, and the state is RESUMING or ERROR.",
        truncated,
    ),
    Check::changes(
        "stream.refused",
        Line::vfio("enum vfio_device_mig_state", "found to be incomplete, inconsistent, or otherwise invalid, the migration driver must fail the SET_STATE ioctl"),
        "RESUMING to STOP fails if the device refused the data that was written.",
        refused,
    ),
    Check::changes(
        "stream.closed",
        Line::vfio("enum vfio_device_mig_state", "The STOP_COPY arc will terminate a data transfer session."),
        "A data_fd of a session that ended gives no data.",
        closed,
    ),
    Check::changes(
        "stream.segments",
        Line::vfio("VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE", "The user is not required to preserve buffer segmentation when writing"),
        "A device loads its stream in writes of other sizes than the reads of the save.",
        segments,
    ),
    Check::changes(
        "stream.mutated",
        Line::vfio("enum vfio_device_mig_state", "must not result in error conditions outside the user context (ex. host system faults)."),
        "A stream with one changed byte is refused, or leaves a device whose registers can be read. The kernel reports \
         no fault.",
        mutated,
    ),
    Check::changes(
        "reset.error",
        Line::vfio("enum vfio_device_mig_state", "To recover from ERROR VFIO_DEVICE_RESET must be used"),
        "After a stream that was refused, a reset leads to RUNNING, and the device migrates again.",
        recover,
    ),
    Check::changes(
        "precopy.initial",
        Line::vfio("VFIO_MIG_GET_PRECOPY_INFO", "This field should have a non-zero initial value and decrease as migration data is read"),
        "``initial_bytes`` is not 0 at the start of PRE_COPY, and less after a read.",
        precopy_initial,
    ),
    Check::changes(
        "precopy.end",
        Line::vfio("VFIO_MIG_GET_PRECOPY_INFO", "When read() is done on this temporary end of stream the kernel driver should return ENOMSG from read()."),
        "A read at the temporary end of the stream in PRE_COPY is ENOMSG.",
        precopy_end,
    ),
    Check::changes(
        "precopy.info",
        Line::vfio("VFIO_MIG_GET_PRECOPY_INFO", "This ioctl is valid only in PRE_COPY states and kernel driver should return -EINVAL"),
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
    let readable = file
        .wait_readable(Duration::from_secs(60))
        .map_err(|e| vfio_client::Error::new("poll of the data_fd", e))?;
    require(readable, "a readable data_fd at the end", "poll that waits")
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

fn segments(subject: &Subject) -> Result<(), Fault> {
    let (device, migration) = subject.open_v2()?;
    let stream = save(&migration)?;
    for (head, rest) in [(1, 1 << 16), (7, 4099)] {
        restart(&device, &migration)?;
        migration.set_state(State::STOP)?;
        let file = data_fd(&migration, State::RESUMING)?;
        // Only the start in small pieces: a stream can have gigabytes.
        let (first, last) = stream.split_at(stream.len().min(4096));
        for piece in first.chunks(head).chain(last.chunks(rest)) {
            let written = file.write_all(piece);
            let what = format!("a write of {} bytes", piece.len());
            require(written.is_ok(), what, format!("{written:?}"))?;
        }
        let stopped = migration.set_state(State::STOP).map(drop);
        let what = format!("a load of pieces of {head} bytes");
        require(stopped.is_ok(), what, format!("{stopped:?}"))?;
    }
    Ok(())
}

/// How many bytes at the start of a stream are changed, one at a time.
const MUTATIONS: usize = 256;

fn mutated(subject: &Subject) -> Result<(), Fault> {
    let (device, migration) = subject.open_v2()?;
    let log = Kmsg::open().map_err(|e| vfio_client::Error::new("/dev/kmsg", e))?;
    let start = log.mark();
    let stream = save(&migration)?;
    for at in 0..stream.len().min(MUTATIONS) {
        restart(&device, &migration)?;
        let mut changed = stream.clone();
        changed[at] ^= 0xff;
        let (_, stopped) = resume(&migration, &changed)?;
        if stopped.is_ok() {
            migration.set_state(State::RUNNING)?;
            for region in device.regions()?.iter().filter(|r| r.info().readable()) {
                // It may fail. What counts is that the kernel survives.
                let _ = region.pread(0, &mut [0; 1]);
                let _ = region.pread(0, &mut [0; 4]);
            }
            drop(save(&migration));
        }
        let trouble = log.since(start).into_iter().find(|line| line.is_trouble());
        if let Some(line) = trouble {
            let what = format!("no report of the kernel after a change of byte {at}");
            restart(&device, &migration)?;
            return require(false, what, line.text);
        }
    }
    restart(&device, &migration)?;
    Ok(())
}

fn recover(subject: &Subject) -> Result<(), Fault> {
    let (device, migration) = subject.open_v2()?;
    let stream = save(&migration)?;
    for len in [0, stream.len() / 2] {
        let (_, stopped) = resume(&migration, &stream[..len])?;
        require(stopped.is_err(), "a refusal of half of a stream", "success")?;
        device.reset()?;
        let state = migration.state()?;
        require(state == State::RUNNING, "RUNNING after a reset", state)?;
        let (written, stopped) = resume(&migration, &stream)?;
        let seen = format!("write {written:?}, to STOP {stopped:?}");
        let good = written.is_ok() && stopped.is_ok();
        require(good, "a load after the reset", seen)?;
    }
    Ok(())
}

fn precopy_initial(subject: &Subject) -> Result<(), Fault> {
    let (_, migration) = subject.open_v2()?;
    let file = pre_copy(&migration)?;
    let before = file.precopy_info()?;
    let seen = format!("{before:?}");
    require(before.initial_bytes > 0, "initial_bytes above 0", seen)?;
    let read = file.read(&mut [0; 1]);
    require(matches!(read, Ok(1)), "a byte", format!("{read:?}"))?;
    let after = file.precopy_info()?;
    let less = after.initial_bytes < before.initial_bytes;
    let what = format!("initial_bytes below {}", before.initial_bytes);
    require(less, what, format!("{after:?}"))
}
