// SPDX-License-Identifier: GPL-2.0

//! Cost of one job, and of one access to guest memory.
//!
//! A job that reads guest memory and one that reads as much device memory differ only in `vfio_dma_rw()` replacing a
//! copy. A NOP touches only its descriptor and its completion record, which are pinned, so its cost includes all
//! accesses to pinned memory that any job makes.

use mdma::{job, Place};

use crate::clock::Clock;
use crate::device::at_work;
use crate::error::Result;
use crate::report::{Cell, Table};

const COLUMNS: &[&str] = &[
    "bytes",
    "CRC32C guest",
    "CRC32C device",
    "COPY guest → device",
    "COPY device → guest",
];

const SIZES: [u64; 6] = [8, 64, 512, 4096, 16 << 10, 64 << 10];
const GUEST: u64 = 0x1_0000_0000;
const LARGEST: u64 = SIZES[SIZES.len() - 1];

/// Measures jobs of at most one unit.
pub(crate) fn run(clock: &Clock) -> Result<Vec<Table>> {
    let (_opened, mut engine, guest) = at_work(GUEST, LARGEST)?;

    // Full batches keep the share of the doorbell and the interrupt small.
    let times = engine.batch();
    let mut each = |job| -> Result<f64> {
        let job = &job;
        Ok(clock.each(1, || engine.run(job, times))? / times as f64)
    };
    let (from, to) = (Place::Guest(GUEST), Place::Device(0));
    let nop = each(job::nop())?;
    let title = format!(
        "One job of a batch of {times}, in costs beyond those of a NOP. A NOP, with its share of doorbell and \
         interrupt and the userspace driver's part, costs {:.1}.",
        nop / clock.unit
    );
    let mut table = Table::new("small", title, COLUMNS);
    for size in SIZES {
        let mut more = |job| -> Result<Cell> { Ok(Cell::Count(each(job)? - nop)) };
        table.row([
            Cell::Name(size.to_string()),
            more(job::crc32c(from, size))?,
            more(job::crc32c(to, size))?,
            more(job::copy(from, to, size))?,
            more(job::copy(to, from, size))?,
        ]);
    }
    engine.close()?;
    drop(guest);
    Ok(vec![table])
}
