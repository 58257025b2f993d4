// SPDX-License-Identifier: GPL-2.0

//! Saving through v1: `pending_bytes`, staging, `data_size`, the data, and how often the device sends it.

use std::collections::BTreeSet;

use migration::stream::{Kind, HEADER_SIZE};
use vfio_client::v1::{Access, State};

use crate::env::{facts, Env};
use crate::fixture::bytes::same;
use crate::fixture::{device, parse, Fixture, PAGE};
use crate::harness::result::Result;
use crate::v1::region::states;
use crate::{assert_errno, tests};
use records::Stream;

tests! { "v1_saving":
    p16_reading_pending_again_changes_nothing ["P16"],
    p16_nothing_pending_when_not_saving ["P16", "P22"],
    p17_the_staged_buffer_is_complete ["P17"],
    p18_reading_again_gives_the_same_buffer ["P18"],
    p19_reading_pending_consumes_mapped_or_not ["P19"] needs [DeviceMemory],
    p20_stop_and_copy_ends_at_0 ["P20"],
    p20_pre_copy_is_left_at_every_point ["P20", "P15"],
    p21_a_session_that_is_over_gives_no_more_data ["P21"],
    p22_pending_is_what_a_stop_would_send ["P22"] needs [DeviceMemory],
    p22_pending_counts_what_is_offered_again ["P22", "P23"] needs [DeviceMemory],
    p23_data_size_is_0_before_data_offset ["P23"],
    p23_a_buffer_offered_again_may_have_been_read ["P23"],
    p23_a_consumed_buffer_is_not_sent_again ["P23"],
}

/// Fills whole pages of device memory, if the device has them, and the mark with `value`.
pub(crate) fn write_pages(
    fixture: &Fixture,
    pages: impl IntoIterator<Item = u64>,
    value: u8,
) -> Result {
    fixture.write_pages(pages, value)
}

/// Returns the set of pages in a stream.
pub(crate) fn pages(stream: &Stream) -> BTreeSet<u64> {
    stream.pages(PAGE).into_iter().collect()
}

/// Returns a set of these pages.
pub(crate) fn set(pages: impl IntoIterator<Item = u64>) -> BTreeSet<u64> {
    pages.into_iter().collect()
}

fn p16_reading_pending_again_changes_nothing(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    write_pages(&fixture, 0..300, 1)?;
    let m = &fixture.migration;
    for state in [State::PRE_COPY, State::STOP_AND_COPY] {
        fixture.go(&[state])?;
        let mut all = Vec::new();
        loop {
            let pending = m.pending_bytes()?;
            for _ in 0..5 {
                assert_eq!(m.pending_bytes()?, pending, "{state:?}");
                assert_eq!(
                    m.data_size()?,
                    0,
                    "{state:?}: reading pending staged a buffer"
                );
            }
            let mut buffer = Vec::new();
            m.save_buffer(&mut buffer)?;
            if pending == 0 || buffer.is_empty() {
                break;
            }
            all.extend(buffer);
        }
        // No data was lost between the reads.
        if state == State::PRE_COPY {
            let expected = set((0..300).filter(|page| fixture.has_page(*page)));
            assert_eq!(pages(&parse(&all)?), expected);
        }
    }
    Ok(())
}

fn p16_nothing_pending_when_not_saving(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    for state in states() {
        write_pages(&fixture, 0..2, 1)?;
        crate::v1::region::reach(&fixture, state)?;
        let saving = state == State::PRE_COPY || state == State::STOP_AND_COPY;
        assert_eq!(fixture.migration.pending_bytes()? != 0, saving, "{state:?}");
        fixture.device.reset()?;
    }
    // A session leaves no data behind when it ends.
    fixture.go(&[State::STOP_AND_COPY])?;
    fixture.migration.data_offset()?;
    fixture.go(&[State::STOP])?;
    assert_eq!(fixture.migration.pending_bytes()?, 0);
    assert_eq!(fixture.migration.data_size()?, 0);
    Ok(())
}

