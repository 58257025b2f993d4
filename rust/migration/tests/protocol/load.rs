// SPDX-License-Identifier: GPL-2.0

//! The streams that a destination accepts and refuses.

use crate::device::{fill_all, join, records, sample, Device, PAGE, STATE_MAX};
use migration::stream::{
    Error, Header, Kind, Totals, FLAG_AGAIN, FLAG_OPTIONAL, FLAG_START, HEADER_SIZE, IDENTITY_SIZE,
};

type Records = Vec<(Header, Vec<u8>)>;

fn stream() -> Vec<u8> {
    sample().save(4096).concat()
}

/// Corrects the sequence numbers of all records and the counts of END.
fn renumber(records: &mut Records) {
    let mut totals = Totals::new();
    for (number, (header, payload)) in records.iter_mut().enumerate() {
        header.sequence = number as u64;
        header.length = payload.len() as u32;
        header.payload_crc = crate::device::crc(payload);
        if header.kind == Kind::End as u16 {
            *payload = totals.encode().to_vec();
            header.payload_crc = crate::device::crc(payload);
        }
        totals.records += 1;
        let length = payload.len() as u64;
        match Kind::from_u16(header.kind) {
            Some(Kind::Memory) => totals.memory_bytes += length,
            Some(Kind::Device) => totals.state_bytes += length,
            Some(Kind::Zero) => {
                let bytes = payload.first_chunk().copied().unwrap_or_default();
                totals.zero_bytes = totals.zero_bytes.wrapping_add(u64::from_le_bytes(bytes));
            }
            _ => {}
        }
        let plain = Header {
            flags: header.flags & !FLAG_AGAIN,
            ..*header
        };
        let bytes = plain.encode::<Device>();
        totals.digest =
            <Device as migration::stream::Checksum>::crc32c(totals.digest, &bytes[..28]);
    }
}

/// Loads a stream with edited records and corrected numbers, checksums and counts.
fn edited(edit: impl Fn(&mut Records)) -> (Device, Result<(), Error>) {
    let mut records = records(&stream());
    edit(&mut records);
    renumber(&mut records);
    let target = Device::new(40);
    let result = target.load(&join(&records));
    (target, result)
}

fn refused(edit: impl Fn(&mut Records)) -> Error {
    let (target, result) = edited(edit);
    assert_eq!(target.committed.get(), 0);
    result.expect_err("the device accepted the stream")
}

#[test]
fn p25_a_stream_may_be_cut_anywhere() {
    let source = sample();
    let stream = source.save(4096).concat();
    for cut in 0..=stream.len() {
        let target = Device::new(40);
        let mut session = target.loader();
        let (a, b) = stream.split_at(cut);
        session.feed(&target, a, a.len()).unwrap();
        session.feed(&target, b, b.len()).unwrap();
        session.finish(&target).unwrap();
        target.assert_same(&source);
    }
}

#[test]
fn p25_a_stream_may_come_byte_by_byte() {
    let source = sample();
    let stream = source.save(150).concat();
    for size in [1, 2, 3, 7, 31, 32, 33, 64, 65] {
        let target = Device::new(40);
        let mut session = target.loader();
        for piece in stream.chunks(size) {
            session.feed(&target, piece, piece.len()).unwrap();
            session.feed(&target, &[], 0).unwrap();
        }
        assert!(session.is_complete());
        session.finish(&target).unwrap();
        target.assert_same(&source);
        assert_eq!(session.stats().bytes, stream.len() as u64);
        assert_eq!(session.stats().memory_bytes, 5 * PAGE as u64);
        assert_eq!(session.stats().records, records(&stream).len() as u64);
    }
}

#[test]
fn p50_restoring_twice_gives_the_same_device() {
    let source = sample();
    let stream = source.save(4096).concat();
    let target = Device::new(40);
    target.load(&stream).unwrap();
    target.load(&stream).unwrap();
    target.assert_same(&source);
    // A save of the restored device returns the same bytes.
    assert!(target.save(4096).concat() == stream);
}

