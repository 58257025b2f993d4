// SPDX-License-Identifier: GPL-2.0

//! What the size of device memory costs: the types of a device, with as many pages in use.
//!
//! A hole costs next to nothing, so the rows hardly differ.

use contents::{types_by_size, Memory};
use vfio_client::mdev::Sysfs;
use vfio_client::v1::State;
use vfio_client::Device;

use crate::clock::Clock;
use crate::data_file::{load, save};
use crate::device::{Bare, Opened, PAGE};
use crate::error::{fail, Result};
use crate::precopy::pass;
use crate::report::{Cell, Table};
use crate::subject::Subject;

const COLUMNS: &[&str] = &[
    "type",
    "save, untouched",
    "load, untouched",
    "save, in one piece",
    "save, scattered",
    "save, zeroes",
    "load, scattered",
    "pass, scattered",
    "pass, clean",
    "pending_bytes",
];

/// Bytes in use.
const USED: u64 = 8 << 20;
/// Bytes of a call.
const CALL: usize = 1 << 20;
/// Bytes of stream that are not memory, headers included.
const REST_MAX: u64 = 1 << 20;
/// Reads of `pending_bytes` in a measurement.
const TIMES: u64 = 100;
/// How often short saves are repeated. The least cost counts: the others include the timer interrupt.
const REPEATS: usize = 3;

/// Measures all types.
pub(crate) fn run(clock: &Clock, subject: &Subject) -> Result<Vec<Table>> {
    let mut table = Table::new(
        "sizes",
        format!(
            "The types of {}, by the size of their memory, untouched or with {} in use: the whole cost of a save and a \
             load through v2 by calls of 1 MiB, of a pass of pre-copy through v1, and of a read of pending_bytes when \
             everything is dirty.",
            subject.name,
            vfio_migrate::format::bytes(USED)
        ),
        COLUMNS,
    );
    // Allocated before anything is measured.
    let mut stream = vec![1; (USED + REST_MAX) as usize];
    for kind in types_by_size(&Sysfs::default(), &subject.name)? {
        let counts = measure(clock, subject, &kind.id, &mut stream)?;
        let counts = counts.into_iter().map(Cell::Count);
        table.row([kind.id.as_str().into()].into_iter().chain(counts));
    }
    Ok(vec![table])
}

/// Measures a type.
fn measure(clock: &Clock, subject: &Subject, kind: &str, stream: &mut [u8]) -> Result<[f64; 9]> {
    let new = || Bare::new(kind, "v1");
    let (untouched, len) = least_save(clock, &new()?.device, stream)?;
    let load_untouched = least_load(clock, &new()?.device, &stream[..len])?;

    let used = |pages: Pages, byte, stream: &mut [u8]| -> Result<(f64, usize)> {
        let source = new()?;
        pages.write(subject, &source.device, byte)?;
        let (count, len) = least_save(clock, &source.device, stream)?;
        match (len as u64) < USED {
            true => fail!("{kind}: {len} bytes were saved of {USED}"),
            false => Ok((count, len)),
        }
    };
    let (zeroes, _) = used(Pages::OnePiece, 0, stream)?;
    let (one_piece, _) = used(Pages::OnePiece, 1, stream)?;
    let (scattered, len) = used(Pages::Scattered, 1, stream)?;
    let load_scattered = clock
        .try_time(|| load(&new()?.device, &stream[..len], CALL))?
        .0;

    let source = Opened::new(kind)?;
    Pages::Scattered.write(subject, &source.device, 1)?;
    source.set_state(State::PRE_COPY)?;
    let pending = clock.each(TIMES, || Ok(source.migration.pending_bytes()?))?;
    let (dirty, sent) = clock.try_time(|| pass(&source, stream))?;
    if sent < USED {
        fail!("{kind}: {sent} bytes were sent of {USED}");
    }
    let clean = clock.each(TIMES, || pass(&source, stream))?;
    source.set_state(State::RUNNING)?;
    Ok([
        untouched,
        load_untouched,
        one_piece,
        scattered,
        zeroes,
        load_scattered as f64,
        dirty as f64,
        clean,
        pending,
    ])
}

/// The least cost of a save, and its length.
fn least_save(clock: &Clock, device: &Device, stream: &mut [u8]) -> Result<(f64, usize)> {
    let mut least = u64::MAX;
    let mut len = 0;
    for _ in 0..REPEATS {
        let (count, (_, bytes)) = clock.try_time(|| save(device, stream, CALL))?;
        least = least.min(count);
        len = bytes;
    }
    Ok((least as f64, len))
}

/// The least cost of a load.
fn least_load(clock: &Clock, device: &Device, stream: &[u8]) -> Result<f64> {
    let mut least = u64::MAX;
    for _ in 0..REPEATS {
        least = least.min(clock.try_time(|| load(device, stream, CALL))?.0);
    }
    Ok(least as f64)
}

/// Where the pages in use are.
#[derive(Clone, Copy)]
enum Pages {
    /// At the beginning.
    OnePiece,
    /// All over the memory, as far from each other as possible.
    Scattered,
}

impl Pages {
    /// Writes them.
    fn write(self, subject: &Subject, device: &Device, byte: u8) -> Result<()> {
        let mut memory = subject.place()?.open(device)?;
        let used = USED / PAGE;
        let stride = match self {
            Pages::OnePiece => 1,
            Pages::Scattered => memory.size() / PAGE / used,
        };
        for page in 0..used {
            memory.write(page * stride * PAGE, &[byte; PAGE as usize])?;
        }
        Memory::close(memory)?;
        Ok(())
    }
}
