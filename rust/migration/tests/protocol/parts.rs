// SPDX-License-Identifier: GPL-2.0

//! Parts of a device's state with numbers of their own.

use crate::device::{fill_all, join, records, sample, Device, ENOMEM, PAGE};
use migration::load::LoadSession;
use migration::save::{estimate, SaveSession};
use migration::stream::{Changes, Error, Header, Kind, Part, PartTable, FLAG_OPTIONAL, PARTS_MAX};

const H: u64 = 32;

const fn part(number: u32, size_max: u32) -> Part {
    Part {
        number,
        optional: false,
        pre_copy: false,
        size_max,
    }
}

/// A mandatory part, an optional one, and one of pre-copy.
const PARTS: [Part; 3] = [
    part(3, 20),
    Part {
        optional: true,
        ..part(4, PAGE as u32)
    },
    Part {
        pre_copy: true,
        ..part(9, 10)
    },
];

fn table(parts: &'static [Part]) -> PartTable {
    PartTable::new(parts, PAGE as u32).unwrap()
}

/// Returns a device with these parts.
fn device(parts: &'static [Part]) -> Device {
    let device = sample();
    device.table.set(table(parts));
    device
}

/// Returns a device with [`PARTS`], and these bytes in them.
fn with(bytes: &[(u32, &[u8])]) -> Device {
    let device = device(&PARTS);
    set(&device, bytes);
    device
}

fn set(device: &Device, bytes: &[(u32, &[u8])]) {
    let mut parts = device.parts.borrow_mut();
    for (number, bytes) in bytes {
        parts.insert(*number, bytes.to_vec());
    }
}

/// Returns a device to load, with these parts.
fn target(parts: &'static [Part]) -> Device {
    let target = Device::new(40);
    target.table.set(table(parts));
    target
}

/// Returns the numbers of the parts in a stream.
fn numbers(stream: &[u8]) -> Vec<u64> {
    records(stream)
        .iter()
        .filter(|(header, _)| header.kind == Kind::Part as u16)
        .map(|(header, _)| header.position)
        .collect()
}

#[test]
fn p51_only_the_parts_that_are_needed_are_sent() {
    for sent in [vec![], vec![3], vec![4], vec![3, 4], vec![3, 4, 9]] {
        let source = device(&PARTS);
        for number in &sent {
            set(&source, &[(*number, &[*number as u8; 10])]);
        }
        let stream = source.save(4096).concat();
        let expected: Vec<_> = sent.iter().map(|&number| u64::from(number)).collect();
        let mut found = numbers(&stream);
        found.sort_unstable();
        assert_eq!(found, expected);
        let target = target(&PARTS);
        target.load(&stream).unwrap();
        target.assert_same(&source);
    }
}

#[test]
fn p51_a_stream_without_parts_is_that_of_a_device_without_parts() {
    assert_eq!(device(&PARTS).save(4096), sample().save(4096));
}

#[test]
fn p51_a_reader_refuses_a_part_that_it_does_not_know() {
    let source = with(&[(3, &[1; 20]), (4, &[2; 64])]);
    let stream = source.save(4096).concat();
    let older = target(&PARTS[1..]);
    assert_eq!(
        older.load(&stream),
        Err(Error::UnknownPart {
            sequence: 1,
            number: 3
        })
    );
    assert_eq!(older.committed.get(), 0);
}

#[test]
fn p51_a_reader_ignores_an_optional_part_that_it_does_not_know() {
    let source = with(&[(3, &[1; 20]), (4, &[2; 64])]);
    let stream = source.save(4096).concat();
    let older = target(&PARTS[..1]);
    let mut session = older.loader();
    session.feed(&older, &stream, stream.len()).unwrap();
    assert_eq!(session.stats().skipped, 1);
    session.finish(&older).unwrap();
    assert_eq!(older.parts.borrow().len(), 1);
    assert_eq!(older.parts.borrow()[&3], [1; 20]);
    // Its checksum counts all the same.
    let mut broken = stream.clone();
    let at = broken.windows(8).position(|w| w == [2; 8]).unwrap();
    broken[at] ^= 1;
    assert!(matches!(
        target(&PARTS[..1]).load(&broken),
        Err(Error::PayloadChecksum { .. })
    ));
}