#[test]
fn p26_state_changes_only_when_finished() {
    let target = Device::new(40);
    *target.state.borrow_mut() = vec![0xaa];
    let stream = stream();
    let mut session = target.loader();
    session.feed(&target, &stream, stream.len()).unwrap();
    assert_eq!((target.checked.get(), target.committed.get()), (1, 0));
    assert_eq!(*target.state.borrow(), [0xaa]);
    session.finish(&target).unwrap();
    assert_eq!(target.committed.get(), 1);
    assert_eq!(target.state.borrow().len(), 100);
    // A second finish fails.
    assert_eq!(session.finish(&target), Err(Error::AfterEnd));
    assert_eq!(target.committed.get(), 1);
}

#[test]
fn p26_an_incomplete_stream_is_refused_at_every_length() {
    let stream = stream();
    for len in 0..stream.len() {
        let target = Device::new(40);
        let mut session = target.loader();
        session.feed(&target, &stream, len).unwrap();
        let error = session.finish(&target).unwrap_err();
        assert!(matches!(error, Error::Incomplete { .. }), "{len}: {error}");
        assert_eq!(error.errno(), 61);
        assert_eq!((target.checked.get(), target.committed.get()), (0, 0));
        // The rest of the stream comes too late.
        let rest = &stream[len..];
        assert_eq!(session.feed(&target, rest, rest.len()), Err(error));
    }
}

#[test]
fn p26_the_first_error_is_final() {
    let mut bad = stream();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    let target = Device::new(40);
    let mut session = target.loader();
    assert_eq!(session.error(), None);
    let error = session.feed(&target, &bad, bad.len()).unwrap_err();
    assert_eq!(session.error(), Some(error));
    let good = stream();
    assert_eq!(session.feed(&target, &good, good.len()), Err(error));
    assert_eq!(session.feed(&target, &[], 0), Err(error));
    assert_eq!(session.finish(&target), Err(error));
    assert_eq!(target.committed.get(), 0);
}

#[test]
fn p26_nothing_may_follow_the_end() {
    let stream = stream();
    let target = Device::new(40);
    let mut session = target.loader();
    session.feed(&target, &stream, stream.len()).unwrap();
    let nothing = [0; HEADER_SIZE];
    assert_eq!(
        session.feed(&target, &nothing, HEADER_SIZE),
        Err(Error::AfterEnd)
    );
    assert_eq!(session.finish(&target), Err(Error::AfterEnd));
    // The same in one piece, and with another stream without its IDENTITY.
    let at = HEADER_SIZE + IDENTITY_SIZE;
    for tail in [vec![0; HEADER_SIZE], stream[at..].to_vec()] {
        let target = Device::new(40);
        let long = [stream.clone(), tail].concat();
        assert_eq!(target.load(&long), Err(Error::AfterEnd));
        assert_eq!(target.committed.get(), 0);
    }
    // If the tail may be the start of another stream, the load is incomplete.
    for len in 1..HEADER_SIZE {
        let target = Device::new(40);
        let long = [&stream[..], &stream[..len]].concat();
        let incomplete = Error::Incomplete { sequence: 6 };
        assert_eq!(target.load(&long), Err(incomplete));
        assert_eq!(target.committed.get(), 0);
    }
}

#[test]
fn p26_the_editor_itself_changes_nothing() {
    // Control: an edit without changes results in a valid stream.
    let (target, result) = edited(|_| {});
    assert_eq!(result, Ok(()));
    target.assert_same(&sample());
    let mut records = records(&stream());
    renumber(&mut records);
    assert!(join(&records) == stream());
}

#[test]
fn p49_identity_comes_first_and_is_record_0() {
    assert_eq!(
        refused(|r| {
            r.remove(0);
        }),
        Error::Foreign
    );
    assert_eq!(refused(|r| r.swap(0, 1)), Error::Foreign);
    let error = refused(|r| r.insert(2, r[0].clone()));
    assert_eq!(error, Error::DuplicateIdentity { sequence: 2 });
    assert_eq!(error.errno(), 71);
}

