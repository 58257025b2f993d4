// SPDX-License-Identifier: GPL-2.0

//! Failures and delays of accesses to guest memory.

use mdma::desc::Error;
use mdma::job;
use vfio_client::v1::State;

use crate::dma::keys::{by_key, expect_error, BASE};
use crate::dma::oracle::register;
use crate::env::pins::Pins;
use crate::env::Env;
use crate::fixture::{device, guest, run_jobs, MdmaFixture, PAGE};
use crate::harness::check::PATIENCE;
use crate::harness::result::Result;
use crate::inject::point::Point;
use crate::{fail, tests};

tests! { "inject" needs [Mdma]:
    the_nth_access [],
    an_access_to_registered_memory [],
    a_ring_that_cannot_be_pinned [],
    a_registration_that_cannot_be_pinned [],
    a_stop_waits_for_dma_that_waits [],
}

const SIZE: usize = 1 << 20;

fn the_nth_access(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let buffer = fixture.buffer(BASE, SIZE)?;
    let mut queue = fixture.queue(4)?;
    run_jobs(&mut queue, &[job::nop()])?;
    let point = Point::of(fixture.uuid(), "dma")?;
    // Each job makes one access.
    let jobs = [
        (job::fill(guest(BASE), 7, 8), Error::DstFault),
        (job::copy(device(0), guest(BASE), 8), Error::DstFault),
        (job::copy(guest(BASE), device(0), 8), Error::SrcFault),
        (job::crc32c(guest(BASE), 8), Error::SrcFault),
    ];
    for nth in 1..=8 {
        point.fail(nth)?;
        let last = (nth as usize - 1) % jobs.len();
        for (job, _) in jobs.iter().cycle().take(nth as usize - 1) {
            run_jobs(&mut queue, &[*job])?;
        }
        assert_eq!(point.left()?, 1);
        let (job, error) = &jobs[last];
        buffer.write(0, &[0x11; 8]);
        expect_error(&mut queue, job, *error)?;
        assert_eq!(buffer.to_vec(0, 8), [0x11; 8], "{job:?} wrote");
        point.expect_failed(nth)?;
        run_jobs(&mut queue, &[*job])?;
    }
    fixture.device.reset()?;
    drop(queue);
    drop(buffer);
    fixture.usable()
}

fn an_access_to_registered_memory(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let _buffer = fixture.buffer(BASE, SIZE)?;
    let mut queue = fixture.queue(4)?;
    let key = register(&mut queue, BASE, SIZE as u64, true)?;
    let point = Point::of(fixture.uuid(), "dma")?;
    let place = by_key(key, 0);
    for (n, job) in [
        job::fill(place, 7, 8),
        job::copy(device(0), place, 8),
        job::copy(place, device(0), 8),
        job::crc32c(place, 8),
    ]
    .iter()
    .enumerate()
    {
        point.fail(1)?;
        expect_error(&mut queue, job, Error::KeyUnmapped)?;
        point.expect_failed(n as u64 + 1)?;
        // The key is of use again.
        run_jobs(&mut queue, &[*job])?;
    }
    Ok(())
}

/// As without RLIMIT_MEMLOCK: the device copies the ring, and the log says so.
fn a_ring_that_cannot_be_pinned(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let buffer = fixture.buffer(BASE, SIZE)?;
    let point = Point::of(fixture.uuid(), "pin")?;
    let before = Pins::now()?;
    let mark = env.kmsg.mark();
    point.fail(1)?;
    let mut queue = fixture.queue(4)?;
    run_jobs(&mut queue, &[job::fill(guest(BASE), 7, 8)])?;
    assert_eq!(buffer.to_vec(0, 8), 7u64.to_le_bytes());
    point.expect_failed(1)?;
    assert_eq!(Pins::now()?.held(), before.held(), "something is pinned");
    let lines = env.kmsg.since(mark);
    let ours = lines.iter().filter(|line| line.text.contains("ENOMEM"));
    assert_eq!(ours.count(), 1, "{lines:?}");
    Ok(())
}

fn a_registration_that_cannot_be_pinned(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let _buffer = fixture.buffer(BASE, 5 << 20)?;
    let mut queue = fixture.queue(4)?;
    run_jobs(&mut queue, &[job::nop()])?;
    let before = Pins::now()?;
    let point = Point::of(fixture.uuid(), "pin")?;
    // The second of several ranges: the first is unpinned.
    point.fail(2)?;
    let job = job::register(BASE, 5 << 20, true);
    expect_error(&mut queue, &job, Error::RegisterNoMemory)?;
    point.expect_failed(1)?;
    drop(queue);
    fixture.device.reset()?;
    assert!(Pins::now()?.held() <= before.held(), "a range stays pinned");
    fixture.usable()
}

/// The stop returns after the access, and the job has ended by then.
fn a_stop_waits_for_dma_that_waits(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let buffer = fixture.buffer(BASE, SIZE)?;
    let mut queue = fixture.queue(4)?;
    run_jobs(&mut queue, &[job::nop()])?;
    let point = Point::of(fixture.uuid(), "dma")?;
    point.delay(60_000)?;
    queue.submit(&job::fill(guest(BASE), 7, PAGE))?;
    point.wait_delayed(1)?;
    assert_eq!(buffer.to_vec(0, 8), [0; 8]);
    std::thread::scope(|scope| -> Result {
        let stop = scope.spawn(|| {
            fixture.go(&[State::STOP])?;
            Ok::<_, crate::harness::result::Ended>(buffer.to_vec(0, 8))
        });
        // The stop holds the state as long as it waits.
        let busy = crate::harness::check::wait_for("a stop that waits", || {
            let path = crate::env::debugfs::path(fixture.uuid(), "migration")?;
            Ok(std::fs::read_to_string(path)? == "state: busy\n")
        });
        point.delay(0)?;
        let seen = match stop.join() {
            Ok(seen) => seen?,
            Err(_) => fail!("the thread that stops the device has panicked"),
        };
        busy?;
        assert_eq!(seen, 7u64.to_le_bytes(), "stopped before the access ended");
        Ok(())
    })?;
    fixture.go(&[State::RUNNING])?;
    assert_eq!(queue.wait(PATIENCE)?.error, 0);
    Ok(())
}
