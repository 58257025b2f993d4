// SPDX-License-Identifier: GPL-2.0

//! Stopping the device: no DMA in flight, no job started, no job lost.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use mdma::engine::UNIT;
use mdma::job;
use mdma::regs::Reg;
use vfio_client::v1::State;

use crate::env::Env;
use crate::fixture::bytes::same;
use crate::fixture::{guest, run_jobs, wait_register, MdmaFixture, VfioQueue};
use crate::harness::check::{wait_for, PATIENCE, SILENCE};
use crate::harness::result::Result;
use crate::tests;

tests! { "stopping" needs [Mdma]:
    p09_nothing_is_written_once_stopped ["P9"],
    p09_a_job_in_flight_is_finished_after_the_stop ["P9"],
    p09_stopping_races_with_doorbells ["P9"],
    p52_a_doorbell_while_stopped_is_kept ["P52"],
    p52_a_queue_enabled_while_stopped_runs_later ["P52"],
    bus_mastering_off_stops_like_a_state [],
}

const BASE: u64 = 0x100_0000;
const SIZE: usize = 8 << 20;

/// Microseconds between two units, of which a job of [`SIZE`] has 128: a busy host may keep a test waiting for a second
/// before it stops the device.
const LONG: u32 = 20_000;

/// Returns all guest memory that the device may write.
fn snapshot(queue: &VfioQueue, buffer: &vfio_client::Mapping) -> Vec<u8> {
    let mut all = buffer.to_vec(0, SIZE);
    all.extend(queue.memory().to_vec(0, queue.memory().memory().len()));
    all
}

/// Starts a long fill and waits until it is in flight.
fn in_flight(fixture: &MdmaFixture, queue: &mut VfioQueue, value: u64) -> Result {
    let before = fixture.mdma.get(Reg::BytesDone)?;
    fixture.mdma.set_throttle(LONG)?;
    queue.submit(&job::fill(guest(BASE), value, SIZE as u64))?;
    wait_register(&fixture.mdma, Reg::BytesDone, "a job in flight", |n| {
        n - before >= 2 * UNIT as u64
    })
}

/// The paths from running to stopped, and back to running if the job survives.
const STOPS: [(&[State], Option<&[State]>); 7] = [
    (&[State::STOP], Some(&[State::RUNNING])),
    (&[State::STOP_AND_COPY], Some(&[State::RUNNING])),
    (
        &[State::STOP_AND_COPY, State::STOP],
        Some(&[State::RUNNING]),
    ),
    (
        &[State::PRE_COPY, State::STOP_AND_COPY],
        Some(&[State::RUNNING]),
    ),
    (&[State::PRE_COPY, State::STOP], Some(&[State::RUNNING])),
    (
        &[State::STOP, State::STOP_AND_COPY],
        Some(&[State::STOP, State::RUNNING]),
    ),
    (&[State::RESUMING], None),
];

