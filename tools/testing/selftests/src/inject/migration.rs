// SPDX-License-Identifier: GPL-2.0

//! Failures of the calls of a migration: buffers and changes of state.

use vfio_client::{v1, v2};

use crate::env::Env;
use crate::fixture::snapshot::Snapshot;
use crate::fixture::v2::V2;
use crate::fixture::{parse, Fixture, MARK};
use crate::harness::result::Result;
use crate::inject::point::Point;
use crate::{assert_errno, assert_refused, tests};

tests! { "inject":
    p21_a_buffer_of_a_save_by_v1 ["P21"],
    a_buffer_of_a_save_by_v2 [],
    p26_a_buffer_of_a_load_by_v1 ["P26"],
    a_buffer_of_a_load_by_v2 [],
    p10_a_stop_by_v1 ["P10"],
    a_stop_by_v2 [],
    p10_a_run_by_v1 ["P10"],
    a_run_by_v2 [],
    a_run_after_a_load [],
}

/// Returns the sizes of at least two pieces of a stream.
fn pieces(stream: &[u8]) -> (&[u8], &[u8]) {
    stream.split_at(stream.len() / 2)
}

fn p21_a_buffer_of_a_save_by_v1(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    fixture.fill_state(&[1, 5])?;
    let expected = fixture.save()?;
    let point = Point::of(fixture.uuid(), "save")?;
    fixture.go(&[v1::State::RUNNING, v1::State::PRE_COPY])?;
    point.fail(2)?;
    let mut bytes = fixture.save_pending()?.concat();
    // The second read that stages a buffer, in stop-and-copy.
    fixture.go(&[v1::State::STOP_AND_COPY])?;
    let uuid = fixture.uuid().to_string();
    assert_refused!(
        env,
        uuid,
        fixture.migration.data_offset(),
        EIO,
        "fault injection: save"
    );
    point.expect_failed(1)?;
    // The state is what it was, and nothing is lost: the next read stages the buffer.
    assert_eq!(fixture.state()?, v1::State::STOP_AND_COPY);
    bytes.extend(fixture.save_pending()?.concat());
    Snapshot::of(&parse(&bytes)?)?.expect(&Snapshot::of(&parse(&expected)?)?, "the stream");
    fixture.device.reset()?;
    fixture.usable()
}

fn a_buffer_of_a_save_by_v2(env: &Env) -> Result {
    let v2 = V2::new(env)?;
    v2.fill_state(&[1, 5])?;
    let expected = v2.save_v2()?;
    let point = Point::of(v2.uuid(), "save")?;
    let fd = v2.begin(v2::State::STOP_COPY)?;
    for _ in 0..3 {
        point.fail(1)?;
        assert_errno!(fd.read(&mut [0; 64]), EIO);
    }
    point.expect_failed(3)?;
    assert_eq!(v2.now()?, v2::State::STOP_COPY);
    let mut bytes = Vec::new();
    fd.read_available(&mut bytes)?;
    Snapshot::of(&parse(&bytes)?)?.expect(&Snapshot::of(&parse(&expected)?)?, "the stream");
    v2.reset()?;
    v2.usable()
}

/// The error is final, as of any stream that is refused: the load ends in the error state.
fn p26_a_buffer_of_a_load_by_v1(env: &Env) -> Result {
    let (fixture, stream) = Fixture::saved(env, &[1, 5])?;
    let point = Point::of(fixture.uuid(), "load")?;
    let (first, second) = pieces(&stream);
    fixture.device.reset()?;
    for (nth, piece) in [(1, first), (2, second)] {
        fixture.go(&[v1::State::RESUMING])?;
        point.fail(nth)?;
        if nth == 2 {
            fixture.migration.load_buffer(first)?;
        }
        assert_errno!(fixture.migration.load_buffer(piece), EIO, "buffer {nth}");
        point.expect_failed(nth)?;
        assert_errno!(fixture.migration.load_buffer(piece), EIO, "the next one");
        assert_eq!(fixture.state()?, v1::State::RESUMING);
        assert_errno!(fixture.migration.set_state(v1::State::RUNNING), EIO);
        assert_eq!(fixture.state()?, v1::State::ERROR);
        fixture.device.reset()?;
        fixture.expect_no_mark("after the reset");
    }
    fixture.load(&stream)?;
    fixture.expect_mark(MARK, "after a load that nothing disturbs");
    fixture.usable()
}

