// SPDX-License-Identifier: GPL-2.0

//! Different kinds of damage to a complete stream. The device accepts none (P26).

use crate::device::{fill_all, sample, Device};
use migration::stream::HEADER_SIZE;
use proptest::prelude::*;
use std::panic::{catch_unwind, AssertUnwindSafe};

/// Returns a device, and its stream in buffers. The stream has all kinds of records.
fn source() -> (Device, Vec<Vec<u8>>) {
    let device = sample();
    let mut session = device.begin();
    let mut buffers = fill_all(&mut session, &device, 300);
    device.write(5, 5);
    device.discard(2);
    session.stop();
    buffers.extend(fill_all(&mut session, &device, 300));
    (device, buffers)
}

/// Splits a stream into the bytes of its records.
fn cut(stream: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = stream;
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let length = u32::from_le_bytes(*rest[4..].first_chunk().unwrap()) as usize;
        let (piece, tail) = rest.split_at(HEADER_SIZE + length);
        pieces.push(piece.to_vec());
        rest = tail;
    }
    pieces
}

/// Loads damaged bytes. The device must refuse them with a reason and keep its state.
fn refuse(bytes: &[u8], what: &str) {
    let target = Device::new(40);
    let error = target.load(bytes).expect_err(what);
    assert!(error.errno() > 0 && !error.to_string().is_empty());
    assert_eq!(target.committed.get(), 0, "{what}");
}

/// Loads a valid stream other than the saved one.
fn accept(bytes: &[u8], source: &Device) {
    let target = Device::new(40);
    target.load(bytes).unwrap();
    target.assert_same(source);
}

#[test]
fn p26_control_the_stream_itself_loads() {
    let (source, buffers) = source();
    let target = Device::new(40);
    target.load(&buffers.concat()).unwrap();
    target.assert_same(&source);
    // The comparison detects differences in memory and in state.
    target.write(5, 6);
    assert!(catch_unwind(AssertUnwindSafe(|| target.assert_same(&source))).is_err());
    target.write(5, 5);
    target.assert_same(&source);
    target.state.borrow_mut()[3] ^= 1;
    assert!(catch_unwind(AssertUnwindSafe(|| target.assert_same(&source))).is_err());
}

#[test]
fn p26_every_flipped_bit_is_refused() {
    let (_, buffers) = source();
    let stream = buffers.concat();
    for bit in 0..stream.len() * 8 {
        let mut bytes = stream.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        refuse(&bytes, &format!("bit {bit}"));
    }
}

#[test]
fn p26_every_truncation_is_refused() {
    let (_, buffers) = source();
    let stream = buffers.concat();
    for len in 0..stream.len() {
        refuse(&stream[..len], &format!("length {len}"));
    }
}

#[test]
fn p26_every_missing_repeated_or_swapped_record_is_refused() {
    let (source, buffers) = source();
    let records = cut(&buffers.concat());
    assert!(records.len() >= 9);
    for a in 0..records.len() {
        let mut less = records.clone();
        less.remove(a);
        refuse(&less.concat(), &format!("without {a}"));
        for b in 0..=records.len() {
            let mut more = records.clone();
            more.insert(b, records[a].clone());
            // A repeated IDENTITY record restarts the stream.
            if a == 0 && b <= 1 {
                accept(&more.concat(), &source);
                continue;
            }
            refuse(&more.concat(), &format!("{a} again before {b}"));
        }
        for b in 0..a {
            let mut swapped = records.clone();
            swapped.swap(a, b);
            refuse(&swapped.concat(), &format!("{a} and {b} swapped"));
        }
    }
}

