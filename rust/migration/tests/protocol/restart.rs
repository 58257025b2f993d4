// SPDX-License-Identifier: GPL-2.0

//! A stream that restarts, and a load that continues after a transient error (P50).

use crate::device::{fill_all, sample, Device, BLOCK, ENOMEM, PAGE};
use migration::load::{LoadSession, PIECE};
use migration::stream::{Error, Header, Kind, FLAG_AGAIN, FLAG_START, HEADER_SIZE, IDENTITY_SIZE};

const EINTR: i32 = 4;

/// Returns a device, and its stream in buffers of `len` bytes. The stream turns pages into holes.
fn source(len: usize) -> (Device, Vec<Vec<u8>>) {
    let device = sample();
    let mut session = device.begin();
    let mut buffers = fill_all(&mut session, &device, len);
    device.write(5, 5);
    device.discard(2);
    session.stop();
    buffers.extend(fill_all(&mut session, &device, len));
    (device, buffers)
}

/// Returns the same device with another state, and its stream.
fn other() -> (Device, Vec<u8>) {
    let device = Device::new(40);
    for page in [3, 4, 39] {
        device.write(page, 0x40 + page as u8);
    }
    *device.state.borrow_mut() = vec![9; 30];
    let stream = device.save(300).concat();
    (device, stream)
}

fn feed(session: &mut LoadSession<Vec<u8>>, target: &Device, bytes: &[u8]) -> Result<(), Error> {
    session.feed(target, bytes, bytes.len())
}

/// Loads part of one stream, then all of another. The device must equal the source of the second, without pages of the
/// first.
#[test]
fn p50_a_stream_cut_at_any_buffer_starts_over() {
    let (_, first) = source(300);
    let (device, second) = other();
    for whole in 0..=first.len() {
        for size in [1, 77, usize::MAX] {
            let target = Device::new(40);
            let mut session = target.loader();
            feed(&mut session, &target, &first[..whole].concat()).unwrap();
            for piece in second.chunks(size) {
                feed(&mut session, &target, piece).unwrap();
            }
            assert!(session.is_complete());
            session.finish(&target).unwrap();
            target.assert_same(&device);
            assert_eq!(session.stats().restarted, u64::from(whole > 0));
            // Holes of the second stream are not populated.
            assert_eq!(target.pages.borrow().len(), 3);
        }
    }
}

/// A complete load stays in place until the device accepts another IDENTITY record.
#[test]
fn p50_what_was_loaded_stays_until_another_identity_is_accepted() {
    let (device, first) = source(4096);
    let first = first.concat();
    let (_, second) = other();
    let target = Device::new(40);
    let mut session = target.loader();
    feed(&mut session, &target, &first).unwrap();
    let at = HEADER_SIZE + IDENTITY_SIZE;
    feed(&mut session, &target, &second[..at - 1]).unwrap();
    assert!(!session.is_complete());
    assert!(target.memory() == device.memory());
    feed(&mut session, &target, &second[at - 1..at]).unwrap();
    assert!(target.memory().iter().all(|byte| *byte == 0));
    let error = session.finish(&target).unwrap_err();
    assert_eq!(error, Error::Incomplete { sequence: 1 });
    assert_eq!(target.committed.get(), 0);
}