fn p17_the_staged_buffer_is_complete(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    write_pages(&fixture, (0..600).step_by(2), 3)?;
    let m = &fixture.migration;
    for state in [State::PRE_COPY, State::STOP_AND_COPY] {
        fixture.go(&[state])?;
        let mut records = 0;
        while m.pending_bytes()? > 0 {
            assert_eq!(m.data_size()?, 0);
            let at = m.data_offset()?;
            let size = m.data_size()?;
            if size == 0 {
                break;
            }
            assert_eq!(at, fixture.data_offset());
            assert!(size <= fixture.section() as u64);
            let mut trapped = vec![0; size as usize];
            m.region().read(at, &mut trapped)?;
            if let Some(mapping) = m.mapping() {
                same(
                    &mapping.to_vec(0, trapped.len()),
                    &trapped,
                    device(0),
                    "mapped",
                );
            }
            // The parser checks that each record is complete and has the right checksum.
            records += parse(&trapped)?.records.len();
        }
        assert!(records > 0, "{state:?}");
    }
    Ok(())
}

fn p18_reading_again_gives_the_same_buffer(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    write_pages(&fixture, 0..20, 4)?;
    let m = &fixture.migration;
    for state in [State::PRE_COPY, State::STOP_AND_COPY] {
        fixture.go(&[state])?;
        m.pending_bytes()?;
        let mut first = Vec::new();
        m.save_buffer(&mut first)?;
        assert!(!first.is_empty());
        let size = m.data_size()?;
        for round in 0..10 {
            // Device memory changes in the meantime. The buffer does not.
            if state == State::PRE_COPY {
                write_pages(&fixture, 0..20, 100 + round)?;
            }
            let mut again = Vec::new();
            assert_eq!(m.data_offset()?, fixture.data_offset());
            assert_eq!(m.data_size()?, size);
            m.save_buffer(&mut again)?;
            same(
                &again,
                &first,
                device(0),
                &format!("{state:?}, read {round}"),
            );
        }
    }
    Ok(())
}

fn p19_reading_pending_consumes_mapped_or_not(env: &Env) -> Result {
    let mut fixture = Fixture::new(env)?;
    // More than one buffer's worth.
    let count = (fixture.section() as u64 / PAGE) * 2;
    write_pages(&fixture, 0..count, 5)?;
    let accesses = [Some(Access::Trapped), Some(Access::Mapped), None];
    for access in accesses {
        if access == Some(Access::Mapped) && fixture.migration.mapping().is_none() {
            continue;
        }
        fixture
            .migration
            .set_access(access.unwrap_or(Access::Trapped))?;
        for state in [State::PRE_COPY, State::STOP_AND_COPY] {
            fixture.go(&[state])?;
            let m = &fixture.migration;
            let mut next = None;
            for _ in 0..2 {
                let pending = m.pending_bytes()?;
                m.data_offset()?;
                let size = m.data_size()?;
                // The device consumes the buffer whether or not the user has read it.
                if access.is_some() {
                    let mut bytes = vec![0; size as usize];
                    m.read_data(fixture.data_offset(), &mut bytes)?;
                    let stream = parse(&bytes)?;
                    let first = stream.records[0].header.sequence;
                    if let Some(next) = next {
                        assert_eq!(first, next, "a record was lost or repeated");
                    }
                    next = Some(first + stream.records.len() as u64);
                }
                let left = m.pending_bytes()?;
                assert_eq!(m.data_size()?, 0, "the buffer was not consumed");
                assert!(
                    left < pending,
                    "{pending} pending, {size} read, {left} left"
                );
            }
            fixture.go(&[State::RUNNING])?;
        }
    }
    Ok(())
}

fn p20_stop_and_copy_ends_at_0(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let m = &fixture.migration;
    for count in [0, 1, 255, 256, 257, 4096] {
        write_pages(&fixture, 0..count, 6)?;
        fixture.go(&[State::STOP_AND_COPY])?;
        let stream = parse(&fixture.save_pending()?.concat())?;
        for _ in 0..3 {
            assert_eq!(m.pending_bytes()?, 0);
        }
        // Another round returns no data: neither an error nor the last buffer again.
        assert_eq!(m.data_offset()?, fixture.data_offset());
        assert_eq!(m.data_size()?, 0);
        assert_eq!(m.pending_bytes()?, 0);
        assert_eq!(
            stream.records.last().and_then(|r| r.kind()),
            Some(Kind::End)
        );
        let expected = set((0..count).filter(|page| fixture.has_page(*page)));
        assert_eq!(pages(&stream), expected);
        fixture.go(&[State::STOP])?;
        fixture.device.reset()?;
    }
    Ok(())
}

