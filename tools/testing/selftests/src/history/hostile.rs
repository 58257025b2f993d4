// SPDX-License-Identifier: GPL-2.0

//! Damaged streams, and all calls at once, through the regions of v7 and 2018.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use mdma::regs::Reg;

use crate::env::Env;
use crate::fixture::MdmaFixture;
use crate::harness::result::Result;
use crate::history::Old;
use crate::{note, tests};

tests! { "history_hostile" needs [Mdma]:
    p26_damaged_streams_are_refused_by_v7 ["P36", "P26"],
    p26_damaged_streams_are_refused_by_2018 ["P37", "P26"],
    all_calls_at_once_by_v7 ["P36"],
    all_calls_at_once_by_2018 ["P37"],
}

/// Loads streams with one bit flipped, cut short, or with a piece missing or repeated. None takes effect.
fn damaged_streams<M: Old>(env: &Env) -> Result {
    let (source, destination) = (MdmaFixture::<M>::old(env)?, MdmaFixture::<M>::old(env)?);
    source.fill_state(&[0, 7, 300])?;
    let bytes = source.save_old()?;
    let mut rng = fastrand::Rng::with_seed(env.limits.seed);
    for round in 0..300 {
        let mut damaged = bytes.clone();
        let at = rng.usize(0..bytes.len());
        let what = match round % 4 {
            0 | 1 => {
                damaged[at] ^= 1 << rng.u8(0..8);
                "a flipped bit"
            }
            2 => {
                damaged.truncate(at);
                "the end is missing"
            }
            _ => {
                let end = rng.usize(at + 1..=bytes.len());
                damaged.drain(at..end);
                "a piece is missing"
            }
        };
        let m = &destination.migration;
        m.begin_load()?;
        let loaded = m.load(&damaged).and_then(|()| m.end_load());
        assert!(
            loaded.is_err(),
            "round {round}: {what} at {at} was accepted"
        );
        assert!(
            m.run().is_err(),
            "round {round}: the device runs with {what} at {at}"
        );
        destination.device.reset()?;
        assert_eq!(
            destination.mdma.get(Reg::Scratch)?,
            0,
            "{what} at {at} took effect"
        );
    }
    destination.load_old(&bytes)?;
    source.expect_same(&destination, "the stream itself")
}

fn p26_damaged_streams_are_refused_by_v7(env: &Env) -> Result {
    damaged_streams::<vfio_client::v7::Migration>(env)
}

fn p26_damaged_streams_are_refused_by_2018(env: &Env) -> Result {
    damaged_streams::<vfio_client::v2018::Migration>(env)
}

/// The calls of each thread.
const CALLS: usize = 3000;

/// Threads change the state, read and write registers and data, ask for dirty pages, and reset the device, all at once.
/// Afterwards it migrates.
fn all_calls_at_once<M: Old>(env: &Env) -> Result {
    let (source, destination) = (MdmaFixture::<M>::old(env)?, MdmaFixture::<M>::old(env)?);
    source.fill_state(&[0, 7, 300])?;
    let stream = source.save_old()?;
    let (changed, accepted) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let region = destination.migration.section().region();
    let seed = env.limits.seed;
    thread::scope(|threads| {
        threads.spawn(|| {
            let mut rng = fastrand::Rng::with_seed(seed);
            for _ in 0..CALLS {
                let done = region.write_u32(0, rng.u32(0..11)).is_ok();
                changed.fetch_add(usize::from(done), Ordering::Relaxed);
                // A load that failed is ended only by a reset.
                if !done && rng.u8(0..4) == 0 {
                    let _ = destination.device.reset();
                }
            }
        });
        for n in 1..3 {
            let accepted = &accepted;
            threads.spawn(move || {
                let mut rng = fastrand::Rng::with_seed(seed + n);
                for _ in 0..CALLS {
                    let offset = rng.u64(0..20) * 4;
                    let mut bytes = [0; 32];
                    let len = *rng.choice([4, 8, 16, 24, 32].iter()).expect("some");
                    let done = region.pread(offset, &mut bytes[..len]).is_ok();
                    let value = rng.u64(0..20_000);
                    // Not the state, which has a thread of its own.
                    if offset > 0 {
                        let _ = region.write_u64(offset, value);
                    }
                    accepted.fetch_add(usize::from(done), Ordering::Relaxed);
                }
            });
        }
        threads.spawn(|| {
            let mut rng = fastrand::Rng::with_seed(seed + 3);
            for _ in 0..CALLS {
                let at = rng.usize(0..stream.len());
                let end = rng.usize(at..stream.len()).min(at + 5000);
                let _ = region.pwrite(rng.u64(70..20_000), &stream[at..end]);
                let _ = destination.migration.load(&stream[at..end]);
            }
        });
        threads.spawn(|| {
            for _ in 0..CALLS / 10 {
                let _ = destination.migration.dirty(0, 1 << 30);
            }
        });
    });
    let (changed, accepted) = (changed.into_inner(), accepted.into_inner());
    note!("{changed} changes of state, {accepted} reads");
    assert!(changed > 0 && accepted > 0);
    destination.device.reset()?;
    destination.load_old(&stream)?;
    source.expect_same(&destination, "after the race")
}

fn all_calls_at_once_by_v7(env: &Env) -> Result {
    all_calls_at_once::<vfio_client::v7::Migration>(env)
}

fn all_calls_at_once_by_2018(env: &Env) -> Result {
    all_calls_at_once::<vfio_client::v2018::Migration>(env)
}
