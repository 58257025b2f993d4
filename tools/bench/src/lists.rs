// SPDX-License-Identifier: GPL-2.0

//! Jobs with scatter lists, by entry size.

use mdma::list::MAX_ENTRIES;
use mdma::{job, Entry, List, Operand, Place};
use vfio_client::DmaBuffer;

use crate::clock::Clock;
use crate::device::at_work;
use crate::error::Result;
use crate::report::{Cell, Table};

const COLUMNS: &[&str] = &[
    "entries of",
    "guest → device",
    "device → guest",
    "CRC32C guest",
];

/// Bytes per job.
const SIZE: u64 = 1 << 20;
/// Entry sizes; the first stands for no list.
const ENTRIES: [u64; 5] = [SIZE, 64 << 10, 4 << 10, 1 << 10, 256];
const GUEST: u64 = 0x1_0000_0000;
const LIST: u64 = 0x2_0000_0000;

/// Measures all rows.
pub(crate) fn run(clock: &Clock) -> Result<Vec<Table>> {
    let (opened, mut engine, guest) = at_work(GUEST, SIZE)?;
    let list = DmaBuffer::new(&opened.container, LIST, MAX_ENTRIES as usize * 16)?;

    let mut table = Table::new(
        "lists",
        "Jobs of 1 MiB whose guest memory is a scatter list with entries of one size, in reverse order. Costs \
         per KiB; the first row is one range and no list.",
        COLUMNS,
    );
    for size in ENTRIES {
        let count = SIZE / size;
        let side: Operand = if count == 1 {
            Place::Guest(GUEST).into()
        } else {
            for (i, at) in (0..count).rev().enumerate() {
                let entry = Entry {
                    place: Place::Guest(GUEST + at * size),
                    len: size as u32,
                };
                list.write(i * 16, &entry.encode());
            }
            List {
                base: LIST,
                entries: count as u32,
            }
            .into()
        };
        let mut per_kib = |job| -> Result<Cell> {
            let count = clock.each(1, || engine.run(&job, 4))?;
            Ok(Cell::Count(count / 4.0 / (SIZE as f64 / 1024.0)))
        };
        let device = Place::Device(0);
        table.row([
            Cell::Size(size),
            per_kib(job::copy(side, device, SIZE))?,
            per_kib(job::copy(device, side, SIZE))?,
            per_kib(job::crc32c(side, SIZE))?,
        ]);
    }
    engine.close()?;
    drop((guest, list));
    Ok(vec![table])
}