fn p20_pre_copy_is_left_at_every_point(env: &Env) -> Result {
    let source = Fixture::new(env)?;
    let destination = Fixture::new(env)?;
    let count = source.section() as u64 / PAGE * 3 + 7;
    write_pages(&source, 0..count, 7)?;
    let expected = source.read_pages(0..count)?;
    // Stop after `buffers` buffers, with the last one consumed or only staged.
    for buffers in 0..6 {
        for consumed in [true, false] {
            let mut bytes = Vec::new();
            source.go(&[State::PRE_COPY])?;
            for n in 1..=buffers {
                source.migration.pending_bytes()?;
                let mut buffer = Vec::new();
                source.migration.save_buffer(&mut buffer)?;
                bytes.extend(buffer);
                if n == buffers && consumed {
                    source.migration.pending_bytes()?;
                }
            }
            source.go(&[State::STOP_AND_COPY])?;
            bytes.extend(source.save_pending()?.concat());
            source.go(&[State::STOP, State::RUNNING])?;
            destination.load(&bytes)?;
            let found = destination.read_pages(0..count)?;
            destination.expect_mark(7, "loaded");
            same(
                &found,
                &expected,
                device(0),
                &format!("{buffers} buffers, last one consumed: {consumed}"),
            );
        }
    }
    Ok(())
}

fn p21_a_session_that_is_over_gives_no_more_data(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let m = &fixture.migration;
    write_pages(&fixture, 0..1000, 8)?;
    // A reset in the middle of a save ends the session, and the next reads show it.
    fixture.go(&[State::PRE_COPY])?;
    m.pending_bytes()?;
    m.data_offset()?;
    assert!(m.data_size()? > 0);
    fixture.device.reset()?;
    assert_eq!(m.data_size()?, 0);
    assert_eq!(m.pending_bytes()?, 0);
    m.data_offset()?;
    assert_eq!(m.data_size()?, 0, "a buffer after the session ended");
    // After an error, the device refuses all later writes of data_size.
    fixture.go(&[State::RESUMING])?;
    m.write_data(fixture.data_offset(), &[0xff; 64])?;
    assert_errno!(m.write_data_size(64), EINVAL);
    for size in [32, 64, 4096] {
        assert_errno!(m.write_data_size(size), EINVAL, "after the first error");
    }
    Ok(())
}

/// The maximal error of an estimate: additional headers where a buffer ends within a record, and state that is smaller
/// than its maximum.
fn slack(buffers: usize) -> Result<u64> {
    let headers = HEADER_SIZE * (4 + 2 * buffers);
    Ok(facts::known()?.state_size_max + headers as u64)
}

fn p22_pending_is_what_a_stop_would_send(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let m = &fixture.migration;
    for count in [0, 1, 100, 2000] {
        write_pages(&fixture, 0..count, 9)?;
        fixture.go(&[State::PRE_COPY])?;
        let estimate = m.pending_bytes()?;
        fixture.go(&[State::STOP_AND_COPY])?;
        assert_eq!(m.pending_bytes()?, estimate, "the stop added data");
        let buffers = fixture.save_pending()?;
        let sent: usize = buffers.iter().map(Vec::len).sum();
        let off = estimate.abs_diff(sent as u64);
        assert!(
            off <= slack(buffers.len())?,
            "{estimate} bytes pending, {sent} sent, {count} pages"
        );
        fixture.go(&[State::STOP, State::RUNNING])?;
    }
    // While the device runs, changed pages are added.
    fixture.go(&[State::PRE_COPY])?;
    fixture.save_pending()?;
    let quiet = m.pending_bytes()?;
    assert_eq!(quiet, 0, "pending_bytes without changes");
    write_pages(&fixture, 10..20, 10)?;
    let busy = m.pending_bytes()?;
    // A stop would also send the state, which counts with its maximum.
    let state = facts::known()?.state_size_max;
    assert!(
        (10 * PAGE..11 * PAGE + state).contains(&busy),
        "{busy} after 10 pages were written, the state has at most {state}"
    );
    // Changing the same pages again adds nothing.
    write_pages(&fixture, 10..20, 11)?;
    assert_eq!(m.pending_bytes()?, busy);
    Ok(())
}