fn p09_nothing_is_written_once_stopped(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let buffer = fixture.buffer(BASE, SIZE)?;
    for (n, (stop, back)) in (1..).zip(STOPS) {
        let mut queue = fixture.queue(4)?;
        in_flight(&fixture, &mut queue, n)?;
        // On each path, DMA must have ended when the last write returns.
        let (last, first) = stop.split_last().expect("never empty");
        fixture.go(first)?;
        fixture.migration.write_state(*last)?;
        let at_once = snapshot(&queue, &buffer);
        let bytes = fixture.mdma.get(Reg::BytesDone)?;
        let written = at_once[..SIZE].chunks(8).filter(|w| *w == n.to_le_bytes());
        let written = written.count() as u64 * 8;
        assert!(
            written < SIZE as u64,
            "{stop:?}: the job finished before the stop"
        );

        thread::sleep(SILENCE);
        queue.submit(&job::nop())?;
        thread::sleep(SILENCE);
        let later = snapshot(&queue, &buffer);
        // Only the test wrote the new descriptor.
        let ring = SIZE + 64..SIZE + 128;
        assert_eq!(at_once[ring.clone()], [0; 64]);
        assert_eq!(later[ring.clone()], job::nop().encode());
        same(
            &later[..ring.start],
            &at_once[..ring.start],
            guest(BASE),
            "before the ring",
        );
        same(
            &later[ring.end..],
            &at_once[ring.end..],
            guest(BASE),
            "after the ring",
        );
        assert_eq!(fixture.mdma.get(Reg::BytesDone)?, bytes, "{stop:?}");

        match back {
            Some(back) => {
                fixture.mdma.set_throttle(0)?;
                fixture.go(back)?;
                assert_eq!(queue.wait(PATIENCE)?.bytes, SIZE as u64);
                queue.wait(PATIENCE)?;
                let all = n.to_le_bytes().repeat(SIZE / 8);
                same(
                    &buffer.to_vec(0, SIZE),
                    &all,
                    guest(BASE),
                    "after the device ran again",
                );
            }
            None => {
                // Resuming without data ends in the error state, and a reset drops the job.
                fixture.device.reset()?;
                fixture.mdma.bar().device().config()?.enable()?;
                assert_eq!(fixture.mdma.get(Reg::JobsDone)?, 0);
            }
        }
        drop(queue);
    }
    Ok(())
}

fn p09_a_job_in_flight_is_finished_after_the_stop(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let buffer = fixture.buffer(BASE, SIZE)?;
    let mut queue = fixture.queue(4)?;
    for n in 1..=20 {
        in_flight(&fixture, &mut queue, n)?;
        fixture.go(&[State::STOP])?;
        let done = fixture.mdma.get(Reg::BytesDone)?;
        // The memory matches the counter: the device finished each unit that it started.
        let units = buffer.to_vec(0, SIZE);
        let filled = units
            .chunks(8)
            .take_while(|w| *w == n.to_le_bytes())
            .count() as u64
            * 8;
        assert_eq!(filled % UNIT as u64, 0, "the device stopped within a unit");
        assert_eq!(filled, done - (n - 1) * SIZE as u64);
        assert_eq!(queue.poll(), None);
        fixture.mdma.set_throttle(0)?;
        fixture.go(&[State::RUNNING])?;
        assert_eq!(queue.wait(PATIENCE)?.bytes, SIZE as u64);
        assert_eq!(fixture.mdma.get(Reg::BytesDone)?, n * SIZE as u64);
    }
    Ok(())
}

/// A doorbell that arrives while the device stops must not start a unit. 100 stops, each with a job queued: a stop that
/// does not wait for the worker fails in the first few.
fn p09_stopping_races_with_doorbells(env: &Env) -> Result {
    /// The pages that jobs write: few, because each stop compares all of them.
    const PAGES: u64 = 256;
    const USED: usize = PAGES as usize * 4096;
    let fixture = MdmaFixture::new(env)?;
    let buffer = fixture.buffer(BASE, SIZE)?;
    let mut queue = fixture.queue(8)?;
    let over = AtomicBool::new(false);
    let submitted = AtomicU64::new(0);
    thread::scope(|threads| {
        let submitter = threads.spawn(|| -> Result {
            let mut n = 0;
            while !over.load(Ordering::SeqCst) {
                while queue.poll().is_some() {}
                // Pause while the ring is full.
                if queue.room() > 0 {
                    n += 1;
                    let at = BASE + (n % PAGES) * 4096;
                    queue.submit(&job::fill(guest(at), n, 4096))?;
                    submitted.store(n, Ordering::SeqCst);
                } else {
                    thread::yield_now();
                }
            }
            queue.drain(PATIENCE)?;
            Ok(())
        });
        let rings = |after: u64| {
            wait_for("another doorbell", || {
                Ok(submitted.load(Ordering::SeqCst) > after)
            })
        };
        let watch = || -> Result {
            for round in 0..100 {
                // The device has work when it stops.
                rings(submitted.load(Ordering::SeqCst))?;
                fixture.go(&[State::STOP])?;
                let at_once = buffer.to_vec(0, USED);
                // The submitter keeps ringing the doorbell until the ring is full.
                thread::sleep(Duration::from_millis(round % 3));
                same(
                    &buffer.to_vec(0, USED),
                    &at_once,
                    guest(BASE),
                    "while stopped",
                );
                fixture.go(&[State::RUNNING])?;
            }
            Ok(())
        };
        let result = watch();
        over.store(true, Ordering::SeqCst);
        // Otherwise, the submitter would keep waiting after a failure.
        if result.is_err() {
            let _ = fixture.go(&[State::RUNNING]);
        }
        submitter.join().expect("the submitter does not panic")?;
        result?;
        assert_eq!(
            fixture.mdma.get(Reg::JobsDone)?,
            submitted.load(Ordering::SeqCst)
        );
        Ok(())
    })
}

