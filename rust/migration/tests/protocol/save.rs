// SPDX-License-Identifier: GPL-2.0

//! The data that a source sends.

use crate::device::{fill_all, records, sample, Device, ENOMEM, PAGE, STATE_MAX};
use migration::save::{estimate, min_output, PrecopyInfo, SaveSession};
use migration::stream::{Error, Kind, PartTable, FLAG_START};
use std::cell::Cell;

const H: u64 = 32;

fn kinds(stream: &[u8]) -> Vec<Kind> {
    records(stream)
        .iter()
        .map(|(header, _)| Kind::from_u16(header.kind).unwrap())
        .collect()
}

#[test]
fn p15_a_device_without_memory_has_a_pre_copy() {
    let device = Device::new(0);
    *device.state.borrow_mut() = vec![7; 10];
    let mut session = device.begin();
    let first = fill_all(&mut session, &device, 4096).concat();
    assert_eq!(kinds(&first), [Kind::Identity]);
    // P22: the device has no data to stage before the stop, and some after it.
    assert_eq!(session.pending(&device), 0);
    assert_eq!(session.remaining(&device), H + STATE_MAX as u64 + H + 40);
    session.stop();
    assert_eq!(session.pending(&device), session.remaining(&device));
    let rest = fill_all(&mut session, &device, 4096).concat();
    assert_eq!(rest.len() as u64, H + 10 + H + 40);
    let target = Device::new(0);
    target.load(&[first, rest].concat()).unwrap();
    target.assert_same(&device);
}

#[test]
fn p20_stop_and_copy_sends_the_rest_and_ends() {
    let device = sample();
    let mut session = device.begin();
    session.stop();
    assert!(!session.is_complete());
    let stream = fill_all(&mut session, &device, 4096).concat();
    assert_eq!(*kinds(&stream).last().unwrap(), Kind::End);
    assert!(session.is_complete());
    assert!(!session.has_data(&device));
    assert_eq!(session.pending(&device), 0);
    // The session sends no data after the end, even if pages become dirty.
    device.write(3, 9);
    assert_eq!(session.fill(&device, &mut vec![0; 4096], 4096), Ok(0));
    assert_eq!(session.pending(&device), 0);
}

#[test]
fn p22_pending_is_what_a_stop_would_send() {
    // The state has its maximal length, so the result is exact.
    let device = sample();
    *device.state.borrow_mut() = vec![1; STATE_MAX];
    let mut session = device.begin();
    let whole = session.pending(&device);
    assert_eq!(
        whole,
        (H + 56) + (5 * 64 + 3 * H) + (H + STATE_MAX as u64) + (H + 40)
    );
    // Without a session, the estimate does not know which of the five pages are adjacent.
    assert_eq!(
        whole + 2 * H,
        estimate(&device.identity, PartTable::EMPTY, &device)
    );
    assert_eq!(
        whole,
        device
            .save(4096)
            .iter()
            .map(|buffer| buffer.len() as u64)
            .sum::<u64>()
    );

    // P16: reading the value has no side effect.
    session = device.begin();
    for _ in 0..3 {
        assert_eq!(session.pending(&device), whole);
    }
    let sent = fill_all(&mut session, &device, 4096).concat().len() as u64;
    assert_eq!(session.remaining(&device), whole - sent);
    assert_eq!(session.pending(&device), 0, "nothing to stage");
    device.write(20, 1);
    device.write(21, 1);
    assert_eq!(session.pending(&device), whole - sent + 2 * 64 + H);
    session.stop();
    let expected = session.pending(&device);
    let rest = fill_all(&mut session, &device, 4096).concat().len() as u64;
    assert_eq!(rest, expected);
}

#[test]
fn p22_pending_falls_by_what_is_sent_buffer_by_buffer() {
    let device = sample();
    *device.state.borrow_mut() = vec![1; STATE_MAX];
    let mut session = device.begin();
    session.stop();
    let len = min_output(&device.identity) as usize;
    let mut out = vec![0; len];
    let mut before = session.pending(&device);
    loop {
        let used = session.fill(&device, &mut out, len).unwrap() as u64;
        let after = session.pending(&device);
        if used == 0 {
            assert_eq!(after, 0);
            break;
        }
        // Splitting a run or the state costs another header.
        assert!(before <= used + after && used + after <= before + H);
        before = after;
    }
}

