// SPDX-License-Identifier: GPL-2.0

//! Reading the state of a stopped device, and writing it to another one.
//!
//! Both are measured in two parts: the device's work (`staging`: it copies between its memory and the data section and
//! computes the checksum), and moving the bytes between the data section and the user's memory in each of three ways.

use vfio_client::v1::{Access, State};

use crate::clock::Clock;
use crate::device::{Opened, PAGE};
use crate::error::{fail, Result};
use crate::report::{Cell, Table};

const COLUMNS: &[&str] = &[
    "through",
    "measured",
    "staging/KiB",
    "copy/KiB",
    "sum/KiB",
    "sum/memcpy",
];

const WAYS: [(Access, &str); 3] = [
    (Access::Mapped, "the mapping"),
    (Access::Trapped, "one call a buffer"),
    (Access::TrappedWords, "8 bytes a call"),
];

/// Results of one way.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    bytes: u64,
    /// Cost of beginning and ending, for all of device memory.
    once: u64,
    staging: u64,
    copy: u64,
}

impl Cost {
    /// Makes the row of a way, for `size` bytes of device memory.
    fn row(&self, way: &str, memcpy: f64, size: u64) -> [Cell; 6] {
        let kib = self.bytes as f64 / 1024.0;
        let staging = self.staging as f64 / kib + self.once as f64 / (size as f64 / 1024.0);
        let copy = self.copy as f64 / kib;
        let sum = staging + copy;
        [
            way.into(),
            Cell::Size(self.bytes),
            Cell::Count(staging),
            Cell::Count(copy),
            Cell::Count(sum),
            Cell::Ratio(sum / memcpy),
        ]
    }
}

/// Buffers of a stream, in order.
#[derive(Debug, Default)]
struct Stream {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Stream {
    fn buffers(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts
            .zip(&self.ends)
            .map(|(start, end)| &self.bytes[start..*end])
    }
}

/// Measures a save and a load.
pub(crate) fn run(clock: &Clock, kind: &str, words: u64) -> Result<Vec<Table>> {
    let mut source = Opened::new(kind)?;
    source.populate()?;
    let size = source.memory_size();

    // Allocate the memory first: the cost of first use is not the device's.
    let mut stream = Stream {
        bytes: vec![1; size as usize + (size >> 6) as usize],
        ends: Vec::new(),
    };
    let memcpy = memcpy(clock, &mut stream.bytes, size);

    let title = |what: &str, section: usize| {
        format!(
            "{what} {} of device memory, by buffers of {}. Costs per KiB of stream.",
            vfio_migrate::format::bytes(size),
            vfio_migrate::format::bytes(section as u64)
        )
    };
    let section = source.migration.mapping().map_or(0, |m| m.len());
    let mut saved = Table::new("save", title("Saving", section), COLUMNS);
    let mut loaded = Table::new("load", title("Loading", section), COLUMNS);
    let plain = |table: &mut Table| {
        let none = [Cell::None, Cell::Count(memcpy), Cell::Count(memcpy)];
        let cells = ["memcpy, no device".into(), Cell::Size(size)].into_iter();
        table.row(cells.chain(none).chain([Cell::Ratio(1.0)]));
    };

    for (access, way) in WAYS {
        let limit = limit(access, words);
        source.migration.set_access(access)?;
        let cost = save(clock, &source, &mut stream, limit)?;
        saved.row(cost.row(way, memcpy, size));
    }
    plain(&mut saved);

    // Access by words has left only part of the stream.
    source.migration.set_access(Access::Mapped)?;
    save(clock, &source, &mut stream, u64::MAX)?;
    for (access, way) in WAYS {
        let mut destination = Opened::new(kind)?;
        destination.migration.set_access(access)?;
        let limit = limit(access, words);
        let cost = load(clock, &destination, &stream, limit)?;
        loaded.row(cost.row(way, memcpy, size));
        if limit == u64::MAX {
            compare(&source, &destination)?;
        }
    }
    plain(&mut loaded);
    Ok(vec![saved, loaded])
}

/// Returns how many bytes of a stream to measure.
fn limit(access: Access, words: u64) -> u64 {
    match access {
        Access::TrappedWords => words,
        _ => u64::MAX,
    }
}

/// Measures the C library's copy, per KiB, of 1 MiB at a time.
fn memcpy(clock: &Clock, to: &mut [u8], size: u64) -> f64 {
    let from = vec![2; 1 << 20];
    let (count, ()) = clock.time(|| {
        for to in to[..size as usize].chunks_mut(from.len()) {
            to.copy_from_slice(&from[..to.len()]);
        }
    });
    count as f64 / (size as f64 / 1024.0)
}

/// Saves about `limit` bytes at most.
fn save(clock: &Clock, source: &Opened, stream: &mut Stream, limit: u64) -> Result<Cost> {
    let migration = &source.migration;
    let mut cost = Cost::default();
    stream.ends.clear();

    cost.once += clock.try_time(|| source.set_state(State::STOP_AND_COPY))?.0;
    while cost.bytes < limit {
        let (count, (pending, at, len)) = clock.try_time(|| {
            let pending = migration.pending_bytes()?;
            match pending {
                0 => Ok((0, 0, 0)),
                _ => Ok((pending, migration.data_offset()?, migration.data_size()?)),
            }
        })?;
        cost.staging += count;
        if pending == 0 || len == 0 {
            break;
        }
        let start = cost.bytes as usize;
        let end = start + len as usize;
        let Some(out) = stream.bytes.get_mut(start..end) else {
            fail!("the stream is larger than expected");
        };
        cost.copy += clock.try_time(|| Ok(migration.read_data(at, out)?))?.0;
        cost.bytes += len;
        stream.ends.push(end);
    }
    cost.once += clock.try_time(|| source.set_state(State::RUNNING))?.0;
    Ok(cost)
}

/// Loads about `limit` bytes at most, and resets a device that has not loaded everything.
fn load(clock: &Clock, destination: &Opened, stream: &Stream, limit: u64) -> Result<Cost> {
    let migration = &destination.migration;
    let mut cost = Cost::default();

    cost.once += clock.try_time(|| destination.set_state(State::RESUMING))?.0;
    for buffer in stream.buffers() {
        if cost.bytes >= limit {
            destination.device.reset()?;
            return Ok(cost);
        }
        let (count, at) = clock.try_time(|| Ok(migration.data_offset()?))?;
        cost.staging += count;
        cost.copy += clock.try_time(|| Ok(migration.write_data(at, buffer)?))?.0;
        let size = buffer.len() as u64;
        cost.staging += clock.try_time(|| Ok(migration.write_data_size(size)?))?.0;
        cost.bytes += size;
    }
    cost.once += clock.try_time(|| destination.set_state(State::RUNNING))?.0;
    Ok(cost)
}

/// Checks that the measured transfer worked.
fn compare(source: &Opened, destination: &Opened) -> Result<()> {
    let (from, to) = (source.map_memory()?, destination.map_memory()?);
    let (mut want, mut found) = ([0; PAGE as usize], [0; PAGE as usize]);
    for at in (0..from.len()).step_by(PAGE as usize) {
        from.read(at, &mut want);
        to.read(at, &mut found);
        if want != found {
            fail!("device memory at {at:#x} did not arrive");
        }
    }
    Ok(())
}
