// SPDX-License-Identifier: GPL-2.0

//! Delays: a call waits until its time is over, root ends the delay, or its task is killed.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use vfio_client::v1;
use vfio_client::v2;

use crate::env::{debugfs, Env, Guest};
use crate::fixture::child::Child;
use crate::fixture::v2::V2;
use crate::fixture::{Fixture, PAGE};
use crate::harness::result::Result;
use crate::inject::point::Point;
use crate::tests;

tests! { "inject":
    a_save_waits [],
    a_load_waits [],
    a_stop_waits [],
    a_run_waits [],
    a_wait_holds_no_lock_of_a_page_fault [] needs [DeviceMemory],
    a_killed_task_does_not_wait [],
    a_delay_ends_by_itself [],
}

/// The delay of the tests: the longest. They end it.
const LONG: u64 = 60_000;

/// Makes `call` in a thread and checks that it waits in the point. Calls `meanwhile`, and then ends the delay. Returns
/// what the call returned, which was after that.
fn waits<T: Send>(
    point: &Point,
    call: impl FnOnce() -> Result<T> + Send,
    meanwhile: impl FnOnce() -> Result,
) -> Result<T> {
    let before = point.delayed()?;
    let ended = AtomicBool::new(false);
    let returned = AtomicBool::new(false);
    point.delay(LONG)?;
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let result = call();
            returned.store(true, Ordering::SeqCst);
            assert!(ended.load(Ordering::SeqCst), "the call did not wait");
            result
        });
        let result = point.wait_delayed(before + 1).and_then(|()| meanwhile());
        assert!(!returned.load(Ordering::SeqCst), "the call has returned");
        ended.store(true, Ordering::SeqCst);
        // Also after an error, or the thread does not end.
        point.delay(0)?;
        let value = thread.join().expect("the thread")?;
        result?;
        Ok(value)
    })
}

/// Checks that the device is in the middle of something: debugfs does not wait for it.
fn is_busy(uuid: &str) -> Result {
    let path = debugfs::path(uuid, "migration")?;
    assert_eq!(fs::read_to_string(path)?, "state: busy\n");
    Ok(())
}

fn a_save_waits(env: &Env) -> Result {
    let v2 = V2::new(env)?;
    let uuid = v2.uuid().to_string();
    for name in ["save", "save_record"] {
        let point = Point::of(&uuid, name)?;
        let fd = v2.begin(v2::State::STOP_COPY)?;
        let mut byte = [0];
        let len = waits(&point, || Ok(fd.read(&mut byte)?), || is_busy(&uuid))?;
        assert_eq!(len, 1);
        v2.to(v2::State::STOP)?;
        v2.go(&[v1::State::STOP_AND_COPY])?;
        waits(
            &point,
            || Ok(v2.migration.data_offset()?),
            || is_busy(&uuid),
        )?;
        v2.reset()?;
    }
    v2.usable()
}

fn a_load_waits(env: &Env) -> Result {
    let (v2, stream) = V2::saved(env, &[1])?;
    let uuid = v2.uuid().to_string();
    for name in ["load", "load_record"] {
        let point = Point::of(&uuid, name)?;
        v2.reset()?;
        let fd = v2.begin(v2::State::RESUMING)?;
        waits(&point, || Ok(fd.write_all(&stream)?), || is_busy(&uuid))?;
        v2.to(v2::State::RUNNING)?;
        v2.expect_mark(crate::fixture::MARK, name);
    }
    v2.usable()
}

fn a_stop_waits(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let point = Point::of(fixture.uuid(), "stop")?;
    let uuid = fixture.uuid().to_string();
    let stop = || fixture.go(&[v1::State::STOP]);
    // The device still runs: it keeps what is written.
    waits(&point, stop, || {
        is_busy(&uuid)?;
        fixture.set_mark(0x77)?;
        fixture.expect_mark(0x77, "while the stop waits");
        Ok(())
    })?;
    assert_eq!(fixture.state()?, v1::State::STOP);
    fixture.device.reset()?;
    fixture.usable()
}

fn a_run_waits(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let point = Point::of(fixture.uuid(), "run")?;
    let uuid = fixture.uuid().to_string();
    fixture.go(&[v1::State::STOP])?;
    let run = || fixture.go(&[v1::State::RUNNING]);
    waits(&point, run, || is_busy(&uuid))?;
    fixture.usable()
}

/// Pages of device memory that were never touched, and pages that the save has taken away.
fn a_wait_holds_no_lock_of_a_page_fault(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    fixture.write_pages(0..4, 1)?;
    let mapping = fixture.map_memory()?;
    for (name, state) in [
        ("save", v1::State::PRE_COPY),
        ("save_record", v1::State::PRE_COPY),
        ("stop", v1::State::RUNNING),
    ] {
        let point = Point::of(fixture.uuid(), name)?;
        fixture.go(&[state])?;
        let call = || {
            if state == v1::State::RUNNING {
                return fixture.go(&[v1::State::STOP]);
            }
            fixture.migration.data_offset()?;
            Ok(())
        };
        waits(&point, call, || {
            for page in 0..8 {
                mapping.write(page * PAGE as usize, &[page as u8 + 1]);
                assert_eq!(mapping.to_vec(page * PAGE as usize, 1), [page as u8 + 1]);
            }
            Ok(())
        })?;
        fixture.device.reset()?;
    }
    fixture.usable()
}

fn a_killed_task_does_not_wait(env: &Env) -> Result {
    let instance = env.instance(env.subject())?;
    let point = Point::of(instance.uuid.as_str(), "stop")?;
    point.delay(LONG)?;
    let child = Child::program("stop", &instance)?;
    point.wait_delayed(1)?;
    // Returns when the child has ended.
    child.kill()?;
    // The delay is still set, and the next user does not meet what the last one waited for.
    let fixture = Fixture::of(Guest::open(instance)?)?;
    assert_eq!(fixture.state()?, v1::State::RUNNING);
    assert_eq!(point.delayed()?, 1);
    point.delay(0)?;
    fixture.usable()
}

fn a_delay_ends_by_itself(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let point = Point::of(fixture.uuid(), "stop")?;
    point.delay(1)?;
    for n in 1..4 {
        fixture.go(&[v1::State::STOP, v1::State::RUNNING])?;
        assert_eq!(point.delayed()?, n);
    }
    point.delay(0)?;
    fixture.usable()
}
