// SPDX-License-Identifier: GPL-2.0

//! Reading the state of a stopped device, and writing it to another one.
//!
//! Both are measured in two parts: the device's work (`staging`: it copies between its memory and the data section and
//! computes the checksum), and moving the bytes between the data section and the user's memory in each of three ways.

use vfio_client::v1::{Access, State};

use crate::clock::Clock;
use crate::device::Opened;
use crate::error::{fail, Result};
use crate::report::{Cell, Table};
use crate::subject::Subject;

const COLUMNS: &[&str] = &[
    "through",
    "measured",
    "staging/KiB",
    "copy/KiB",
    "sum/KiB",
    "sum/memcpy",
];

/// A device without memory has a short stream, which costs what it costs as a whole.
const WHOLE_COLUMNS: &[&str] = &["through", "measured", "staging", "copy", "sum"];

/// How often to save and load a device without memory. The lowest cost counts: the others include the timer interrupt.
const REPEATS: usize = 5;
/// The most bytes of stream that are not memory.
const STATE_MAX: usize = 64 << 10;

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
    fn sum(&self) -> u64 {
        self.once + self.staging + self.copy
    }

    /// Makes the row of a way, for a memory of `size` bytes whose copy costs `memcpy` per KiB.
    fn row(&self, way: &str, memcpy: f64, size: u64) -> Vec<Cell> {
        let kib = self.bytes as f64 / 1024.0;
        let staging = self.staging as f64 / kib + self.once as f64 / (size as f64 / 1024.0);
        let copy = self.copy as f64 / kib;
        let sum = staging + copy;
        vec![
            way.into(),
            Cell::Size(self.bytes),
            Cell::Count(staging),
            Cell::Count(copy),
            Cell::Count(sum),
            Cell::Ratio(sum / memcpy),
        ]
    }

    /// Makes the row of a way, for a device without memory.
    fn whole_row(&self, way: &str) -> Vec<Cell> {
        vec![
            way.into(),
            Cell::Size(self.bytes),
            Cell::Count((self.once + self.staging) as f64),
            Cell::Count(self.copy as f64),
            Cell::Count(self.sum() as f64),
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
pub(crate) fn run(clock: &Clock, subject: &Subject, words: u64) -> Result<Vec<Table>> {
    let mut source = Opened::new(&subject.kind)?;
    let size = subject.populate(&source.device)?;
    subject.set_mark(&source.device)?;

    // Allocate the memory first: the cost of first use is not the device's.
    let mut stream = Stream {
        bytes: vec![1; size as usize + (size >> 6) as usize + STATE_MAX],
        ends: Vec::new(),
    };
    let section = source.migration.mapping().map_or(0, |m| m.len());
    let name = subject.memory.map_or("", contents::Place::name);
    let table = |table, what: &str| {
        let by = format!(
            "by buffers of {}",
            vfio_migrate::format::bytes(section as u64)
        );
        match size {
            0 => Table::new(
                table,
                format!("{what} a device without memory, {by} at most. Costs of all of it."),
                WHOLE_COLUMNS,
            ),
            size => Table::new(
                table,
                format!(
                    "{what} {} of {name}, {by}. Costs per KiB of stream.",
                    vfio_migrate::format::bytes(size)
                ),
                COLUMNS,
            ),
        }
    };
    let (mut saved, mut loaded) = (table("save", "Saving"), table("load", "Loading"));
    let memcpy = match size {
        0 => 0.0,
        size => memcpy(clock, &mut stream.bytes, size),
    };
    let add = |table: &mut Table, cost: Cost, way| {
        table.row(match size {
            0 => cost.whole_row(way),
            size => cost.row(way, memcpy, size),
        });
    };
    let plain = |table: &mut Table| {
        if size == 0 {
            return;
        }
        let none = [Cell::None, Cell::Count(memcpy), Cell::Count(memcpy)];
        let cells = ["memcpy, no device".into(), Cell::Size(size)].into_iter();
        table.row(cells.chain(none).chain([Cell::Ratio(1.0)]));
    };

    for (access, way) in WAYS {
        let limit = limit(access, words);
        source.migration.set_access(access)?;
        let cost = least(size, || save(clock, &source, &mut stream, limit))?;
        add(&mut saved, cost, way);
    }
    plain(&mut saved);

    // Access by words has left only part of the stream.
    source.migration.set_access(Access::Mapped)?;
    save(clock, &source, &mut stream, u64::MAX)?;
    for (access, way) in WAYS {
        let mut destination = Opened::new(&subject.kind)?;
        destination.migration.set_access(access)?;
        let limit = limit(access, words);
        let cost = least(size, || load(clock, &destination, &stream, limit))?;
        add(&mut loaded, cost, way);
        if limit == u64::MAX {
            subject.check(&destination.device)?;
        }
    }
    plain(&mut loaded);
    Ok(vec![saved, loaded])
}

/// Measures a device with memory once, and one without several times, of which the lowest cost counts.
fn least(size: u64, mut measure: impl FnMut() -> Result<Cost>) -> Result<Cost> {
    let mut least = measure()?;
    if size == 0 {
        for _ in 1..REPEATS {
            let cost = measure()?;
            if cost.sum() < least.sum() {
                least = cost;
            }
        }
    }
    Ok(least)
}

/// Returns how many bytes of a stream to measure.
fn limit(access: Access, words: u64) -> u64 {
    match access {
        Access::TrappedWords => words,
        _ => u64::MAX,
    }
}

/// Measures the C library's copy, per KiB, of 1 MiB at a time.
pub(crate) fn memcpy(clock: &Clock, to: &mut [u8], size: u64) -> f64 {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_the_columns_of_their_table() {
        let cost = Cost {
            bytes: 2048,
            once: 100,
            staging: 20,
            copy: 3,
        };
        let texts = |cells: Vec<Cell>| -> Vec<String> {
            cells.iter().map(|cell| format!("{cell:?}")).collect()
        };
        let whole = texts(cost.whole_row("way"));
        assert_eq!(whole.len(), WHOLE_COLUMNS.len());
        assert_eq!(whole[2..], ["Count(120.0)", "Count(3.0)", "Count(123.0)"]);
        // The beginning and the end count for all of the memory, the rest for what was measured.
        let row = texts(cost.row("way", 2.0, 102_400));
        assert_eq!(row.len(), COLUMNS.len());
        assert_eq!(
            row[2..],
            ["Count(11.0)", "Count(1.5)", "Count(12.5)", "Ratio(6.25)"]
        );
    }

    #[test]
    fn without_memory_the_lowest_of_several_counts() {
        let measured = |size| {
            let mut costs = [9, 4, 7, 3, 8].map(|copy| Cost {
                copy,
                ..Cost::default()
            });
            let mut costs = costs.iter_mut();
            least(size, || Ok(*costs.next().unwrap())).unwrap().copy
        };
        assert_eq!(measured(0), 3);
        assert_eq!(measured(4096), 9);
    }
}