/// The device refuses an invalid or foreign IDENTITY record at any position.
#[test]
fn p49_another_beginning_is_checked_like_the_first() {
    let (_, first) = source(300);
    let (device, second) = other();
    let identity = &second[..HEADER_SIZE + IDENTITY_SIZE];
    let spoil = |edit: &dyn Fn(&mut Header, &mut Vec<u8>)| {
        let mut header = Header::decode::<Device>(identity.first_chunk().unwrap(), 0).unwrap();
        let mut payload = identity[HEADER_SIZE..].to_vec();
        edit(&mut header, &mut payload);
        crate::device::join(&[(header, payload)])
    };
    type Edit = &'static dyn Fn(&mut Header, &mut Vec<u8>);
    let edits: [(Edit, i32); 6] = [
        (&|_, payload| payload[0] ^= 1, 22),
        (&|_, payload| payload[8] ^= 2, 93),
        (&|_, payload| payload[40] ^= 1, 22),
        (&|header, _| header.position = 8, 71),
        (&|header, _| header.sequence = 1, 71),
        (&|header, _| header.flags = 0, 71),
    ];
    for whole in 1..=first.len() {
        for (edit, errno) in edits {
            let target = Device::new(40);
            let mut session = target.loader();
            feed(&mut session, &target, &first[..whole].concat()).unwrap();
            let memory = target.memory();
            let error = feed(&mut session, &target, &spoil(edit)).unwrap_err();
            assert_eq!(error.errno(), errno, "{whole}: {error}");
            assert!(
                target.memory() == memory,
                "a refused IDENTITY discarded memory"
            );
            // The load accepts the other stream only after a restart.
            assert_eq!(feed(&mut session, &target, &second), Err(error));
            assert!(session.is_broken());
            session.restart();
            assert!(!session.is_broken());
            feed(&mut session, &target, &second).unwrap();
            session.finish(&target).unwrap();
            target.assert_same(&device);
        }
    }
}

/// The source offers its first buffer again, read before or not, after a part of another stream.
#[test]
fn p23_p50_a_first_buffer_may_come_again() {
    for seen in [false, true] {
        let (_, first) = source(300);
        let (device, second) = {
            let (device, _) = other();
            let mut session = device.begin();
            let mut out = vec![0; 300];
            let used = session.fill(&device, &mut out, 300).unwrap();
            out.truncate(used);
            let before = out.clone();
            session.stop();
            session.restage(&device, &mut out).unwrap();
            assert_eq!(out[2], (FLAG_START | FLAG_AGAIN) as u8);
            let mut bytes = if seen { before } else { Vec::new() };
            bytes.extend(out);
            bytes.extend(fill_all(&mut session, &device, 300).concat());
            (device, bytes)
        };
        for whole in 0..=first.len() {
            let target = Device::new(40);
            target
                .load(&[first[..whole].concat(), second.clone()].concat())
                .unwrap();
            target.assert_same(&device);
        }
    }
}

#[test]
fn p26_a_refused_record_stays_refused_until_the_load_is_begun_afresh() {
    let (device, buffers) = source(300);
    let stream = buffers.concat();
    for bit in (0..stream.len() * 8).step_by(37) {
        let mut bad = stream.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let target = Device::new(40);
        let mut session = target.loader();
        // The device cannot detect a larger length before the end of the stream.
        let Err(error) = feed(&mut session, &target, &bad) else {
            continue;
        };
        assert_eq!(feed(&mut session, &target, &stream), Err(error));
        assert_eq!(session.finish(&target), Err(error));
        session.restart();
        target.pages.borrow_mut().clear();
        feed(&mut session, &target, &stream).unwrap();
        session.finish(&target).unwrap();
        target.assert_same(&device);
        assert_eq!(target.committed.get(), 1);
    }
}

/// Returns the countdowns of all failures that a device can inject.
fn points(target: &Device) -> [&std::cell::Cell<Option<u32>>; 4] {
    [
        &target.fail_copy,
        &target.fail_put,
        &target.fail_zero,
        &target.signal,
    ]
}

