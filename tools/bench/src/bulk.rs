// SPDX-License-Identifier: GPL-2.0

//! Writes to guest memory: copied by IOVA, and through pages pinned for each write.
//!
//! The module parameter `pin_from_kib` selects the way, so the module is loaded once for each. A write is at most one
//! unit of a job; sizes are per write.

use std::path::Path;

use mdma::{job, Descriptor, Place};

use crate::clock::Clock;
use crate::device::at_work;
use crate::error::{fail, Result};
use crate::module;
use crate::report::{Cell, Table};

const COLUMNS: &[&str] = &["write", "bytes", "copied", "pinned", "pinned/copied"];

const SIZES: [u64; 5] = [4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10];
const LARGEST: u64 = SIZES[SIZES.len() - 1];
const GUEST: u64 = 0x1_0000_0000;

/// A write of one size.
type Row = (&'static str, fn(u64) -> Descriptor);

const ROWS: [Row; 2] = [
    ("COPY device → guest", |n| {
        job::copy(Place::Device(0), Place::Guest(GUEST), n)
    }),
    ("FILL guest", |n| {
        job::fill(Place::Guest(GUEST), 0x0123_4567_89ab_cdef, n)
    }),
];

/// Measures both ways, then loads the module with its defaults again.
pub(crate) fn run(clock: &Clock, path: Option<&Path>) -> Result<Vec<Table>> {
    let Some(path) = path else {
        fail!("the table \"bulk\" needs --module, because it loads the module with and without a parameter");
    };
    let mut ways = Vec::new();
    for params in ["", "pin_from_kib=4"] {
        module::unload()?;
        module::load(path, params)?;
        ways.push(measure(clock)?);
    }
    module::unload()?;
    module::load(path, "")?;

    let mut table = Table::new(
        "bulk",
        "Writes to guest memory, by what one of them writes: cost of one job, by IOVA and through pages \
         that are pinned for it and unpinned behind it.",
        COLUMNS,
    );
    let names = ROWS
        .iter()
        .flat_map(|(name, _)| SIZES.map(|size| (*name, size)));
    for ((name, size), (copied, pinned)) in names.zip(ways[0].iter().zip(&ways[1])) {
        table.row([
            name.into(),
            Cell::Size(size),
            Cell::Count(*copied),
            Cell::Count(*pinned),
            Cell::Ratio(pinned / copied),
        ]);
    }
    Ok(vec![table])
}

/// Measures one job of each row and size.
fn measure(clock: &Clock) -> Result<Vec<f64>> {
    let (_opened, mut engine, guest) = at_work(GUEST, LARGEST)?;
    // Full batches keep the share of the doorbell and the interrupt small.
    let times = engine.batch();
    let mut counts = Vec::new();
    for (_, make) in ROWS {
        for size in SIZES {
            let job = make(size);
            let count = clock.each(1, || engine.run(&job, times))?;
            counts.push(count / times as f64);
        }
    }
    engine.close()?;
    drop(guest);
    Ok(counts)
}