#[test]
fn p26_memory_records_lie_in_memory() {
    let end = 40 * PAGE as u64;
    for position in [end, end + 64, u64::MAX - 63, 38 * 64] {
        let error = refused(|r| r[1].0.position = position);
        assert_eq!(
            error,
            Error::Range {
                kind: Kind::Memory,
                position,
                length: 3 * 64,
                limit: end
            }
        );
        assert_eq!(error.errno(), 34);
    }
    for position in [1, 32, 63, u64::MAX] {
        let error = refused(|r| r[1].0.position = position);
        assert!(matches!(error, Error::Misaligned { .. }));
        assert_eq!(error.errno(), 71);
    }
    let error = refused(|r| r[1].1.truncate(65));
    assert!(matches!(error, Error::Misaligned { length: 65, .. }));
    let error = refused(|r| r[1].1.clear());
    assert!(matches!(error, Error::Length { found: 0, .. }));
}

#[test]
fn p26_zero_records_lie_in_memory() {
    let zero = |position: u64, length: u64| {
        move |r: &mut Records| {
            r[2].0.kind = Kind::Zero as u16;
            r[2].0.position = position;
            r[2].1 = length.to_le_bytes().to_vec();
        }
    };
    let (target, result) = edited(zero(0, 64));
    assert_eq!(result, Ok(()));
    assert_eq!(target.memory()[..64], [0; 64]);
    assert_eq!(target.memory()[64..128], sample().memory()[64..128]);

    for (position, length, errno) in [
        (0, 0, 71),
        (0, 63, 71),
        (1, 64, 71),
        (64, 40 * 64, 34),
        (40 * 64, 64, 34),
        (64, u64::MAX - 63, 34),
        (u64::MAX - 63, 64, 34),
    ] {
        let error = refused(zero(position, length));
        assert_eq!(error.errno(), errno, "{position} {length}: {error}");
    }
    let error = refused(|r| {
        zero(0, 64)(r);
        r[2].1.push(0);
    });
    assert!(matches!(error, Error::Length { found: 9, .. }));
}

#[test]
fn p26_device_records_are_one_behind_the_other() {
    let device = |position: u64, payload: &'static [u8]| {
        let mut record = records(&stream())[4].clone();
        record.0.position = position;
        record.1 = payload.to_vec();
        record
    };
    // A second piece that continues at the end of the first is valid.
    let (target, result) = edited(|r| r.insert(5, device(100, b"more")));
    assert_eq!(result, Ok(()));
    assert_eq!(target.state.borrow()[100..], *b"more");

    for position in [0, 99, 101, u64::MAX] {
        let error = refused(|r| r.insert(5, device(position, b"more")));
        let expected = Error::StateOrder {
            expected: 100,
            found: position,
        };
        assert_eq!(error, expected);
        assert_eq!(error.errno(), 71);
    }
    let error = refused(|r| r.insert(5, device(100, &[])));
    assert!(matches!(error, Error::Length { found: 0, .. }));
    // The maximal size of the identity, and one byte more.
    let (target, result) = edited(|r| r.insert(5, device(100, &[1; STATE_MAX - 100])));
    assert_eq!(result, Ok(()));
    assert_eq!(target.state.borrow().len(), STATE_MAX);
    let error = refused(|r| r.insert(5, device(100, &[1; STATE_MAX - 99])));
    assert!(matches!(
        error,
        Error::Range {
            kind: Kind::Device,
            ..
        }
    ));
}

#[test]
fn p26_a_length_is_refused_before_a_byte_of_it_arrives() {
    for (record, length, errno) in [
        (1, u32::MAX & !63, 34),
        (4, u32::MAX, 34),
        (5, 41, 71),
        (5, 0, 71),
    ] {
        let mut records = records(&stream());
        records[record].0.length = length;
        let mut bytes = join(&records[..record]);
        bytes.extend(records[record].0.encode::<Device>());
        let target = Device::new(40);
        let error = target.load(&bytes).unwrap_err();
        assert_eq!(error.errno(), errno, "{record} {length}: {error}");
    }
}

#[test]
fn p26_reserved_positions_are_zero() {
    for record in [0, 5] {
        let error = refused(|r| r[record].0.position = 8);
        assert!(matches!(error, Error::Reserved { found: 8, .. }));
        assert_eq!(error.errno(), 71);
    }
}

#[test]
fn p26_counts_are_compared() {
    for (at, name) in [
        (0, "records"),
        (8, "memory bytes"),
        (16, "zero bytes"),
        (24, "state bytes"),
        (32, "digest"),
    ] {
        let mut records = records(&stream());
        records[5].1[at] ^= 1;
        let target = Device::new(40);
        let error = target.load(&join(&records)).unwrap_err();
        assert!(matches!(error, Error::Count { field, .. } if field == name));
        assert_eq!((target.checked.get(), target.committed.get()), (0, 0));
    }
}

