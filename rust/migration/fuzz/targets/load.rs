// SPDX-License-Identifier: GPL-2.0

//! Streams into a load, cut anywhere, against a reader written from the text alone.
//!
//! An input is a byte that says how the rest is cut, and the stream. Half of the mutations are those of bytes; the other
//! half change a record and make everything around it right again, so that what is behind the checksums is reached.

#![no_main]
#![forbid(unsafe_code)]

#[path = "../../tests/protocol/device.rs"]
#[allow(dead_code, reason = "the tests need more of it")]
mod device;
mod oracle;

use device::{identity, Device};
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use migration::load::LoadSession;
use migration::stream::{Changes, Error, Part, PartTable};

const PAGES: u64 = 40;

/// The parts of the device. The stream to begin with has one more, which is optional.
const PARTS: [Part; 2] = [part(3), part(9)];

const fn part(number: u32) -> Part {
    Part {
        number,
        optional: number == 5,
        pre_copy: number == 9,
        size_max: 20,
    }
}

fn table(parts: &'static [Part]) -> PartTable {
    PartTable::new(parts, device::PAGE as u32).expect("a table")
}

fn target() -> Device {
    let target = Device::new(PAGES);
    target.table.set(table(&PARTS));
    target
}

fuzz_target!(|input: &[u8]| {
    let Some((how, stream)) = input.split_first() else {
        return;
    };
    let target = target();
    let result = load(&target, stream, usize::from(*how));
    let expected = oracle::read(&identity(PAGES), &PARTS, stream);
    match (&result, expected) {
        (Ok(()), Some(expected)) => {
            assert!(target.memory() == expected.memory, "memory differs");
            assert!(*target.state.borrow() == expected.state, "state differs");
            assert!(*target.parts.borrow() == expected.parts, "parts differ");
            assert_eq!(target.committed.get(), 1);
        }
        (Err(error), None) => {
            assert!(error.errno() > 0 && !error.to_string().is_empty());
            assert_eq!(target.committed.get(), 0);
        }
        (Ok(()), None) => panic!("a stream was accepted that is not one"),
        (Err(error), Some(_)) => panic!("a stream was refused: {error}"),
    }
    // Cut in another way it is the same.
    let again = self::target();
    assert_eq!(load(&again, stream, 0), result);
    if result.is_ok() {
        again.assert_same(&target);
    }
});

/// Loads in pieces of `how` bytes, or in one. The first error is final.
fn load(target: &Device, stream: &[u8], how: usize) -> Result<(), Error> {
    let mut session: LoadSession<Vec<u8>> = target.loader();
    let size = if how == 0 { stream.len().max(1) } else { how };
    for piece in stream.chunks(size) {
        if let Err(error) = session.feed(target, piece, piece.len()) {
            assert_eq!(session.error(), Some(error));
            assert_eq!(session.feed(target, piece, piece.len()), Err(error));
            assert_eq!(session.finish(target), Err(error));
            return Err(error);
        }
    }
    let complete = session.is_complete();
    let result = session.finish(target);
    assert_eq!(result.is_ok(), complete);
    result
}

/// A stream with every kind of record, to begin with. Memory has checksums, or not.
fn sample(checked: bool) -> Vec<u8> {
    let device = device::sample();
    device
        .table
        .set(table(const { &[part(3), part(5), part(9)] }));
    for number in [3, 5, 9] {
        let bytes = vec![number as u8; 12];
        device.parts.borrow_mut().insert(number, bytes);
    }
    let mut session = device.begin().with_checksums(checked);
    let mut buffers = device::fill_all(&mut session, &device, 300);
    device.write(5, 5);
    device.discard(2);
    device.changes.set(Changes {
        parts: 1 << 2,
        reinit: false,
    });
    session.stop();
    buffers.extend(device::fill_all(&mut session, &device, 300));
    buffers.concat()
}

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    if seed % 2 == 0 {
        return fuzzer_mutate(data, size, max_size);
    }
    let mut stream = match size {
        // There has to be something to change.
        0..=64 => sample(seed % 3 != 0),
        _ => data[1..size].to_vec(),
    };
    let ways = records::spoil::WAYS.len() as u64;
    let seed = u64::from(seed / 2);
    records::spoil::spoil(&mut stream, seed % ways, seed / ways);
    let len = stream.len().min(max_size - 1);
    data[0] = (seed % 97) as u8;
    data[1..=len].copy_from_slice(&stream[..len]);
    len + 1
});
