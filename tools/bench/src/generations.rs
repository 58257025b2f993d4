// SPDX-License-Identifier: GPL-2.0

//! The four generations of the migration interface: what saving, loading and dirty pages cost in each.

use std::fs;

use mdma::{job, Place};
use vfio_client::{v2018, v7, Container, Device, DirtyBitmap, DmaBuffer};
use vfio_migrate::{Destination, Protocol, Source};

use crate::clock::Clock;
use crate::device::{Bare, Engine, PAGE, SMALL};
use crate::error::{fail, Result};
use crate::report::{Cell, Table};
use crate::subject::Subject;

const COLUMNS: &[&str] = &[
    "generation",
    "calls per MiB saved",
    "save of a MiB",
    "calls per MiB loaded",
    "load of a MiB",
];

/// Without memory, a save is too small to be measured by the MiB.
const WHOLE_COLUMNS: &[&str] = &[
    "generation",
    "calls per save",
    "a save",
    "calls per load",
    "a load",
];

const DIRTY_COLUMNS: &[&str] = &[
    "generation",
    "dirty pages",
    "calls",
    "the report",
    "per dirty page",
];

/// Name, `migration_abi`, protocol.
const GENERATIONS: [(&str, &str, Protocol); 4] = [
    ("2018", "2018", Protocol::V2018),
    ("v7", "v7", Protocol::V7),
    ("v1", "v1", Protocol::V1),
    ("v2", "v1", Protocol::V2),
];

/// Guest memory of the reports.
const GUEST: u64 = 0x1_0000_0000;
const SIZE: u64 = 64 << 20;

/// The dirty pages of each report.
const DIRTY: [u64; 4] = [0, 1, 100, SIZE / PAGE];

/// Measures saving and loading in all generations.
pub(crate) fn run(clock: &Clock, subject: &Subject) -> Result<Vec<Table>> {
    let mut rows = Vec::new();
    let mut size = 0;
    for (name, abi, protocol) in GENERATIONS {
        let (memory, row) = row(clock, subject, name, abi, protocol)?;
        size = memory;
        rows.push(row);
    }
    let (title, columns) = match size {
        0 => (
            "The generations of the interface: system calls and cost of all of the state of a stopped device, through \
             the mapping if there is one. v2 includes the first use of buffers of 1 MiB."
                .into(),
            WHOLE_COLUMNS,
        ),
        size => (
            format!(
                "The generations of the interface: system calls and cost of a MiB of a stopped device of {}, through \
                 the mapping if there is one.",
                vfio_migrate::format::bytes(size)
            ),
            COLUMNS,
        ),
    };
    let mut moved = Table::new("generations", title, columns);
    rows.into_iter().for_each(|row| moved.row(row));
    Ok(vec![moved])
}

/// Measures reports of dirty pages in all generations.
pub(crate) fn reports(clock: &Clock) -> Result<Vec<Table>> {
    let mut dirty = Table::new(
        "reports",
        "Reports of the dirty pages of 64 MiB of guest memory, written by the device, one every few pages: system \
         calls and cost. v1 and v2 ask type1.",
        DIRTY_COLUMNS,
    );
    for (name, abi, protocol) in GENERATIONS {
        for pages in DIRTY {
            dirty.row(report(clock, name, abi, protocol, pages)?);
        }
    }
    Ok(vec![dirty])
}

/// Returns the calls of `read()` and `write()` and the like so far; `None` if the kernel does not count them.
fn calls() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/io").ok()?;
    let field = |name| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse::<u64>().ok()
    };
    Some(field("syscr:")? + field("syscw:")?)
}

/// Returns the calls that `f` makes, its cost and its result.
fn counted<T>(clock: &Clock, f: impl FnOnce() -> Result<T>) -> Result<(Option<u64>, u64, T)> {
    // Counting makes calls itself.
    let (zero, start) = (calls(), calls());
    let (count, result) = clock.try_time(f)?;
    let end = calls();
    let made = match (zero, start, end) {
        (Some(zero), Some(start), Some(end)) => Some((end - start).saturating_sub(start - zero)),
        _ => None,
    };
    Ok((made, count, result))
}