/// Injects a transient error at each point. A user who knows how much data the device took continues with the rest, and
/// no data is lost.
#[test]
fn p26_a_load_goes_on_after_an_error_that_passes() {
    let (device, buffers) = source(300);
    let stream = buffers.concat();
    for point in 0..4 {
        let mut failing = 0;
        loop {
            let target = Device::new(40);
            target
                .errno
                .set(if failing % 2 == 0 { ENOMEM } else { EINTR });
            let cell = points(&target)[point];
            cell.set(Some(failing));
            let mut session = target.loader();
            let mut at = 0;
            let mut errors = 0;
            while at < stream.len() {
                let before = session.stats().bytes;
                let end = stream.len().min(at + 120);
                let result = feed(&mut session, &target, &stream[at..end]);
                at += (session.stats().bytes - before) as usize;
                match result {
                    Ok(()) => assert_eq!(at, end),
                    Err(error) => {
                        assert!(error.is_transient(), "{error}");
                        assert!(!session.is_broken());
                        assert!(at < end);
                        errors += 1;
                        points(&target)[point].set(None);
                    }
                }
            }
            session.finish(&target).unwrap();
            target.assert_same(&device);
            if errors == 0 {
                break;
            }
            assert_eq!(errors, 1);
            failing += 1;
        }
        assert!(failing > 1, "point {point} was reached {failing} times");
    }
}

/// The same for a user who does not know how much data the device took. This user sends the buffer again, starts
/// another stream, or restarts the load.
#[test]
fn p26_a_user_who_lost_his_place_goes_on_at_the_beginning_of_a_buffer() {
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Then {
        SameBuffer,
        OtherStream,
        Afresh,
        NextBuffer,
    }
    let (device, buffers) = source(300);
    let (other_device, other_stream) = other();
    for then in [
        Then::SameBuffer,
        Then::OtherStream,
        Then::Afresh,
        Then::NextBuffer,
    ] {
        for point in 0..4 {
            for failing in 0.. {
                let target = Device::new(40);
                points(&target)[point].set(Some(failing));
                let mut session = target.loader();
                let failed = buffers
                    .iter()
                    .position(|buffer| feed(&mut session, &target, buffer).is_err());
                points(&target)[point].set(None);
                let Some(failed) = failed else {
                    assert!(failing > 1);
                    break;
                };
                session.lose_position();
                assert!(session.is_broken());
                let what = format!("{then:?}, {failing} of {point}");
                let rest = match then {
                    Then::SameBuffer => buffers[failed..].concat(),
                    Then::OtherStream => other_stream.clone(),
                    Then::Afresh => {
                        session.restart();
                        target.pages.borrow_mut().clear();
                        buffers.concat()
                    }
                    Then::NextBuffer => buffers[failed + 1..].concat(),
                };
                let result = feed(&mut session, &target, &rest);
                if then == Then::NextBuffer {
                    // The device detects the missing data.
                    let _ = result.and_then(|()| session.finish(&target)).unwrap_err();
                    assert_eq!(target.committed.get(), 0);
                    continue;
                }
                assert_eq!(result, Ok(()), "{what}");
                session.finish(&target).unwrap();
                target.assert_same(match then {
                    Then::OtherStream => &other_device,
                    _ => &device,
                });
            }
        }
    }
}

/// If discarding memory fails, the user cannot continue the previous stream.
#[test]
fn p50_nobody_goes_on_with_a_stream_whose_memory_is_being_discarded() {
    let (_, first) = source(300);
    let (_, second) = other();
    let whole = first.len() - 1;
    let target = Device::new(40);
    let mut session = target.loader();
    feed(&mut session, &target, &first[..whole].concat()).unwrap();
    target.fail_zero.set(Some(0));
    let error = feed(&mut session, &target, &second).unwrap_err();
    assert_eq!(error.errno(), ENOMEM);
    target.fail_zero.set(None);
    session.lose_position();
    // The last buffer before the failure, and the next one.
    for buffer in [&first[whole - 1], &first[whole]] {
        let mut records = crate::device::records(buffer);
        records[0].0.flags |= FLAG_AGAIN;
        let again = crate::device::join(&records);
        assert_eq!(feed(&mut session, &target, &again), Err(Error::Foreign));
        session.restart();
    }
}

/// Returns a stream of `zeros` ZERO records, each for `count` pages.
fn zeros(device: &Device, zeros: u64, count: u64) -> Vec<u8> {
    let mut bytes = device.save(4096).concat();
    bytes.truncate(HEADER_SIZE + IDENTITY_SIZE);
    let payload = (count * PAGE as u64).to_le_bytes();
    for sequence in 1..=zeros {
        let header = Header {
            kind: Kind::Zero as u16,
            flags: 0,
            length: 8,
            sequence,
            position: 0,
            payload_crc: crate::device::crc(&payload),
        };
        bytes.extend(header.encode::<Device>());
        bytes.extend(payload);
    }
    bytes
}