#[test]
fn p25_a_stream_with_parts_can_be_cut_anywhere() {
    let source = with(&[(3, &[1; 20]), (4, &[2; 64]), (9, &[3; 10])]);
    let stream = source.save(PAGE + 32).concat();
    for size in 1..100 {
        let target = target(&PARTS);
        let mut session = target.loader();
        for piece in stream.chunks(size) {
            session.feed(&target, piece, piece.len()).unwrap();
        }
        session.finish(&target).unwrap();
        target.assert_same(&source);
    }
}

#[test]
fn p50_the_last_record_of_a_part_counts() {
    let source = with(&[(9, &[1; 10])]);
    let mut session = source.begin();
    let mut stream = fill_all(&mut session, &source, 4096).concat();
    assert_eq!(numbers(&stream), [9]);
    // Shorter than before.
    set(&source, &[(9, &[7; 4])]);
    source.changes.set(Changes {
        parts: 1 << 2,
        reinit: false,
    });
    assert!(session.has_data(&source));
    assert_eq!(session.precopy_info(&source).dirty_bytes, 10 + H);
    stream.extend(fill_all(&mut session, &source, 4096).concat());
    assert_eq!(numbers(&stream), [9, 9]);
    assert!(!session.has_data(&source));
    session.stop();
    stream.extend(fill_all(&mut session, &source, 4096).concat());
    assert_eq!(numbers(&stream), [9, 9]);
    let target = target(&PARTS);
    target.load(&stream).unwrap();
    assert_eq!(target.parts.borrow()[&9], [7; 4]);
    target.assert_same(&source);
}

#[test]
fn p50_a_part_of_an_earlier_stream_is_forgotten() {
    let first = with(&[(3, &[1; 20]), (4, &[2; 9])]).save(4096).concat();
    let second = with(&[(4, &[5; 3])]);
    let stream = [first, second.save(4096).concat()].concat();
    let target = target(&PARTS);
    target.load(&stream).unwrap();
    target.assert_same(&second);
}

#[test]
fn p45_a_part_that_changed_is_sent_while_the_device_runs() {
    let source = with(&[(3, &[1; 20]), (9, &[1; 10])]);
    let mut session = source.begin();
    let info = session.precopy_info(&source);
    assert_eq!(
        info.initial_bytes,
        H + 56 + H + 10 + (H + 3 * 64) + (H + 64) + (H + 64)
    );
    fill_all(&mut session, &source, 4096);
    // A part that waits for the stop is none of it.
    source.changes.set(Changes {
        parts: 1,
        reinit: false,
    });
    assert_eq!(session.precopy_info(&source), Default::default());
    assert!(!session.has_data(&source));
    session.stop();
    let rest = fill_all(&mut session, &source, 4096).concat();
    assert_eq!(numbers(&rest), [3]);
}

#[test]
fn p45_pre_copy_starts_over() {
    let source = with(&[(9, &[1; 10])]);
    let mut session = source.begin();
    let mut stream = fill_all(&mut session, &source, 4096).concat();
    source.write(5, 5);
    let info = session.precopy_info(&source);
    assert_eq!((info.initial_bytes, info.dirty_bytes), (0, 64 + H));
    source.changes.set(Changes {
        parts: 0,
        reinit: true,
    });
    assert!(session.has_data(&source));
    let info = session.precopy_info(&source);
    assert_eq!(
        (info.initial_bytes, info.dirty_bytes, info.reinit),
        (10 + H + 64 + H, 0, true)
    );
    stream.extend(fill_all(&mut session, &source, 4096).concat());
    // The user does not know it yet.
    let info = session.precopy_info(&source);
    assert_eq!(
        (info.initial_bytes, info.dirty_bytes, info.reinit),
        (0, 0, true)
    );
    session.forget_reinit();
    assert_eq!(session.precopy_info(&source), Default::default());
    source.write(6, 6);
    let info = session.precopy_info(&source);
    assert_eq!((info.initial_bytes, info.dirty_bytes), (0, 64 + H));
    assert_eq!(numbers(&stream), [9, 9]);
}

#[test]
fn p47_the_estimate_has_the_parts() {
    let source = with(&[(3, &[1; 20]), (4, &[2; 64]), (9, &[3; 10])]);
    let bare = estimate(&source.identity, PartTable::EMPTY, &source);
    let parts = 3 * H + 20 + 64 + 10;
    assert_eq!(
        estimate(&source.identity, source.table.get(), &source),
        bare + parts
    );
    let mut session = source.begin();
    let without = sample().begin().remaining(&sample());
    assert_eq!(session.remaining(&source), without + parts);
    fill_all(&mut session, &source, 4096);
    let left = session.remaining(&source);
    session.stop();
    assert_eq!(session.remaining(&source), left);
    fill_all(&mut session, &source, 4096);
    assert_eq!(session.remaining(&source), 0);
}