fn a_buffer_of_a_load_by_v2(env: &Env) -> Result {
    let (v2, stream) = V2::saved(env, &[1, 5])?;
    let point = Point::of(v2.uuid(), "load")?;
    let (first, second) = pieces(&stream);
    v2.reset()?;
    let fd = v2.begin(v2::State::RESUMING)?;
    point.fail(2)?;
    fd.write_all(first)?;
    assert_errno!(fd.write(second), EIO);
    point.expect_failed(1)?;
    assert_errno!(fd.write(second), EIO, "the next one");
    assert_errno!(v2.feature.set_state(v2::State::STOP), EIO);
    assert_eq!(v2.now()?, v2::State::ERROR);
    v2.reset()?;
    v2.load_v2(&stream)?;
    v2.expect_mark(MARK, "after a load that nothing disturbs");
    v2.usable()
}

/// The state is what it was (P10), and the device works in it. Only changes that stop the device count.
fn p10_a_stop_by_v1(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let point = Point::of(fixture.uuid(), "stop")?;
    let uuid = fixture.uuid().to_string();
    for (from, to) in [
        (v1::State::RUNNING, v1::State::STOP),
        (v1::State::RUNNING, v1::State::STOP_AND_COPY),
        (v1::State::RUNNING, v1::State::RESUMING),
        (v1::State::PRE_COPY, v1::State::STOP_AND_COPY),
    ] {
        fixture.go(&[from])?;
        point.fail(1)?;
        let before = point.failed()?;
        assert_refused!(
            env,
            uuid,
            fixture.migration.set_state(to),
            EIO,
            "fault injection: stop"
        );
        point.expect_failed(before + 1)?;
        assert_eq!(fixture.state()?, from, "{from} to {to}");
        fixture.go(&[to])?;
        // A stopped device is not stopped again.
        point.fail(1)?;
        if to == v1::State::STOP_AND_COPY {
            fixture.go(&[v1::State::STOP])?;
        }
        assert_eq!(point.left()?, 1, "{to}");
        point.fail(0)?;
        fixture.device.reset()?;
    }
    fixture.usable()
}

fn a_stop_by_v2(env: &Env) -> Result {
    let v2 = V2::new(env)?;
    let point = Point::of(v2.uuid(), "stop")?;
    for (from, to) in [
        (v2::State::RUNNING, v2::State::RUNNING_P2P),
        (v2::State::RUNNING, v2::State::STOP),
        (v2::State::RUNNING, v2::State::RESUMING),
        (v2::State::PRE_COPY, v2::State::STOP_COPY),
    ] {
        let _fd = v2.feature.set_state(from)?;
        point.fail(1)?;
        let before = point.failed()?;
        assert_errno!(v2.feature.set_state(to), EIO, "{from} to {to}");
        point.expect_failed(before + 1)?;
        assert_eq!(v2.now()?, from, "{from} to {to}");
        // The session of pre-copy is open.
        let _other = v2.feature.set_state(to)?;
        assert_eq!(v2.now()?, to);
        v2.reset()?;
    }
    v2.usable()
}

fn p10_a_run_by_v1(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let point = Point::of(fixture.uuid(), "run")?;
    for from in [v1::State::STOP, v1::State::STOP_AND_COPY] {
        fixture.go(&[from])?;
        point.fail(1)?;
        let before = point.failed()?;
        let run = fixture.migration.set_state(v1::State::RUNNING);
        assert_errno!(run, ENOMEM, "from {from}");
        point.expect_failed(before + 1)?;
        assert_eq!(fixture.state()?, from);
        fixture.go(&[v1::State::RUNNING])?;
    }
    fixture.usable()
}

/// The change stops on its way: the device is stopped for DMA and answers accesses.
fn a_run_by_v2(env: &Env) -> Result {
    let v2 = V2::new(env)?;
    let point = Point::of(v2.uuid(), "run")?;
    v2.to(v2::State::STOP)?;
    point.fail(1)?;
    assert_errno!(v2.feature.set_state(v2::State::RUNNING), ENOMEM);
    point.expect_failed(1)?;
    assert_eq!(v2.now()?, v2::State::RUNNING_P2P);
    v2.to(v2::State::RUNNING)?;
    v2.usable()
}

/// What was loaded cannot run: v1 leaves the error state, v2 the last state on the way.
fn a_run_after_a_load(env: &Env) -> Result {
    let (v2, stream) = V2::saved(env, &[1])?;
    let point = Point::of(v2.uuid(), "run")?;
    v2.go(&[v1::State::RESUMING])?;
    v2.feed(&stream, v2.section())?;
    point.fail(1)?;
    assert_errno!(v2.migration.set_state(v1::State::RUNNING), ENOMEM);
    point.expect_failed(1)?;
    assert_eq!(v2.state()?, v1::State::ERROR);
    v2.reset()?;
    v2.begin(v2::State::RESUMING)?.write_all(&stream)?;
    point.fail(1)?;
    assert_errno!(v2.feature.set_state(v2::State::RUNNING), ENOMEM);
    assert_eq!(v2.now()?, v2::State::RUNNING_P2P);
    v2.to(v2::State::RUNNING)?;
    v2.expect_mark(MARK, "after the second try");
    v2.usable()
}
