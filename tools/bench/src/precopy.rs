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

/// How the pages lie that were changed.
#[derive(Clone, Copy, PartialEq)]
enum Layout {
    /// As far from each other as possible.
    Scattered,
    /// Side by side.
    OnePiece,
}

/// Measures the first pass and later passes.
pub(crate) fn run(clock: &Clock, subject: &Subject) -> Result<Vec<Table>> {
    let mut passes = Passes::begin(clock, subject, "passes", &subject.kind)?;
    passes.row("all: the first pass", passes.pages, None)?;
    passes.row("none", 0, None)?;
    for (name, part) in [("0.1 %", 1000), ("1 %", 100), ("10 %", 10)] {
        passes.change(&format!("{name}, scattered"), part, Layout::Scattered)?;
        passes.change(&format!("{name}, in one piece"), part, Layout::OnePiece)?;
    }
    passes.change("all", 1, Layout::OnePiece)?;
    passes.end()
}

/// Measures passes over 1 GiB: few of the pages, and all.
pub(crate) fn large(clock: &Clock, subject: &Subject) -> Result<Vec<Table>> {
    let Some(kind) = &subject.large else {
        fail!("{} has no type with 1 GiB", subject.name);
    };
    let mut passes = Passes::begin(clock, subject, "large", kind)?;
    passes.row("all: the first pass", passes.pages, None)?;
    passes.row("none", 0, None)?;
    passes.change("1 %, scattered", 100, Layout::Scattered)?;
    passes.change("all", 1, Layout::OnePiece)?;
    passes.end()
}

/// A device in pre-copy, and what its passes cost.
struct Passes<'a> {
    clock: &'a Clock,
    memory: Memory,
    device: Opened,
    pages: u64,
    buffer: Vec<u8>,
    table: Table,
}

impl<'a> Passes<'a> {
    /// Begins pre-copy with all pages in use.
    fn begin(clock: &'a Clock, subject: &Subject, name: &'static str, kind: &str) -> Result<Self> {
        let device = Opened::new(kind)?;
        let size = subject.populate(&device.device)?;
        let memory = subject.place()?.open(&device.device)?;
        let mut title = format!(
            "Passes of pre-copy over {}, through the mapping. Costs: of a write that changes a page, of \
             reading pending_bytes once before the pass, of the whole pass with its copy, and of the pass per page.",
            vfio_migrate::format::bytes(size)
        );
        if let Memory::Disk(_) = memory {
            title.push_str(" The controller writes the pages; what that costs is not measured.");
        }
        let buffer = vec![0; device.migration.mapping().map_or(1 << 20, Mapping::len)];
        device.set_state(State::PRE_COPY)?;
        Ok(Passes {
            clock,
            memory,
            device,
            pages: size / PAGE,
            buffer,
            table: Table::new(name, title, COLUMNS),
        })
    }

    /// Changes one page of `part`, and measures the pass.
    fn change(&mut self, name: &str, part: u64, layout: Layout) -> Result<()> {
        let changed = (self.pages / part).max(1);
        let stride = match layout {
            Layout::Scattered => self.pages / changed,
            Layout::OnePiece => 1,
        };
        let count = write(self.clock, &mut self.memory, changed, stride)?;
        self.row(name, changed, count)
    }

    /// Measures a pass over that many changed pages.
    fn row(&mut self, name: &str, changed: u64, write: Option<f64>) -> Result<()> {
        let (device, buffer) = (&self.device, &mut self.buffer);
        let (pending, _) = self
            .clock
            .try_time(|| Ok(device.migration.pending_bytes()?))?;
        let (count, sent) = self.clock.try_time(|| pass(device, buffer))?;
        let bytes = changed * PAGE;
        if sent < bytes {
            fail!("{name}: {sent} bytes were sent of {bytes}");
        }
        self.table.row([
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
    }

    /// Ends pre-copy, and returns the table.
    fn end(self) -> Result<Vec<Table>> {
        self.device.set_state(State::RUNNING)?;
        Ok(vec![self.table])
    }
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
pub(crate) fn pass(device: &Opened, buffer: &mut [u8]) -> Result<u64> {
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
