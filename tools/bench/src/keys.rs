// SPDX-License-Identifier: GPL-2.0

//! Jobs on guest memory that is registered, beside the same jobs by IOVA and a `memcpy()` of as many bytes.

use std::hint::black_box;

use mdma::{job, Descriptor, Place};

use crate::clock::Clock;
use crate::device::at_work;
use crate::error::Result;
use crate::report::{Cell, Table};

const COLUMNS: &[&str] = &[
    "job",
    "bytes",
    "by IOVA",
    "by key",
    "IOVA/key",
    "memcpy",
    "key/memcpy",
];

const SIZES: [u64; 6] = [8, 64, 512, 4 << 10, 64 << 10, 1 << 20];
const LARGEST: u64 = SIZES[SIZES.len() - 1];
const GUEST: u64 = 0x1_0000_0000;

/// A job on a place in guest memory, of one size.
type Row = (&'static str, fn(Place, u64) -> Descriptor);

const ROWS: [Row; 4] = [
    ("COPY device → guest", |place, n| {
        job::copy(Place::Device(0), place, n)
    }),
    ("COPY guest → device", |place, n| {
        job::copy(place, Place::Device(0), n)
    }),
    ("FILL guest", |place, n| {
        job::fill(place, 0x0123_4567_89ab_cdef, n)
    }),
    ("CRC32C guest", job::crc32c),
];

/// Measures the jobs both ways.
pub(crate) fn run(clock: &Clock) -> Result<Vec<Table>> {
    let mut table = Table::new(
        "keys",
        "Jobs on guest memory by IOVA, and on registered memory by key: cost of one job. memcpy: the cost of \
         a copy of as many bytes in userspace.",
        COLUMNS,
    );
    let (_opened, mut engine, guest) = at_work(GUEST, LARGEST)?;
    let key = engine.register(GUEST, LARGEST)?;
    let from = vec![1u8; LARGEST as usize];
    let mut to = vec![2u8; LARGEST as usize];
    for (name, make) in ROWS {
        for size in SIZES {
            // Full batches keep the share of the doorbell and the interrupt small.
            let times = engine.batch().min((64 << 20) / size);
            let mut each = |place| -> Result<f64> {
                let job = make(place, size);
                Ok(clock.each(1, || engine.run(&job, times))? / times as f64)
            };
            let by_iova = each(Place::Guest(GUEST))?;
            let by_key = each(Place::Key { key, offset: 0 })?;
            let copied = clock.each(times, || {
                let (from, to) = (&from[..size as usize], &mut to[..size as usize]);
                black_box(to).copy_from_slice(black_box(from));
                Ok(())
            })?;
            table.row([
                name.into(),
                Cell::Size(size),
                Cell::Count(by_iova),
                Cell::Count(by_key),
                Cell::Ratio(by_iova / by_key),
                Cell::Count(copied),
                Cell::Ratio(by_key / copied),
            ]);
        }
    }
    engine.close()?;
    drop(guest);
    Ok(vec![table])
}