#[test]
fn p45_initial_falls_to_zero_and_dirty_grows() {
    let device = sample();
    let mut session = device.begin();
    let all = 5 * 64 + 3 * H;
    assert_eq!(
        session.precopy_info(&device),
        PrecopyInfo {
            initial_bytes: all + H + 56,
            dirty_bytes: 0,
            ..PrecopyInfo::default()
        }
    );
    // One record with pages 0 to 2. A page that was sent becomes dirty. A page that was not sent stays initial.
    let mut out = vec![0; 400];
    let used = session
        .fill(&device, &mut out, (H + 56 + H) as usize + 3 * PAGE)
        .unwrap();
    assert_eq!(kinds(&out[..used]), [Kind::Identity, Kind::Memory]);
    device.write(1, 1);
    device.write(30, 1);
    assert_eq!(
        session.precopy_info(&device),
        PrecopyInfo {
            initial_bytes: 3 * 64 + 3 * H,
            dirty_bytes: 64 + H,
            ..PrecopyInfo::default()
        }
    );
    fill_all(&mut session, &device, 4096);
    assert_eq!(session.precopy_info(&device), PrecopyInfo::default());
    assert!(!session.has_data(&device));
    device.write(39, 1);
    assert!(session.has_data(&device));
    assert_eq!(
        session.precopy_info(&device),
        PrecopyInfo {
            initial_bytes: 0,
            dirty_bytes: 64 + H,
            ..PrecopyInfo::default()
        }
    );
}

#[test]
fn p45_nothing_is_initial_after_an_empty_first_pass() {
    let device = Device::new(10);
    let mut session = device.begin();
    assert_eq!(session.precopy_info(&device).initial_bytes, H + 56);
    fill_all(&mut session, &device, 4096);
    device.write(3, 1);
    assert_eq!(
        session.precopy_info(&device),
        PrecopyInfo {
            initial_bytes: 0,
            dirty_bytes: 64 + H,
            ..PrecopyInfo::default()
        }
    );
}

#[test]
fn p46_pre_copy_with_nothing_dirty_gives_nothing() {
    let device = sample();
    let mut session = device.begin();
    fill_all(&mut session, &device, 4096);
    let mut out = vec![0xee; 4096];
    for _ in 0..3 {
        assert_eq!(session.fill(&device, &mut out, 4096), Ok(0));
    }
    assert_eq!(out, [0xee; 4096]);
    device.write(5, 5);
    let used = session.fill(&device, &mut out, 4096).unwrap();
    assert_eq!(used as u64, H + 64);
}

#[test]
fn p22_passes_are_counted_when_memory_was_sent() {
    let device = sample();
    let mut session = device.begin();
    assert_eq!(session.stats().passes, 0);
    fill_all(&mut session, &device, 4096);
    assert_eq!(session.stats().passes, 1);
    fill_all(&mut session, &device, 4096);
    assert_eq!(session.stats().passes, 1);
    device.write(8, 1);
    fill_all(&mut session, &device, 4096);
    assert_eq!(session.stats().passes, 2);
    device.write(9, 1);
    session.stop();
    fill_all(&mut session, &device, 4096);

    let stats = session.stats();
    assert_eq!(stats.passes, 3);
    assert_eq!((stats.pre_copy.pages, stats.stop_copy.pages), (6, 1));
    assert_eq!((stats.pre_copy.records, stats.stop_copy.records), (5, 3));
    assert_eq!(stats.pre_copy.bytes, 5 * H + 56 + 6 * 64);
    assert_eq!(stats.stop_copy.bytes, 3 * H + 64 + 100 + 40);
    assert_eq!(stats.restaged, 0);
}

#[test]
fn p22_holes_cost_nothing() {
    let device = Device::new(1 << 16);
    device.write(60_000, 1);
    let stream = device.save(1 << 20).concat();
    assert_eq!(stream.len() as u64, (H + 56) + (H + 64) + (H + 40));
    assert_eq!(device.copied.get(), 64);
}

#[test]
fn p50_runs_are_coalesced_up_to_the_buffer() {
    let device = Device::new(100);
    for page in 0..100 {
        device.write(page, page as u8);
    }
    let whole = records(&device.save(1 << 16).concat());
    assert_eq!(whole.len(), 3);
    assert_eq!(whole[1].1, device.memory());
    // Each buffer contains complete records, and the first has FLAG_START.
    let buffers = device.save(1000);
    let mut at = 0;
    for buffer in &buffers {
        assert!(buffer.len() <= 1000);
        for (number, (header, _)) in records(buffer).iter().enumerate() {
            assert_eq!(header.flags, if number == 0 { FLAG_START } else { 0 });
            assert_eq!(header.sequence, at);
            at += 1;
        }
    }
    assert!(buffers.len() > 6);
}

