// SPDX-License-Identifier: GPL-2.0

//! Passes of pre-copy, by the number of pages changed since the last one.

use std::sync::atomic::Ordering;

use vfio_client::v1::State;
use vfio_client::Mapping;

use crate::clock::Clock;
use crate::device::{Opened, PAGE};
use crate::error::{fail, Result};
use crate::report::{Cell, Table};

const COLUMNS: &[&str] = &[
    "changed since the last pass",
    "pages",
    "a write",
    "pending_bytes",
    "sent",
    "sent/changed",
    "the pass",
    "per page",
];

/// Measures the first pass and later passes.
pub(crate) fn run(clock: &Clock, kind: &str) -> Result<Vec<Table>> {
    let device = Opened::new(kind)?;
    device.populate()?;
    let memory = device.map_memory()?;
    let pages = device.memory_size() / PAGE;
    let title = format!(
        "Passes of pre-copy over {}, through the mapping. Costs: of a write that changes a page, of \
         reading pending_bytes once before the pass, of the whole pass with its copy, and of the pass per page.",
        vfio_migrate::format::bytes(device.memory_size())
    );
    let mut table = Table::new("passes", title, COLUMNS);
    let mut buffer = vec![0; device.migration.mapping().map_or(1 << 20, Mapping::len)];

    device.set_state(State::PRE_COPY)?;
    let mut row = |name: &str, changed: u64, write: Option<f64>| -> Result<()> {
        let (pending, _) = clock.try_time(|| Ok(device.migration.pending_bytes()?))?;
        let (count, sent) = clock.try_time(|| pass(&device, &mut buffer))?;
        let bytes = changed * PAGE;
        if sent < bytes {
            fail!("{name}: {sent} bytes were sent of {bytes}");
        }
        table.row([
            name.into(),
            Cell::Number(changed),
            write.map_or(Cell::None, Cell::Count),
            Cell::Count(pending as f64),
            Cell::Size(sent),
            match changed {
                0 => Cell::None,
                _ => Cell::Ratio(sent as f64 / bytes as f64),
            },
            Cell::Count(count as f64),
            match changed {
                0 => Cell::None,
                _ => Cell::Count(count as f64 / changed as f64),
            },
        ]);
        Ok(())
    };
    row("all: the first pass", pages, None)?;
    row("none", 0, None)?;
    for (name, part) in [("0.1 %", 1000), ("1 %", 100), ("10 %", 10), ("all", 1)] {
        let changed = pages / part;
        // Spread as far apart as possible, and adjacent.
        let stride = pages / changed;
        let count = write(clock, &memory, changed, stride);
        if part == 1 {
            row(name, changed, Some(count))?;
        } else {
            row(&format!("{name}, scattered"), changed, Some(count))?;
            let count = write(clock, &memory, changed, 1);
            row(&format!("{name}, in one piece"), changed, Some(count))?;
        }
    }
    device.set_state(State::RUNNING)?;
    Ok(vec![table])
}

/// Changes pages; returns the cost of one.
fn write(clock: &Clock, memory: &Mapping, pages: u64, stride: u64) -> f64 {
    let (count, ()) = clock.time(|| {
        for page in 0..pages {
            memory.store_u64((page * stride * PAGE) as usize, page, Ordering::Relaxed);
        }
    });
    count as f64 / pages as f64
}

/// Saves until nothing is pending. Returns the number of bytes.
fn pass(device: &Opened, buffer: &mut [u8]) -> Result<u64> {
    let migration = &device.migration;
    let mut sent = 0;
    while migration.pending_bytes()? > 0 {
        let at = migration.data_offset()?;
        let len = migration.data_size()?;
        if len == 0 {
            break;
        }
        let Some(out) = buffer.get_mut(..len as usize) else {
            fail!("a buffer of {len} bytes is larger than the data section");
        };
        migration.read_data(at, out)?;
        sent += len;
    }
    Ok(sent)
}