#[test]
fn p51_unknown_optional_records_are_skipped() {
    for payload in [vec![], vec![1], vec![7; 55], vec![8; 57], vec![9; 5000]] {
        let unknown = |flags: u16| {
            let payload = payload.clone();
            move |r: &mut Records| {
                let mut record = r[2].clone();
                record.0.kind = 77;
                record.0.flags = flags;
                record.0.position = u64::MAX;
                record.1 = payload.clone();
                r.insert(2, record.clone());
                r.insert(6, record);
            }
        };
        let (target, result) = edited(unknown(FLAG_OPTIONAL));
        assert_eq!(result, Ok(()), "{}", payload.len());
        target.assert_same(&sample());

        let error = refused(unknown(0));
        assert_eq!(
            error,
            Error::UnknownKind {
                sequence: 2,
                kind: 77
            }
        );
        assert_eq!(error.errno(), 93);
    }
    // The load checks the checksum of a skipped record.
    let mut records = records(&stream());
    records[2].0.kind = 77;
    records[2].0.flags = FLAG_OPTIONAL;
    records[2].1 = vec![1; 500];
    let mut bytes = join(&records);
    let at = HEADER_SIZE * 3 + 56 + 3 * PAGE + 400;
    bytes[at] ^= 1;
    let error = Device::new(40).load(&bytes).unwrap_err();
    assert!(
        matches!(error, Error::PayloadChecksum { sequence: 2, .. }),
        "{error}"
    );
}

#[test]
fn p51_unknown_flags_are_refused() {
    for bit in 4..16 {
        for record in 0..6 {
            let error = refused(|r| r[record].0.flags |= (1 << bit) | FLAG_START);
            assert!(matches!(error, Error::Flags { .. }));
            assert_eq!(error.errno(), 71);
        }
    }
    // FLAG_AGAIN is valid only with FLAG_START.
    let error = refused(|r| r[1].0.flags = FLAG_AGAIN);
    assert!(matches!(error, Error::Flags { found: 4, .. }));
}

#[test]
fn p23_a_buffer_may_be_read_twice_or_once() {
    for len in [100, 150, 400, 4096] {
        for read_before in [false, true] {
            let source = sample();
            let mut session = source.begin();
            let mut buffers = fill_all(&mut session, &source, len);
            let mut staged = buffers.pop().unwrap();
            // A page becomes dirty while the buffer is staged.
            source.write(39, 77);
            if read_before {
                buffers.push(staged.clone());
            }
            session.stop();
            session.restage(&source, &mut staged).unwrap();
            assert_eq!(session.stats().restaged, 1);
            buffers.push(staged);
            buffers.extend(fill_all(&mut session, &source, len));

            let stream = buffers.concat();
            let target = Device::new(40);
            let mut loader = target.loader();
            for byte in &stream {
                loader.feed(&target, &[*byte], 1).unwrap();
            }
            loader.finish(&target).unwrap();
            target.assert_same(&source);
            assert_eq!(loader.stats().repeated, u64::from(read_before));
        }
    }
}

#[test]
fn p23_restaging_without_a_buffer_does_nothing() {
    let source = sample();
    let mut session = source.begin();
    let mut out = vec![0xee; 64];
    session.restage(&source, &mut out).unwrap();
    assert_eq!(out, [0xee; 64]);
    assert_eq!(session.stats().restaged, 0);
}