/// Returns the size of the device's memory, and a row.
fn row(
    clock: &Clock,
    subject: &Subject,
    name: &str,
    abi: &str,
    protocol: Protocol,
) -> Result<(u64, Vec<Cell>)> {
    let new = || Bare::new(&subject.small, abi);
    let (from, to) = (new()?, new()?);
    let size = subject.populate(&from.device)?;
    subject.set_mark(&from.device)?;
    let mut source = Source::new(&from.device, protocol, None)?;
    source.stop_and_copy()?;
    let (save_calls, save, buffers) = counted(clock, || {
        let mut buffers = Vec::new();
        let mut buffer = Vec::new();
        while source.next(&mut buffer)? {
            buffers.push(std::mem::take(&mut buffer));
        }
        Ok(buffers)
    })?;
    source.end()?;
    let bytes: usize = buffers.iter().map(Vec::len).sum();
    if bytes == 0 || (bytes as u64) < size {
        fail!("{name}: {bytes} bytes were saved of {size}");
    }
    let unit = match size {
        0 => 1.0,
        _ => bytes as f64 / f64::from(1 << 20),
    };

    let mut destination = Destination::new(&to.device, protocol, None)?;
    destination.resume()?;
    let (load_calls, load, ()) = counted(clock, || {
        for buffer in &buffers {
            destination.load(buffer)?;
        }
        Ok(())
    })?;
    destination.finish()?;
    destination.run()?;
    subject.check(&to.device)?;
    let calls = |calls: Option<u64>| calls.map_or(Cell::None, |n| Cell::Ratio(n as f64 / unit));
    let cells = vec![
        name.into(),
        calls(save_calls),
        Cell::Count(save as f64 / unit),
        calls(load_calls),
        Cell::Count(load as f64 / unit),
    ];
    Ok((size, cells))
}

/// How a generation reports dirty pages.
enum Reports {
    Type1(Container),
    V7(v7::Migration),
    V2018(v2018::Migration),
}

impl Reports {
    /// Begins to track.
    fn begin(device: &Device, container: &Container, protocol: Protocol) -> Result<Self> {
        match protocol {
            Protocol::V7 => {
                let Some(migration) = device.migration_v7()? else {
                    fail!("the device has no region of v7");
                };
                migration.set_state(vfio_client::v1::State::PRE_COPY)?;
                Ok(Reports::V7(migration))
            }
            Protocol::V2018 => {
                let Some(migration) = device.migration_2018()? else {
                    fail!("the device has no region of 2018");
                };
                migration.set_state(v2018::State::SETUP)?;
                migration.set_state(v2018::State::PRECOPY)?;
                Ok(Reports::V2018(migration))
            }
            _ => {
                container.dirty_start()?;
                Ok(Reports::Type1(container.clone()))
            }
        }
    }

    fn report(&self) -> Result<DirtyBitmap> {
        Ok(match self {
            Reports::Type1(container) => container.dirty_bitmap(GUEST, SIZE)?,
            Reports::V7(migration) => migration.dirty_bitmap(GUEST, SIZE, PAGE)?,
            Reports::V2018(migration) => migration.dirty_bitmap(GUEST, SIZE)?,
        })
    }

    /// The calls of a report that the kernel does not count: ioctls.
    fn ioctls(&self) -> u64 {
        u64::from(matches!(self, Reports::Type1(_)))
    }
}

fn report(
    clock: &Clock,
    name: &str,
    abi: &str,
    protocol: Protocol,
    pages: u64,
) -> Result<Vec<Cell>> {
    let bare = Bare::new(SMALL, abi)?;
    let guest = DmaBuffer::new(&bare.container, GUEST, SIZE as usize)?;
    guest.fill(0, SIZE as usize, 1);
    let mut engine = Engine::of(&bare.device, &bare.container)?;
    let reports = Reports::begin(&bare.device, &bare.container, protocol)?;
    reports.report()?;
    let stride = SIZE / PAGE / pages.max(1);
    for page in 0..pages {
        let at = GUEST + page * stride * PAGE;
        engine.run(&job::fill(Place::Guest(at), 7, 8), 1)?;
    }
    let (made, count, bitmap) = counted(clock, || reports.report())?;
    if bitmap.count() != pages {
        fail!(
            "{name}: {} of {pages} dirty pages were reported",
            bitmap.count()
        );
    }
    engine.close()?;
    Ok(vec![
        name.into(),
        Cell::Number(pages),
        made.map_or(Cell::None, |n| Cell::Number(n + reports.ioctls())),
        Cell::Count(count as f64),
        match pages {
            0 => Cell::None,
            _ => Cell::Count(count as f64 / pages as f64),
        },
    ])
}