#[test]
fn p26_a_part_that_cannot_be_saved_is_saved_by_the_next_call() {
    let source = with(&[(9, &[1; 10])]);
    let mut session = source.begin();
    source.fail_state.set(true);
    let mut out = vec![0; 4096];
    // The identity comes first.
    assert_eq!(session.fill(&source, &mut out, 4096), Ok(88));
    let failed = session.fill(&source, &mut out, 4096);
    assert_eq!(failed.unwrap_err().errno(), ENOMEM);
    source.fail_state.set(false);
    let used = session.fill(&source, &mut out, 4096).unwrap();
    assert!(out[..used].windows(10).any(|bytes| bytes == [1; 10]));
}

#[test]
fn a_part_that_claims_too_much_is_an_error() {
    let source = with(&[(9, &[1; 10])]);
    source.claim.set(1);
    let mut session = source.begin();
    let mut out = vec![0; 4096];
    assert_eq!(session.fill(&source, &mut out, 4096), Ok(88));
    assert_eq!(
        session.fill(&source, &mut out, 4096),
        Err(Error::Space {
            needed: 11,
            available: 10
        })
    );
}

#[test]
fn malformed_parts_are_refused() {
    let stream = with(&[(3, &[1; 20])]).save(4096).concat();
    let whole = records(&stream);
    let load = |change: &dyn Fn(&mut Header, &mut Vec<u8>)| {
        let mut records = whole.clone();
        let (header, payload) = &mut records[1];
        assert_eq!(header.position, 3);
        change(header, payload);
        let target = target(&PARTS);
        let result = target.load(&join(&records));
        assert_eq!(target.committed.get(), 0);
        result.unwrap_err()
    };
    assert_eq!(
        load(&|_, payload| payload.clear()),
        Error::Length {
            kind: Kind::Part,
            found: 0
        }
    );
    assert_eq!(
        load(&|_, payload| payload.push(0)),
        Error::Range {
            kind: Kind::Part,
            position: 3,
            length: 21,
            limit: 20
        }
    );
    for number in [0, 5, (1 << 32) | 3, u64::MAX] {
        assert_eq!(
            load(&|header, _| header.position = number),
            Error::UnknownPart {
                sequence: 1,
                number
            }
        );
    }
    // A part that this reader knows is no other because of its flag.
    assert!(matches!(
        load(&|header, payload| {
            header.flags |= FLAG_OPTIONAL;
            payload.push(0);
        }),
        Error::Range { .. }
    ));
}

#[test]
fn tables_that_cannot_be() {
    const MANY: [Part; PARTS_MAX + 1] = {
        let mut parts = [part(0, 1); PARTS_MAX + 1];
        let mut i = 0;
        while i < parts.len() {
            parts[i].number = i as u32;
            i += 1;
        }
        parts
    };
    let page = PAGE as u32;
    assert!(PartTable::new(&MANY, page).is_none());
    assert!(PartTable::new(&MANY[..PARTS_MAX], page).is_some());
    assert!(PartTable::new(const { &[part(1, 1), part(1, 1)] }, page).is_none());
    assert!(PartTable::new(const { &[part(2, 1), part(1, 1)] }, page).is_none());
    assert!(PartTable::new(const { &[part(u32::MAX, 1)] }, page).is_some());
    assert!(PartTable::new(const { &[part(1, 0)] }, page).is_none());
    assert!(PartTable::new(const { &[part(1, PAGE as u32 + 1)] }, page).is_none());
    let device = device(&PARTS);
    let small = vec![0; 256];
    let load = LoadSession::new(device.identity, small.clone()).unwrap();
    assert!(matches!(
        load.with_parts(table(&PARTS)),
        Err(Error::Space { needed: 362, .. })
    ));
    let identity = migration::stream::Identity {
        state_size_max: 8,
        ..device.identity
    };
    let save = SaveSession::begin(identity, vec![0; 8], &device).unwrap();
    assert!(matches!(
        save.with_parts(table(&PARTS)),
        Err(Error::Space {
            needed: 64,
            available: 8
        })
    ));
}
