// SPDX-License-Identifier: GPL-2.0

//! Passes of pre-copy, by the number of pages changed since the last one.

use std::sync::atomic::Ordering;

use contents::Memory;
use vfio_client::v1::State;
use vfio_client::Mapping;

use crate::clock::Clock;
use crate::device::{Opened, PAGE};
use crate::error::{fail, Result};
use crate::report::{Cell, Table};
use crate::subject::Subject;

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
pub(crate) fn run(clock: &Clock, subject: &Subject) -> Result<Vec<Table>> {
    let device = Opened::new(&subject.kind)?;
    let size = subject.populate(&device.device)?;
    let mut memory = subject.place()?.open(&device.device)?;
    let pages = size / PAGE;
    let mut title = format!(
        "Passes of pre-copy over {}, through the mapping. Costs: of a write that changes a page, of \
         reading pending_bytes once before the pass, of the whole pass with its copy, and of the pass per page.",
        vfio_migrate::format::bytes(size)
    );
    if let Memory::Disk(_) = memory {
        title.push_str(" The controller writes the pages; what that costs is not measured.");
    }
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
        let changed = (pages / part).max(1);
        // Spread as far apart as possible, and adjacent.
        let stride = pages / changed;
        let count = write(clock, &mut memory, changed, stride)?;
        if part == 1 {
            row(name, changed, count)?;
        } else {
            row(&format!("{name}, scattered"), changed, count)?;
            let count = write(clock, &mut memory, changed, 1)?;
            row(&format!("{name}, in one piece"), changed, count)?;
        }
    }
    device.set_state(State::RUNNING)?;
    Ok(vec![table])
}

/// Changes pages; returns the cost of one, if the processor does it.
fn write(clock: &Clock, memory: &mut Memory, pages: u64, stride: u64) -> Result<Option<f64>> {
    let Memory::Mapped(memory) = memory else {
        for page in 0..pages {
            memory.write(page * stride * PAGE, &[page as u8 | 1; PAGE as usize])?;
        }
        return Ok(None);
    };
    let (count, ()) = clock.time(|| {
        for page in 0..pages {
            memory.store_u64((page * stride * PAGE) as usize, page, Ordering::Relaxed);
        }
    });
    Ok(Some(count as f64 / pages as f64))
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