fn p52_a_doorbell_while_stopped_is_kept(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let buffer = fixture.buffer(BASE, SIZE)?;
    let mut queue = fixture.queue(4)?;
    run_jobs(&mut queue, &[job::nop()])?;
    for (n, (stop, back)) in (1..).zip(STOPS) {
        let Some(back) = back else { continue };
        fixture.go(stop)?;
        queue.submit(&job::fill(guest(BASE), n, 8).cookie(n))?;
        thread::sleep(SILENCE);
        assert_eq!(
            queue.poll(),
            None,
            "{stop:?}: the device ran a job while stopped"
        );
        assert_ne!(buffer.to_vec(0, 8), n.to_le_bytes());
        fixture.go(back)?;
        assert_eq!(
            queue.wait(PATIENCE)?.cookie,
            n,
            "{stop:?}: the doorbell was lost"
        );
        assert_eq!(buffer.to_vec(0, 8), n.to_le_bytes());
    }
    Ok(())
}

fn p52_a_queue_enabled_while_stopped_runs_later(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let _buffer = fixture.buffer(BASE, SIZE)?;
    fixture.go(&[State::STOP])?;
    let mut queue = fixture.queue(4)?;
    queue.submit(&job::fill(guest(BASE), 1, 4096).interrupt())?;
    thread::sleep(SILENCE);
    assert_eq!(fixture.mdma.get(Reg::JobsDone)?, 0);
    fixture.go(&[State::RUNNING])?;
    queue.wait(PATIENCE)?;
    // If the user disables the queue while the device is stopped, the device drops the job.
    fixture.mdma.set_throttle(LONG)?;
    queue.submit(&job::fill(guest(BASE), 2, SIZE as u64))?;
    wait_register(&fixture.mdma, Reg::BytesDone, "a job in flight", |n| {
        n > 4096
    })?;
    fixture.go(&[State::STOP])?;
    let bytes = fixture.mdma.get(Reg::BytesDone)?;
    queue.close()?;
    fixture.go(&[State::RUNNING])?;
    thread::sleep(SILENCE);
    assert_eq!(fixture.mdma.get(Reg::BytesDone)?, bytes);
    assert_eq!(fixture.mdma.get(Reg::JobsDone)?, 1);
    Ok(())
}

fn bus_mastering_off_stops_like_a_state(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let buffer = fixture.buffer(BASE, SIZE)?;
    let config = fixture.device.config()?;
    let mut queue = fixture.queue(4)?;
    in_flight(&fixture, &mut queue, 1)?;
    config.set_bus_master(false)?;
    let at_once = snapshot(&queue, &buffer);
    thread::sleep(SILENCE);
    same(
        &snapshot(&queue, &buffer),
        &at_once,
        guest(BASE),
        "without bus mastering",
    );
    fixture.mdma.set_throttle(0)?;
    config.set_bus_master(true)?;
    wait_for("the job to end", || Ok(queue.poll().is_some()))?;
    Ok(())
}
