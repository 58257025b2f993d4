// SPDX-License-Identifier: GPL-2.0

//! The data file of v2: reads of the state of a stopped device and writes to another one, by their size, with and
//! without checksums of memory.

use vfio_client::v2::{DataFd, State};
use vfio_client::Device;

use crate::clock::Clock;
use crate::device::Bare;
use crate::drain::memcpy;
use crate::error::{fail, Result};
use crate::report::{Cell, Table};
use crate::subject::Subject;

const COLUMNS: &[&str] = &["calls of", "measured", "calls", "per KiB", "sum/memcpy"];

/// The sizes of the buffers. The first is too short for a record with a page.
const SIZES: [usize; 4] = [4 << 10, 64 << 10, 1 << 20, 16 << 20];

/// Bytes of stream that are not memory.
const REST_MAX: usize = 1 << 20;

/// Measures saving and loading by each size.
pub(crate) fn run(clock: &Clock, subject: &Subject) -> Result<Vec<Table>> {
    let source = Bare::new(&subject.kind, "v1")?;
    let size = subject.populate(&source.device)?;
    subject.set_mark(&source.device)?;
    let mut table = Table::new(
        "file",
        format!(
            "The data file of v2: all of a stopped device with {} of memory, by the size of the calls. The \
             user's memory is present. Costs with the changes of state, with checksums of memory and without.",
            vfio_migrate::format::bytes(size)
        ),
        COLUMNS,
    );
    // Allocated before anything is measured.
    let mut stream = vec![1; size as usize + (size >> 6) as usize + REST_MAX];
    let memcpy = memcpy(clock, &mut stream, size);
    let mut row = |direction: &str, checked, call: usize, calls: u64, bytes: usize, count: u64| {
        let per_kib = count as f64 / (bytes as f64 / 1024.0);
        table.row([
            format!(
                "{direction}{}, {}",
                if checked { "" } else { " without checksums" },
                vfio_migrate::format::bytes(call as u64)
            )
            .into(),
            Cell::Size(bytes as u64),
            Cell::Number(calls),
            Cell::Count(per_kib),
            Cell::Ratio(per_kib / memcpy),
        ]);
    };

    for checked in [true, false] {
        source.set_payload_checksums(checked)?;
        let mut len = 0;
        for call in SIZES {
            let (count, (calls, bytes)) =
                clock.try_time(|| save(&source.device, &mut stream, call))?;
            if (bytes as u64) < size {
                fail!("{bytes} bytes were saved of {size}");
            }
            row("save", checked, call, calls, bytes, count);
            len = bytes;
        }
        let stream = &stream[..len];
        for call in SIZES {
            let destination = Bare::new(&subject.kind, "v1")?;
            let (count, calls) = clock.try_time(|| load(&destination.device, stream, call))?;
            row("load", checked, call, calls, len, count);
            subject.check(&destination.device)?;
        }
    }
    Ok(vec![table])
}

/// Begins a session of v2.
fn begin(device: &Device, state: State) -> Result<DataFd> {
    let Some(migration) = device.migration_v2()? else {
        fail!("the device does not have v2");
    };
    match migration.set_state(state)? {
        Some(file) => Ok(file),
        None => fail!("{state} opened no data file"),
    }
}

/// Ends it.
fn end(device: &Device) -> Result<()> {
    if let Some(migration) = device.migration_v2()? {
        migration.set_state(State::RUNNING)?;
    }
    Ok(())
}

/// Reads all of a device. Returns the number of calls and of bytes.
pub(crate) fn save(device: &Device, stream: &mut [u8], call: usize) -> Result<(u64, usize)> {
    let file = begin(device, State::STOP_COPY)?;
    let (mut calls, mut at) = (0, 0);
    loop {
        let rest = stream.get_mut(at..).unwrap_or_default();
        let len = call.min(rest.len());
        let count = file.read(&mut rest[..len])?;
        calls += 1;
        if count == 0 {
            break;
        }
        at += count;
    }
    end(device)?;
    Ok((calls, at))
}

/// Writes all of a device. Returns the number of calls.
pub(crate) fn load(device: &Device, stream: &[u8], call: usize) -> Result<u64> {
    let file = begin(device, State::RESUMING)?;
    let (mut calls, mut at) = (0, 0);
    while at < stream.len() {
        let end = stream.len().min(at + call);
        at += file.write(&stream[at..end])?;
        calls += 1;
    }
    end(device)?;
    Ok(calls)
}
