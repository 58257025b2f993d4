// SPDX-License-Identifier: GPL-2.0

//! A stream that restarts within one load, because a reset or a new save makes the source start again (P50). Also a
//! refused load, which restarts when the VMM writes the current state.

use vfio_client::v1::State;
use vfio_client::v2;

use crate::env::{facts, Env};
use crate::fixture::bytes::all_are;
use crate::fixture::v2::V2;
use crate::fixture::{Fixture, PAGE};
use crate::harness::result::Result;
use crate::{assert_errno, tests};

tests! { "restart":
    p50_a_source_that_is_reset_in_pre_copy ["P50"],
    p50_a_save_that_was_given_up ["P50"],
    p50_a_save_that_was_complete ["P50"],
    p50_a_refused_load_begins_afresh ["P50", "P26"],
    p50_a_load_in_order_goes_on ["P50", "P26"],
    p50_v2_begins_a_refused_load_afresh ["P50", "P26"],
    p22_nothing_to_stage_is_nothing_pending ["P22"] needs [DeviceMemory],
}

/// Writes a value to pages of device memory and to the mark.
fn write(fixture: &Fixture, pages: &[u64], value: u8) -> Result {
    fixture.write_pages(pages.iter().copied(), value)
}

/// Loads all data that a source sends in one load.
fn migrate(
    env: &Env,
    what: &str,
    save: impl FnOnce(&Fixture, &dyn Fn() -> Result) -> Result,
) -> Result {
    let source = Fixture::new(env)?;
    let destination = Fixture::new(env)?;
    // The load must clear the old contents.
    write(&destination, &[77], 0x77)?;
    destination.go(&[State::RESUMING])?;
    write(&source, &[1, 2, 3, 700], 1)?;
    save(&source, &|| {
        for buffer in source.save_pending()? {
            destination.migration.load_buffer(&buffer)?;
        }
        Ok(())
    })?;
    destination.go(&[State::RUNNING])?;
    source.go(&[State::STOP])?;
    source.expect_equal(&destination, what)
}

/// The guest reboots in pre-copy. The VMM does not see that its save has ended, and later writes stop-and-copy.
/// Earlier, the destination refused the second stream: "record 0 where 3 was expected".
fn p50_a_source_that_is_reset_in_pre_copy(env: &Env) -> Result {
    migrate(env, "reset in pre-copy", |source, send| {
        source.go(&[State::PRE_COPY])?;
        send()?;
        source.device.reset()?;
        assert_eq!(source.state()?, State::RUNNING);
        // Write other pages: the reset has cleared the first ones.
        write(source, &[2, 5], 2)?;
        source.go(&[State::STOP_AND_COPY])?;
        send()
    })
}

/// The VMM cancels pre-copy and starts a new save.
fn p50_a_save_that_was_given_up(env: &Env) -> Result {
    migrate(env, "cancelled in pre-copy", |source, send| {
        source.go(&[State::PRE_COPY])?;
        send()?;
        source.go(&[State::RUNNING])?;
        write(source, &[5], 2)?;
        source.go(&[State::PRE_COPY])?;
        send()?;
        source.go(&[State::STOP_AND_COPY])?;
        send()
    })
}

/// The source restarts after it has sent END. Earlier, the destination refused this: "data after the END record".
fn p50_a_save_that_was_complete(env: &Env) -> Result {
    migrate(env, "after the end", |source, send| {
        source.go(&[State::PRE_COPY])?;
        send()?;
        source.go(&[State::STOP_AND_COPY])?;
        send()?;
        source.go(&[State::RUNNING])?;
        source.device.reset()?;
        write(source, &[3, 900], 3)?;
        source.go(&[State::STOP_AND_COPY])?;
        send()
    })
}

/// The pages of device memory in the saved streams.
const PAGES: &[u64] = &[4, 5, 300];

fn p50_a_refused_load_begins_afresh(env: &Env) -> Result {
    let (source, stream) = Fixture::saved(env, PAGES)?;
    let destination = Fixture::new(env)?;
    let mut bad = stream.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    destination.go(&[State::RESUMING])?;
    assert_errno!(destination.migration.load_buffer(&bad), EBADMSG);
    // The device keeps refusing data, even valid data.
    assert_errno!(destination.migration.load_buffer(&stream), EBADMSG);
    destination.migration.write_state(State::RESUMING)?;
    assert_eq!(destination.state()?, State::RESUMING);
    // The memory written by the refused stream is cleared.
    let memory = destination.read_pages(4..6)?;
    assert!(all_are(&memory, 0));
    destination.feed(&stream, destination.section())?;
    destination.go(&[State::RUNNING])?;
    source.expect_equal(&destination, "restarted")
}

/// VMMs write the current state again. A correct load must continue.
fn p50_a_load_in_order_goes_on(env: &Env) -> Result {
    let (source, stream) = Fixture::saved(env, PAGES)?;
    let destination = Fixture::new(env)?;
    destination.go(&[State::RESUMING])?;
    for piece in stream.chunks(PAGE as usize + 1) {
        destination.migration.write_state(State::RESUMING)?;
        destination.migration.load_buffer(piece)?;
    }
    destination.migration.write_state(State::RESUMING)?;
    destination.go(&[State::RUNNING])?;
    source.expect_equal(&destination, "with the state written before each piece")
}

fn p50_v2_begins_a_refused_load_afresh(env: &Env) -> Result {
    let (source, stream) = Fixture::saved(env, PAGES)?;
    let destination = V2::new(env)?;
    let mut bad = stream.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    let fd = destination.begin(v2::State::RESUMING)?;
    assert_errno!(fd.write_all(&bad), EBADMSG);
    assert_errno!(fd.write_all(&stream), EBADMSG);
    // The load keeps its data file.
    destination.to(v2::State::RESUMING)?;
    let (first, rest) = stream.split_at(middle);
    fd.write_all(first)?;
    destination.to(v2::State::RESUMING)?;
    fd.write_all(rest)?;
    // Another stream follows after the end.
    fd.write_all(&stream)?;
    destination.to(v2::State::RUNNING)?;
    source.expect_equal(&destination, "restarted")
}

/// Earlier, a user that iterates until `pending_bytes` is 0 never left pre-copy.
fn p22_nothing_to_stage_is_nothing_pending(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    write(&fixture, &[1, 2], 1)?;
    fixture.go(&[State::PRE_COPY])?;
    assert!(fixture.migration.pending_bytes()? > 0);
    fixture.save_pending()?;
    for _ in 0..3 {
        assert_eq!(fixture.migration.pending_bytes()?, 0, "nothing is dirty");
        let mut buffer = Vec::new();
        fixture.migration.save_buffer(&mut buffer)?;
        assert_eq!(buffer, []);
    }
    write(&fixture, &[2], 2)?;
    let pending = fixture.migration.pending_bytes()?;
    assert!(
        pending > PAGE,
        "pending_bytes for a page and the device state: {pending}"
    );
    fixture.save_pending()?;
    assert_eq!(fixture.migration.pending_bytes()?, 0);
    // After the stop, the device state is pending.
    fixture.go(&[State::STOP_AND_COPY])?;
    let pending = fixture.migration.pending_bytes()?;
    let most = PAGE + facts::known()?.state_size_max;
    assert!(pending > 0 && pending < most, "{pending}");
    Ok(())
}