#[test]
fn p25_any_buffer_that_has_room_for_a_page_will_do() {
    let device = sample();
    *device.state.borrow_mut() = vec![3; STATE_MAX];
    let min = min_output(&device.identity) as usize;
    assert_eq!(min, 32 + PAGE);
    for len in min..min + 2 * PAGE {
        let target = Device::new(40);
        target.load(&device.save(len).concat()).unwrap();
        target.assert_same(&device);
    }
    let mut session = device.begin();
    let space = Error::Space {
        needed: min as u64,
        available: min as u64 - 1,
    };
    let mut out = vec![0xee; min];
    assert_eq!(session.fill(&device, &mut out, min - 1), Err(space));
    assert_eq!(space.errno(), 28);
    assert_eq!(out, vec![0xee; min]);
}

#[test]
fn p50_a_page_that_became_a_hole_is_sent_as_zeros() {
    let device = sample();
    let mut session = device.begin();
    let mut stream = fill_all(&mut session, &device, 4096).concat();
    device.write(3, 3);
    for page in [1, 2, 39] {
        device.discard(page);
    }
    session.stop();
    let rest = fill_all(&mut session, &device, 4096).concat();
    use Kind::*;
    assert_eq!(kinds(&rest), [Zero, Memory, Zero, Device, End]);
    assert_eq!(records(&rest)[0].0.position, PAGE as u64);
    assert_eq!(records(&rest)[0].1, (2 * PAGE as u64).to_le_bytes());
    assert_eq!(session.stats().stop_copy.zero_pages, 3);
    stream.extend(rest);
    let target = crate::device::Device::new(40);
    target.load(&stream).unwrap();
    target.assert_same(&device);
    assert_eq!(target.pages.borrow().len(), 3);
}

#[test]
fn p21_an_error_comes_back_and_nothing_is_lost() {
    for put in [false, true] {
        // Count the calls, then fail each of them in turn and continue.
        let calls = {
            let device = sample();
            countdown(&device, put).set(Some(1000));
            device.save(300);
            1000 - countdown(&device, put).get().unwrap()
        };
        assert!(calls > 3);
        for failing in 0..=calls {
            let device = sample();
            let mut session = device.begin();
            session.stop();
            countdown(&device, put).set(Some(failing));
            let mut stream = Vec::new();
            let mut errors = 0;
            loop {
                let mut out = vec![0; 300];
                match session.fill(&device, &mut out, 300) {
                    Ok(0) => break,
                    Ok(used) => stream.extend(&out[..used]),
                    Err(error) => {
                        assert_eq!(error.errno(), ENOMEM);
                        errors += 1;
                        countdown(&device, put).set(None);
                    }
                }
            }
            assert_eq!(errors, u32::from(failing < calls), "{failing} of {calls}");
            let target = Device::new(40);
            target.load(&stream).unwrap();
            target.assert_same(&device);
        }
    }
}

fn countdown(device: &Device, put: bool) -> &Cell<Option<u32>> {
    match put {
        true => &device.fail_put,
        false => &device.fail_copy,
    }
}

#[test]
fn p21_a_state_that_cannot_be_saved_ends_the_loop() {
    let device = sample();
    let mut session = device.begin();
    session.stop();
    device.fail_state.set(true);
    let mut out = vec![0; 4096];
    // The session returns complete records first.
    assert!(session.fill(&device, &mut out, 4096).unwrap() > 0);
    let error = session.fill(&device, &mut out, 4096).unwrap_err();
    assert_eq!(error.errno(), ENOMEM);
    assert_eq!(
        error.to_string(),
        "saving the device state failed with errno 12"
    );
    assert!(!session.is_complete());
    assert!(session.pending(&device) > 0);
}

#[test]
fn p21_a_state_longer_than_its_bound_is_an_error() {
    let device = sample();
    device.claim.set(STATE_MAX - 100);
    assert_eq!(device.save(4096).concat().len() as u64, {
        (H + 56) + (5 * 64 + 3 * H) + (H + STATE_MAX as u64) + (H + 40)
    });
    device.claim.set(STATE_MAX - 99);
    let mut session = device.begin();
    session.stop();
    let mut out = vec![0; 4096];
    session.fill(&device, &mut out, 4096).unwrap();
    let space = Error::Space {
        needed: STATE_MAX as u64 + 1,
        available: STATE_MAX as u64,
    };
    assert_eq!(session.fill(&device, &mut out, 4096), Err(space));
}

