// SPDX-License-Identifier: GPL-2.0

//! Jobs of the device by direction and size, compared with the processor doing the same.

use std::hint::black_box;

use mdma::{job, Descriptor, Place};
use vfio_client::DmaBuffer;

use crate::clock::Clock;
use crate::device::{Engine, Opened};
use crate::error::{fail, Result};
use crate::report::{Cell, Table};

const COLUMNS: &[&str] = &[
    "job",
    "4 KiB",
    "64 KiB",
    "1 MiB",
    "16 MiB",
    "4 KiB ×",
    "64 KiB ×",
    "1 MiB ×",
    "16 MiB ×",
];

/// Sizes of jobs.
const SIZES: [u64; 4] = [4 << 10, 64 << 10, 1 << 20, 16 << 20];
const LARGEST: u64 = SIZES[SIZES.len() - 1];

/// IOVAs of guest memory: source and destination.
const GUEST: [u64; 2] = [0x1_0000_0000, 0x2_0000_0000];

/// A job of one size, and what the processor does instead.
type Row = (&'static str, fn(u64) -> Descriptor, Processor);

/// The processor's operation on a source and a destination.
type Processor = fn(&[u8], &mut [u8]);

fn guest(which: usize) -> Place {
    Place::Guest(GUEST[which])
}

fn device(which: u64) -> Place {
    Place::Device(which * LARGEST)
}

fn memcpy(from: &[u8], to: &mut [u8]) {
    to.copy_from_slice(from);
}

fn memset(_: &[u8], to: &mut [u8]) {
    to.fill(0x5a);
}

fn checksum(from: &[u8], _: &mut [u8]) {
    black_box(crc32c::crc32c(from));
}

const VALUE: u64 = 0x0123_4567_89ab_cdef;

const ROWS: [Row; 8] = [
    (
        "COPY guest → device",
        |n| job::copy(guest(0), device(0), n),
        memcpy,
    ),
    (
        "COPY device → guest",
        |n| job::copy(device(0), guest(1), n),
        memcpy,
    ),
    (
        "COPY guest → guest",
        |n| job::copy(guest(0), guest(1), n),
        memcpy,
    ),
    (
        "COPY device → device",
        |n| job::copy(device(0), device(1), n),
        memcpy,
    ),
    ("FILL guest", |n| job::fill(guest(1), VALUE, n), memset),
    ("FILL device", |n| job::fill(device(1), VALUE, n), memset),
    ("CRC32C guest", |n| job::crc32c(guest(0), n), checksum),
    ("CRC32C device", |n| job::crc32c(device(0), n), checksum),
];

/// Measures all jobs. Each row moves `moved` bytes, but at least one job.
pub(crate) fn run(clock: &Clock, kind: &str, moved: u64) -> Result<Vec<Table>> {
    let opened = Opened::new(kind)?;
    if opened.memory_size()? < 2 * LARGEST {
        fail!("the device is too small: two jobs of {LARGEST} bytes must fit");
    }
    let mut engine = Engine::new(&opened)?;
    let size = LARGEST as usize;
    // Allocate the pages of both sides before anything is measured.
    let mut guests = Vec::new();
    for iova in GUEST {
        let guest = DmaBuffer::new(&opened.container, iova, size)?;
        guest.fill(0, size, 1);
        guests.push(guest);
    }
    opened.map_memory()?.fill(0, 2 * size, 2);
    let (from, mut to) = (vec![3; size], vec![4; size]);

    let mut table = Table::new(
        "engine",
        "Jobs of the device. Costs per KiB, by size of the job, from the doorbell to the reaped \
         completion; and as a multiple of memcpy, memset or the crc32c crate on buffers of that size.",
        COLUMNS,
    );
    for (name, make, processor) in ROWS {
        let mut counts = Vec::new();
        let mut ratios = Vec::new();
        for size in SIZES {
            let times = (moved / size).max(1);
            let kib = (times * size) as f64 / 1024.0;
            let job = make(size);
            // One run for what happens only once.
            engine.run(&job, 1)?;
            let (by_device, ()) = clock.try_time(|| engine.run(&job, times))?;
            let (by_processor, ()) = clock.time(|| {
                for _ in 0..times {
                    let len = size as usize;
                    processor(black_box(&from[..len]), black_box(&mut to[..len]));
                }
            });
            counts.push(Cell::Count(by_device as f64 / kib));
            ratios.push(Cell::Ratio(by_device as f64 / by_processor as f64));
        }
        table.row([name.into()].into_iter().chain(counts).chain(ratios));
    }
    engine.close()?;
    drop(guests);
    Ok(vec![table])
}
