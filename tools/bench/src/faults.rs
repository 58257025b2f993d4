// SPDX-License-Identifier: GPL-2.0

//! Cost of a guest's accesses to mapped device memory: first and later accesses to a page.

use std::hint::black_box;
use std::ops::Range;
use std::sync::atomic::Ordering;

use vfio_client::v1::State;
use vfio_client::Mapping;

use crate::clock::Clock;
use crate::device::{Opened, PAGE};
use crate::error::Result;
use crate::report::{Cell, Table};
use crate::subject::Subject;

const COLUMNS: &[&str] = &["access to a page", "no migration", "pre-copy", "after it"];

/// Measures a write to each of these pages; returns the cost of one.
fn write(clock: &Clock, memory: &Mapping, pages: Range<u64>) -> f64 {
    let count = pages.end - pages.start;
    let (took, ()) = clock.time(|| {
        for page in pages {
            memory.store_u64((page * PAGE) as usize, page, Ordering::Relaxed);
        }
    });
    took as f64 / count as f64
}

/// Measures a read from each of these pages; returns the cost of one.
fn read(clock: &Clock, memory: &Mapping, pages: Range<u64>) -> f64 {
    let count = pages.end - pages.start;
    let (took, ()) = clock.time(|| {
        for page in pages {
            black_box(memory.load_u64((page * PAGE) as usize, Ordering::Relaxed));
        }
    });
    took as f64 / count as f64
}

/// Measures pages in every situation.
pub(crate) fn run(clock: &Clock, subject: &Subject) -> Result<Vec<Table>> {
    let device = Opened::new(&subject.small)?;
    let memory = subject.map(&device.device)?;
    let write = |memory: &Mapping, pages| write(clock, memory, pages);
    let read = |pages| read(clock, &memory, pages);

    let anonymous = Mapping::anonymous(1 << 20)?;
    let anonymous_first = write(&anonymous, 0..256);
    let anonymous_again = write(&anonymous, 0..256);

    // Each situation uses different pages. While no migration runs:
    let new_written = write(&memory, 0..256);
    let new_read = read(256..512);
    let read_then_written = write(&memory, 256..512);
    let again = write(&memory, 0..512);
    let fresh = subject.map(&device.device)?;
    let fresh_written = write(&fresh, 0..512);
    drop(fresh);
    write(&memory, 512..1536);

    // During pre-copy, after everything was sent:
    device.set_state(State::PRE_COPY)?;
    let mut unsent = Vec::new();
    while device.migration.pending_bytes()? > 0 {
        device.migration.save_buffer(&mut unsent)?;
        if unsent.is_empty() {
            break;
        }
    }
    let sent_written = write(&memory, 0..512);
    let sent_again = write(&memory, 0..512);
    let sent_read = read(512..1024);
    let sent_read_written = write(&memory, 512..1024);
    let hole_written = write(&memory, 2048..2304);
    let hole_read = read(2304..2560);
    // Still read-only, to measure after the migration.
    read(1024..1536);

    device.set_state(State::RUNNING)?;
    let left_written = write(&memory, 1024..1536);
    let left_again = write(&memory, 1024..1536);
    let after_hole_written = write(&memory, 3072..3328);
    let after_hole_read = read(3328..3584);

    let mut table = Table::new(
        "faults",
        "Accesses to mapped device memory, cost of one access to each page, with the page fault if \
         there is one. \"Sent\" is a page that was sent and not written since.",
        COLUMNS,
    );
    let mut row = |name: &str, cells: [Option<f64>; 3]| {
        let cells = cells.map(|cell| cell.map_or(Cell::None, Cell::Count));
        table.row([name.into()].into_iter().chain(cells));
    };
    row(
        "anonymous memory: first write",
        [Some(anonymous_first), None, None],
    );
    row(
        "anonymous memory: second write",
        [Some(anonymous_again), None, None],
    );
    row(
        "never touched: write",
        [
            Some(new_written),
            Some(hole_written),
            Some(after_hole_written),
        ],
    );
    row(
        "never touched: read",
        [Some(new_read), Some(hole_read), Some(after_hole_read)],
    );
    row(
        "there, not mapped: write",
        [Some(fresh_written), Some(sent_written), None],
    );
    row("there, not mapped: read", [None, Some(sent_read), None]);
    row(
        "mapped by a read: write",
        [
            Some(read_then_written),
            Some(sent_read_written),
            Some(left_written),
        ],
    );
    row(
        "mapped by a write: write",
        [Some(again), Some(sent_again), Some(left_again)],
    );
    Ok(vec![table])
}
