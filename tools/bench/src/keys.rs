// SPDX-License-Identifier: GPL-2.0

//! Jobs on guest memory that is registered, beside the same jobs by IOVA and a `memcpy()` of as many bytes.

use std::hint::black_box;

use mdma::key::MAX_KEYS;
use mdma::{job, Descriptor, Place};

use crate::clock::Clock;
use crate::device::{at_work, Engine};
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
    let found = lookups(clock, &mut engine, key)?;
    engine.close()?;
    drop(guest);
    Ok(vec![table, found])
}

/// Measures a small job on a device with more and more keys.
fn lookups(clock: &Clock, engine: &mut Engine, first: u32) -> Result<Table> {
    let mut table = Table::new(
        "lookups",
        "A CRC32C of 8 bytes by key, by the number of keys that the device has: cost of one job.",
        &["keys", "the first key", "the last key"],
    );
    let (mut count, mut last) = (1, first);
    for keys in [1, 16, 256, 4096, MAX_KEYS as u64] {
        while count < keys {
            last = engine.register(GUEST, 8)?;
            count += 1;
        }
        let times = engine.batch();
        let mut each = |key| -> Result<Cell> {
            let job = job::crc32c(Place::Key { key, offset: 0 }, 8);
            let cost = clock.each(1, || engine.run(&job, times))? / times as f64;
            Ok(Cell::Count(cost))
        };
        table.row([Cell::Name(keys.to_string()), each(first)?, each(last)?]);
    }
    Ok(table)
}
