// SPDX-License-Identifier: GPL-2.0

//! Guests that write device memory faster or slower than it is sent: a VMM must be able to rely on the estimates.
//!
//! A guest writes a number of pages during each pass, so the rate does not depend on the machine's speed. A VMM stops the
//! guest when the rest is small enough for its downtime, or never, if it is not. The estimates must be within 5 % of what
//! is then sent.

use std::collections::BTreeSet;

use mdma::job;
use vfio_client::v1;
use vfio_client::v2::State;

use crate::env::Env;
use crate::fixture::v2::{MdmaV2, V2};
use crate::fixture::{device, guest, run_jobs, Fixture, PAGE};
use crate::harness::result::Result;
use crate::v2::saving::drain;
use crate::{note, tests};

tests! { "convergence":
    v1_estimates ["P22"] needs [DeviceMemory],
    v2_estimates ["P45", "P47"] needs [DeviceMemory],
    v2_stops_when_the_rest_is_small_enough ["P45", "P47"] needs [DeviceMemory],
    jobs_that_write_both_memories ["P30", "P47"] needs [Mdma],
    keys_count ["P47"] needs [Mdma],
}

/// Pages with contents when a save begins.
const PAGES: u64 = 1000;
/// Pages that the guest writes during each pass.
const RATES: [u64; 5] = [1, 10, 100, 400, PAGES];

/// The guest: which pages it writes.
#[derive(Clone, Copy, Debug)]
enum Pattern {
    /// Adjacent pages.
    Run,
    /// Pages all over the memory in use.
    Scattered,
}

const PATTERNS: [Pattern; 2] = [Pattern::Run, Pattern::Scattered];

/// Writes this number of different pages.
fn write(fixture: &Fixture, rng: &mut fastrand::Rng, rate: u64, pattern: Pattern) -> Result {
    let pages: BTreeSet<u64> = match pattern {
        Pattern::Run => {
            let first = rng.u64(0..=PAGES - rate);
            (first..first + rate).collect()
        }
        Pattern::Scattered => {
            let mut all: Vec<u64> = (0..PAGES).collect();
            rng.shuffle(&mut all);
            all.into_iter().take(rate as usize).collect()
        }
    };
    fixture.write_pages(pages, rng.u8(1..))
}

/// Checks an estimate against the bytes that were sent.
#[track_caller]
fn truthful(estimate: u64, sent: u64, what: &str) {
    assert!(
        estimate.abs_diff(sent) * 20 <= sent,
        "{what}: estimated {estimate} bytes, sent {sent}"
    );
}

/// Runs a test with each rate, pattern and number of passes.
fn each(mut test: impl FnMut(u64, Pattern, u32, &str) -> Result) -> Result {
    for pattern in PATTERNS {
        for rate in RATES {
            for passes in [1, 2, 4] {
                let what = format!("{rate} pages a pass, {pattern:?}, {passes} passes");
                test(rate, pattern, passes, &what)?;
            }
        }
    }
    Ok(())
}

fn v1_estimates(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let m = &fixture.migration;
    let mut rng = fastrand::Rng::with_seed(45);
    let saved = || -> Result<u64> {
        let buffers = fixture.save_pending()?;
        Ok(buffers.iter().map(|buffer| buffer.len() as u64).sum())
    };
    fixture.write_pages(0..PAGES, 1)?;
    // What comes only after the stop. `pending_bytes` has it all the time.
    fixture.go(&[v1::State::PRE_COPY])?;
    saved()?;
    fixture.go(&[v1::State::STOP_AND_COPY])?;
    let rest = saved()?;
    fixture.go(&[v1::State::STOP, v1::State::RUNNING])?;
    each(|rate, pattern, passes, what| {
        fixture.go(&[v1::State::PRE_COPY])?;
        for pass in 1..=passes {
            let pending = m.pending_bytes()?;
            truthful(pending, saved()? + rest, &format!("{what}: pass {pass}"));
            write(&fixture, &mut rng, rate, pattern)?;
        }
        let pending = m.pending_bytes()?;
        fixture.go(&[v1::State::STOP_AND_COPY])?;
        truthful(pending, saved()?, &format!("{what}: the stop"));
        fixture.go(&[v1::State::STOP, v1::State::RUNNING])
    })
}

fn v2_estimates(env: &Env) -> Result {
    let v2 = V2::new(env)?;
    let mut rng = fastrand::Rng::with_seed(47);
    v2.write_pages(0..PAGES, 1)?;
    // What comes only after the stop, and so is not in the precopy info.
    let fd = v2.begin(State::PRE_COPY)?;
    drain(&fd)?;
    v2.to(State::STOP_COPY)?;
    let rest = drain(&fd)?.len() as u64;
    v2.to(State::STOP)?;
    v2.to(State::RUNNING)?;
    each(|rate, pattern, passes, what| {
        let fd = v2.begin(State::PRE_COPY)?;
        for pass in 1..=passes {
            let info = fd.precopy_info()?;
            let sent = drain(&fd)?.len() as u64;
            let announced = info.initial_bytes + info.dirty_bytes;
            truthful(announced, sent, &format!("{what}: pass {pass}"));
            write(&v2, &mut rng, rate, pattern)?;
        }
        let size = v2.feature.data_size()?;
        let info = fd.precopy_info()?;
        v2.to(State::STOP_COPY)?;
        let sent = drain(&fd)?.len() as u64;
        truthful(size, sent, &format!("{what}: MIG_DATA_SIZE"));
        assert_eq!(info.initial_bytes, 0, "{what}");
        truthful(info.dirty_bytes, sent - rest, &format!("{what}: precopy"));
        v2.to(State::STOP)?;
        v2.to(State::RUNNING)
    })
}