#[test]
fn p26_every_missing_repeated_or_swapped_buffer_is_refused() {
    let (source, buffers) = source();
    assert!(buffers.len() >= 4);
    for a in 0..buffers.len() {
        let mut less = buffers.clone();
        less.remove(a);
        refuse(&less.concat(), &format!("without {a}"));
        let mut more = buffers.clone();
        more.insert(a, buffers[a].clone());
        match a {
            // The stream restarts after its first buffer.
            0 => accept(&more.concat(), &source),
            _ => refuse(&more.concat(), &format!("{a} twice")),
        }
        for b in 0..a {
            let mut swapped = buffers.clone();
            swapped.swap(a, b);
            refuse(&swapped.concat(), &format!("{a} and {b} swapped"));
        }
    }
}

#[test]
fn p26_records_of_another_stream_do_not_fit() {
    // The same device with another state: most records differ.
    let (device, buffers) = source();
    let here = cut(&buffers.concat());
    device.state.borrow_mut()[0] ^= 1;
    device.write(1, 99);
    let there = cut(&device.save(300).concat());
    for at in 1..here.len().min(there.len()) {
        let mut mixed = here.clone();
        if mixed[at] == there[at] {
            continue;
        }
        mixed[at] = there[at].clone();
        refuse(&mixed.concat(), &format!("record {at}"));
    }
}

#[derive(Clone, Debug)]
enum Damage {
    Set(usize, u8),
    Insert(usize, u8),
    Remove(usize),
    Zero(usize, usize),
    Copy(usize, usize, usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        (any::<usize>(), any::<u8>()).prop_map(|(a, b)| Damage::Set(a, b)),
        (any::<usize>(), any::<u8>()).prop_map(|(a, b)| Damage::Insert(a, b)),
        any::<usize>().prop_map(Damage::Remove),
        (any::<usize>(), 1..200usize).prop_map(|(a, b)| Damage::Zero(a, b)),
        (any::<usize>(), any::<usize>(), 1..200usize).prop_map(|(a, b, c)| Damage::Copy(a, b, c)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn p26_random_damage_is_refused(list in prop::collection::vec(damage(), 1..4)) {
        let (_, buffers) = source();
        let stream = buffers.concat();
        let mut bytes = stream.clone();
        for damage in list {
            let len = bytes.len();
            match damage {
                Damage::Set(at, value) => bytes[at % len] = value,
                Damage::Insert(at, value) => bytes.insert(at % len, value),
                Damage::Remove(at) => {
                    bytes.remove(at % len);
                }
                Damage::Zero(at, count) => {
                    let at = at % len;
                    let end = (at + count).min(len);
                    bytes[at..end].fill(0);
                }
                Damage::Copy(from, to, count) => {
                    let (from, to) = (from % len, to % len);
                    let count = count.min(len - from).min(len - to);
                    bytes.copy_within(from..from + count, to);
                }
            }
        }
        if bytes != stream {
            refuse(&bytes, "random damage");
        }
    }

    #[test]
    fn p26_random_bytes_are_refused(bytes: Vec<u8>) {
        refuse(&bytes, "random bytes");
    }

    /// Well-formed headers with random contents, after a valid IDENTITY record.
    #[test]
    fn p26_random_records_do_no_harm(
        parts in prop::collection::vec(
            (0..8u16, 0..8u16, 0..7u64, 0..3000u64, prop::collection::vec(any::<u8>(), 0..200)),
            1..8,
        ),
    ) {
        use migration::stream::Header;
        let (_, buffers) = source();
        let mut bytes = cut(&buffers.concat())[0].clone();
        for (number, (kind, flags, sequence, position, payload)) in parts.into_iter().enumerate() {
            let header = Header {
                kind,
                flags,
                length: 0,
                // Mostly in order, so that the load continues for longer.
                sequence: if sequence < 5 { number as u64 + 1 } else { sequence },
                position: if position < 2500 { position / 64 * 64 } else { position },
                payload_crc: 0,
            };
            bytes.extend(crate::device::join(&[(header, payload)]));
        }
        // A random END record cannot be valid. The device asserts that no access is out of bounds.
        refuse(&bytes, "random records");
    }
}