/// Earlier, a record of 40 bytes made a device visit all its pages. Now, it visits each block and the populated pages.
#[test]
fn p26_a_zero_record_costs_no_more_than_its_bytes_and_the_blocks() {
    const PAGES: u64 = 1 << 15;
    const RECORDS: u64 = 10_000;
    const FED: u64 = 64;
    let target = Device::new(PAGES);
    let mut session = target.loader();
    let source = Device::new(PAGES);
    for page in 0..FED {
        source.write(page * 500, 1);
    }
    let mut fed = source.save(1 << 16).concat();
    fed.truncate(fed.len() - 32 - 40);
    feed(&mut session, &target, &fed).unwrap();
    assert_eq!(target.pages.borrow().len() as u64, FED);

    target.visits.set(0);
    let all = zeros(&source, RECORDS, PAGES);
    feed(&mut session, &target, &all).unwrap();
    assert!(target.pages.borrow().is_empty());
    let blocks = PAGES / BLOCK;
    // The IDENTITY record costs as much as a ZERO record.
    assert!(target.visits.get() <= (RECORDS + 1) * blocks + FED);
}

/// A load checks for signals once per record and once per MiB of payload.
#[test]
fn p26_a_load_looks_at_signals_while_it_works() {
    let source = Device::new(40);
    let looks = |bytes: &[u8], target: &Device| {
        target.signal.set(Some(u32::MAX));
        feed(&mut target.loader(), target, bytes).unwrap();
        u32::MAX - target.signal.take().unwrap()
    };
    assert!(looks(&zeros(&source, 1000, 40), &source) >= 1000);

    // A long optional record.
    const LENGTH: usize = 3 * PIECE;
    let mut bytes = source.save(4096).concat();
    bytes.truncate(HEADER_SIZE + IDENTITY_SIZE);
    let payload = vec![7; LENGTH];
    let header = Header {
        kind: 77,
        flags: 1,
        length: payload.len() as u32,
        sequence: 1,
        position: 0,
        payload_crc: crate::device::crc(&payload),
    };
    bytes.extend(header.encode::<Device>());
    bytes.extend(&payload);
    assert!(looks(&bytes, &source) >= 3);

    // A record of memory.
    let mut identity = crate::device::identity(0);
    identity.page_size = 1 << 16;
    identity.memory_size = LENGTH as u64;
    let big = Device::with(identity);
    for page in 0..identity.pages() {
        big.write(page, 1);
    }
    let bytes = big.save(2 * LENGTH).concat();
    assert!(bytes.len() > LENGTH);
    assert!(looks(&bytes, &big) >= 3);
}

/// An interrupted save loses no data.
#[test]
fn p21_a_save_goes_on_after_a_signal() {
    for failing in 0..12 {
        let device = sample();
        let mut session = device.begin();
        session.stop();
        device.signal.set(Some(failing));
        let mut bytes = Vec::new();
        let mut errors = 0;
        loop {
            let mut out = vec![0; 300];
            match session.fill(&device, &mut out, 300) {
                Ok(0) => break,
                Ok(used) => bytes.extend(&out[..used]),
                Err(error) => {
                    assert_eq!(error, Error::Interrupted);
                    assert_eq!(error.errno(), EINTR);
                    errors += 1;
                }
            }
        }
        assert!(errors <= 1);
        let target = Device::new(40);
        target.load(&bytes).unwrap();
        target.assert_same(&device);
    }
    // A signal also interrupts the start of a save.
    let device = sample();
    device.signal.set(Some(0));
    let result = migration::save::SaveSession::begin(device.identity, vec![0; 256], &device);
    assert_eq!(result.map(|_| ()), Err(Error::Interrupted));
}