#[test]
fn p26_only_the_last_buffer_may_come_again() {
    let source = sample();
    let mut session = source.begin();
    let buffers = fill_all(&mut session, &source, 160);
    assert!(buffers.len() >= 3);
    let again = |buffer: &[u8]| {
        let mut records = records_from(buffer);
        records[0].0.flags |= FLAG_AGAIN;
        join(&records)
    };
    let all = buffers.concat();
    let (last, before) = buffers.split_last().unwrap();

    let feed = |parts: &[&[u8]]| {
        let target = Device::new(40);
        let mut session = target.loader();
        parts
            .iter()
            .try_for_each(|part| session.feed(&target, part, part.len()))
    };
    // Control: the last buffer may come again, read before or not.
    assert_eq!(feed(&[&all, &again(last)]), Ok(()));
    assert_eq!(feed(&[&before.concat(), &again(last)]), Ok(()));
    // The load refuses an older buffer, a later one, and the last one without the flag. The first buffer would restart
    // the stream.
    for (number, buffer) in before.iter().enumerate().skip(1) {
        let error = feed(&[&all, &again(buffer)]).unwrap_err();
        assert!(matches!(error, Error::Sequence { .. }), "{number}");
    }
    assert!(feed(&[&all, last]).is_err());
    assert!(feed(&[&before[..before.len() - 1].concat(), &again(last)]).is_err());
    // A part of the last buffer, then the buffer again.
    let half = &last[..HEADER_SIZE];
    assert!(feed(&[&before.concat(), half, &again(last)]).is_err());
}

#[test]
fn p26_what_comes_again_is_what_came() {
    let source = sample();
    let mut session = source.begin();
    let buffers = fill_all(&mut session, &source, 300);
    // Send another record with the sequence number of the first record of a buffer, even that of IDENTITY.
    for number in 0..buffers.len() {
        let all = buffers[..=number].concat();
        let mut records = records(&buffers[number]);
        records[0].0.flags |= FLAG_AGAIN;
        let (header, payload) = records[0].clone();
        let other_page = Header {
            kind: Kind::Memory as u16,
            position: 3 * PAGE as u64,
            ..header
        };
        let other_bytes: Vec<u8> = payload.iter().map(|byte| byte ^ 1).collect();
        let optional = Header {
            flags: header.flags | FLAG_OPTIONAL,
            ..header
        };
        for (header, payload) in [
            (other_page, vec![1; PAGE]),
            (header, other_bytes),
            (optional, payload.clone()),
        ] {
            let mut session = target_of(&all);
            let other = join(&[(header, payload)]);
            let result = session.feed(&source, &other, other.len());
            // Another IDENTITY record starts another stream.
            if header.kind == Kind::Identity as u16 {
                assert!(matches!(result, Ok(()) | Err(Error::Foreign)), "{result:?}");
                continue;
            }
            let error = result.unwrap_err();
            assert!(matches!(error, Error::Sequence { .. }), "{number}: {error}");
        }
        // Control: the same record is accepted.
        let same = join(&records);
        assert_eq!(target_of(&all).feed(&source, &same, same.len()), Ok(()));
    }
}

/// Returns a session that has received these bytes.
fn target_of(bytes: &[u8]) -> migration::load::LoadSession<Vec<u8>> {
    let target = Device::new(40);
    let mut session = target.loader();
    session.feed(&target, bytes, bytes.len()).unwrap();
    session
}

/// Like [`records`], for a buffer in the middle of a stream.
fn records_from(buffer: &[u8]) -> Records {
    records(buffer)
}

#[test]
fn p26_a_device_that_fails_ends_the_session() {
    const EIO: i32 = 5;
    let stream = stream();
    let failing = |at: fn(&Device)| {
        let target = Device::new(40);
        target.errno.set(EIO);
        at(&target);
        let error = target.load(&stream).unwrap_err();
        assert_eq!(error.errno(), EIO);
        error.to_string()
    };
    assert_eq!(
        failing(|d| d.fail_copy.set(Some(2))),
        "writing device memory failed with errno 5"
    );
    assert_eq!(
        failing(|d| d.fail_put.set(Some(8))),
        "reading the stream failed with errno 5"
    );
    assert_eq!(
        failing(|d| d.fail_zero.set(Some(0))),
        "discarding device memory failed with errno 5"
    );
    // If the device refuses the state, the write that completes the stream fails.
    let target = Device::new(40);
    target.errno.set(EIO);
    target.fail_state.set(true);
    let mut session = target.loader();
    let (most, last) = stream.split_at(stream.len() - 1);
    session.feed(&target, most, most.len()).unwrap();
    let error = session.feed(&target, last, 1).unwrap_err();
    assert_eq!(
        error.to_string(),
        "checking the device state failed with errno 5"
    );
    assert_eq!(session.finish(&target), Err(error));
    assert_eq!(target.committed.get(), 0);
}