#[test]
fn p22_a_pass_ends_with_the_last_page_though_the_buffer_is_full() {
    let device = Device::new(4);
    device.write(2, 2);
    let mut session = device.begin();
    session.stop();
    // The buffer has room for the page and END, but not for another page.
    let len = (H + 56 + H + 64 + H + 40) as usize;
    let buffers = fill_all(&mut session, &device, len);
    assert_eq!(buffers.len(), 1);
    assert_eq!(session.stats().passes, 1);
}

#[test]
fn p25_pages_smaller_than_a_control_record_will_do() {
    // A ZERO record is longer than a page, and the state longer than the smallest buffer.
    let mut tiny = crate::device::identity(0);
    tiny.page_size = 4;
    tiny.memory_size = 64;
    let source = Device::with(tiny);
    for page in 0..16 {
        source.write(page, page as u8);
    }
    *source.state.borrow_mut() = (0..200).collect();
    let len = min_output(&tiny) as usize;
    for extra in 0..40 {
        let mut session = source.begin();
        let mut stream = fill_all(&mut session, &source, len + extra).concat();
        for page in [0, 2, 3, 7, 11, 15] {
            source.discard(page);
        }
        session.stop();
        stream.extend(fill_all(&mut session, &source, len + extra).concat());
        let target = Device::with(tiny);
        target.load(&stream).unwrap();
        target.assert_same(&source);
        for page in [0, 2, 3, 7, 11, 15] {
            source.write(page, page as u8);
        }
    }
}

#[test]
fn p47_the_size_is_known_without_a_session() {
    let device = sample();
    device.dirty.clear_all();
    let size = estimate(&device.identity, PartTable::EMPTY, &device);
    assert!(device.dirty.is_clean());
    let sent: usize = device.save(4096).iter().map(Vec::len).sum();
    // The estimate is exact except for the maximal state size, and a header for each of the five pages in three runs.
    assert_eq!(size, sent as u64 + (STATE_MAX - 100) as u64 + 2 * H);
    // The estimate counts no more headers than possible runs.
    for page in 0..40 {
        device.write(page, 1);
    }
    let sent: usize = device.save(4096).iter().map(Vec::len).sum();
    assert_eq!(
        estimate(&device.identity, PartTable::EMPTY, &device),
        sent as u64 + (STATE_MAX - 100) as u64
    );
    // A device without memory and state still sends IDENTITY and END.
    let mut bare = crate::device::identity(0);
    bare.state_size_max = 0;
    assert_eq!(
        estimate(&bare, PartTable::EMPTY, &Device::with(bare)),
        H + 56 + H + 40
    );
}

#[test]
fn p22_p47_the_device_knows_the_size_of_its_state() {
    let device = sample();
    device.state_size.set(Some(100));
    let sent = |session: &mut _| -> u64 {
        let buffers: Vec<Vec<u8>> = fill_all(session, &device, 4096);
        buffers.iter().map(|buffer| buffer.len() as u64).sum()
    };
    let mut session = device.begin();
    let size = estimate(&device.identity, PartTable::EMPTY, &device);
    let pending = session.pending(&device);
    session.stop();
    let total = sent(&mut session);
    assert_eq!(pending, total);
    // A header for each of the five pages in three runs.
    assert_eq!(size, total + 2 * H);
    // A device that estimates too much is not believed.
    let session = device.begin();
    for wrong in [STATE_MAX as u64 + 1, u64::MAX] {
        device.state_size.set(Some(wrong));
        assert_eq!(session.pending(&device), pending + (STATE_MAX - 100) as u64);
    }
    // Without state there is no record for it.
    device.state_size.set(Some(0));
    assert_eq!(session.pending(&device), pending - 100 - H);
}

#[test]
fn p49_a_session_wants_what_the_identity_promises() {
    let device = sample();
    let mut bigger = device.identity;
    bigger.memory_size *= 2;
    let error = SaveSession::begin(bigger, vec![0; STATE_MAX], &device).unwrap_err();
    assert_eq!(error.errno(), 22);
    let error = SaveSession::begin(device.identity, vec![0; STATE_MAX - 1], &device).unwrap_err();
    assert_eq!(error.errno(), 28);
    let mut odd = device.identity;
    odd.page_size = 63;
    assert!(SaveSession::begin(odd, vec![0; STATE_MAX], &device).is_err());
}