/// A VMM that stops the guest as soon as the estimate allows the downtime, or gives up.
fn v2_stops_when_the_rest_is_small_enough(env: &Env) -> Result {
    /// What can be sent during the downtime.
    const LIMIT: u64 = 200 * PAGE;
    const GIVE_UP: u32 = 6;
    let v2 = V2::new(env)?;
    let mut rng = fastrand::Rng::with_seed(48);
    v2.write_pages(0..PAGES, 1)?;
    note!("pages a pass  passes  bytes before the stop  bytes after it");
    for rate in [0, 10, 100, 190, 250, 400, PAGES] {
        let fd = v2.begin(State::PRE_COPY)?;
        let mut before = 0;
        let mut passes = 0;
        let mut converged = false;
        while passes < GIVE_UP && !converged {
            before += drain(&fd)?.len() as u64;
            passes += 1;
            write(&v2, &mut rng, rate, Pattern::Scattered)?;
            let estimate = v2.feature.data_size()?;
            converged = estimate <= LIMIT;
            assert!(
                estimate >= rate * PAGE,
                "{rate} pages were written: {estimate}"
            );
        }
        assert_eq!(converged, rate < 200, "{rate} pages a pass");
        assert_eq!(
            passes,
            if converged { 1 } else { GIVE_UP },
            "{rate} pages a pass"
        );
        v2.to(State::STOP_COPY)?;
        let after = drain(&fd)?.len() as u64;
        note!("{rate:>12}  {passes:>6}  {before:>21}  {after:>14}");
        assert_eq!(
            after * 20 <= LIMIT * 21,
            converged,
            "{after} bytes after the stop"
        );
        v2.to(State::STOP)?;
        v2.to(State::RUNNING)?;
    }
    Ok(())
}

/// The device writes its own memory and the guest's. What is left is what the device says and what type1 says.
fn jobs_that_write_both_memories(env: &Env) -> Result {
    const RAM: u64 = 0x4000_0000;
    let v2 = MdmaV2::new(env)?;
    let ram = v2.buffer(RAM, (PAGES * PAGE) as usize)?;
    let mut queue = v2.queue(4)?;
    let mut rng = fastrand::Rng::with_seed(49);
    run_jobs(&mut queue, &[job::fill(device(0), 1, PAGES * PAGE)])?;
    note!("pages a pass  pages of guest memory  bytes of device memory  bytes after the stop");
    for rate in [1, 50, 400] {
        v2.container.dirty_start()?;
        let fd = v2.begin(State::PRE_COPY)?;
        for pass in 1..=3 {
            let info = fd.precopy_info()?;
            let sent = drain(&fd)?.len() as u64;
            let announced = info.initial_bytes + info.dirty_bytes;
            truthful(announced, sent, &format!("{rate} pages, pass {pass}"));
            let at = rng.u64(0..=PAGES - rate) * PAGE;
            let mut write = |to| job::fill(to, rng.u64(..), rate * PAGE);
            let jobs = [guest(RAM + at), device(at)].map(&mut write);
            v2.container.dirty_bitmap(RAM, ram.len() as u64)?;
            run_jobs(&mut queue, &jobs)?;
        }
        let pages = v2.container.dirty_bitmap(RAM, ram.len() as u64)?.count();
        assert_eq!(pages, rate, "pages of guest memory");
        let size = v2.feature.data_size()?;
        v2.to(State::STOP_COPY)?;
        let sent = drain(&fd)?.len() as u64;
        truthful(size, sent, &format!("{rate} pages, the stop"));
        note!("{rate:>12}  {pages:>21}  {size:>22}  {sent:>20}");
        v2.to(State::STOP)?;
        v2.to(State::RUNNING)?;
        v2.container.dirty_stop()?;
    }
    Ok(())
}

/// The state of `mdma` grows with each key.
fn keys_count(env: &Env) -> Result {
    const RAM: u64 = 0x4000_0000;
    let v2 = MdmaV2::new(env)?;
    let _ram = v2.buffer(RAM, PAGE as usize)?;
    let check = |keys: u64| -> Result<u64> {
        let size = v2.feature.data_size()?;
        let sent = v2.save_v2()?.len() as u64;
        truthful(size, sent, &format!("{keys} keys"));
        v2.to(State::RUNNING)?;
        Ok(sent)
    };
    let none = check(0)?;
    let mut queue = v2.queue(4)?;
    for _ in 0..200 {
        run_jobs(&mut queue, &[job::register(RAM, PAGE, true)])?;
    }
    let some = check(200)?;
    assert!(some > 2 * none, "{some} bytes with keys, {none} without");
    run_jobs(&mut queue, &[job::deregister(1)])?;
    assert!(check(199)? < some);
    // The keys that a load brings count too.
    let stream = v2.save_v2()?;
    v2.reset()?;
    let size = v2.feature.data_size()?;
    assert!(size < 2 * none, "{size} bytes after a reset");
    v2.begin(State::RESUMING)?.write_all(&stream)?;
    v2.to(State::STOP)?;
    check(199).map(|_| ())
}