fn p22_pending_counts_what_is_offered_again(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let m = &fixture.migration;
    write_pages(&fixture, 0..100, 12)?;
    fixture.go(&[State::PRE_COPY])?;
    let before = m.pending_bytes()?;
    m.data_offset()?;
    let staged = m.data_size()?;
    assert!(staged > 100 * PAGE);
    fixture.go(&[State::STOP_AND_COPY])?;
    let after = m.pending_bytes()?;
    assert!(
        after.abs_diff(before) <= slack(2)?,
        "{before}, then {after}"
    );
    assert_eq!(
        m.pending_bytes()?,
        after,
        "the read consumed a buffer that was not offered again"
    );
    let mut again = Vec::new();
    m.save_buffer(&mut again)?;
    assert_eq!(again.len() as u64, staged);
    let left = m.pending_bytes()?;
    assert_eq!(after - left, staged, "the buffer was not counted once");
    Ok(())
}

fn p23_data_size_is_0_before_data_offset(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    for state in states() {
        write_pages(&fixture, 0..3, 13)?;
        crate::v1::region::reach(&fixture, state)?;
        assert_eq!(fixture.migration.data_size()?, 0, "{state:?}");
        fixture.migration.pending_bytes()?;
        assert_eq!(
            fixture.migration.data_size()?,
            0,
            "{state:?}, after pending_bytes"
        );
        fixture.migration.data_offset()?;
        let saving = state == State::PRE_COPY || state == State::STOP_AND_COPY;
        assert_eq!(
            fixture.migration.data_size()? > 0,
            saving,
            "{state:?}, after data_offset"
        );
        fixture.device.reset()?;
    }
    Ok(())
}

fn p23_a_buffer_offered_again_may_have_been_read(env: &Env) -> Result {
    let source = Fixture::new(env)?;
    let destination = Fixture::new(env)?;
    write_pages(&source, 0..50, 14)?;
    for was_read in [true, false] {
        source.go(&[State::PRE_COPY])?;
        source.migration.pending_bytes()?;
        let mut staged = Vec::new();
        source.migration.save_buffer(&mut staged)?;
        // The rest contains changes made after the staging.
        write_pages(&source, 20..30, if was_read { 15 } else { 16 })?;
        source.go(&[State::STOP_AND_COPY])?;
        let rest = source.save_pending()?;
        source.go(&[State::STOP, State::RUNNING])?;

        let again = parse(&rest[0])?;
        let first = parse(&staged)?;
        assert_eq!(again.records.len(), first.records.len());
        for (a, b) in again.records.iter().zip(&first.records) {
            assert_eq!(a.header.sequence, b.header.sequence);
            assert!(a.payload == b.payload, "the buffer changed");
        }
        let mut bytes = if was_read { staged } else { Vec::new() };
        bytes.extend(rest.concat());
        destination.load(&bytes)?;
        let expected = source.read_pages(0..60)?;
        let found = destination.read_pages(0..60)?;
        same(
            &found,
            &expected,
            device(0),
            &format!("first copy read: {was_read}"),
        );
        destination.expect_mark(if was_read { 15 } else { 16 }, "loaded");
        destination.device.reset()?;
    }
    Ok(())
}

fn p23_a_consumed_buffer_is_not_sent_again(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    write_pages(&fixture, 0..50, 17)?;
    fixture.go(&[State::PRE_COPY])?;
    let first = parse(&fixture.save_pending()?.concat())?;
    fixture.go(&[State::STOP_AND_COPY])?;
    let rest = parse(&fixture.save_pending()?.concat())?;
    let expected = first.records.len() as u64;
    assert_eq!(rest.records[0].header.sequence, expected);
    assert_eq!(rest.count(Kind::Memory), 0);
    assert_eq!(rest.count(Kind::Identity), 0);
    Ok(())
}
