// SPDX-License-Identifier: GPL-2.0

//! v1 and v2 on one device, data files that outlive the device, and concurrent calls.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use vfio_client::v1;
use vfio_client::v2::{DataFd, State};

use crate::env::Env;
use crate::fixture::bytes::all_are;
use crate::fixture::v2::{expect_alive, expect_over, v1_state, V2};
use crate::harness::check::PATIENCE;
use crate::harness::result::Result;
use crate::{assert_errno, assert_refused, tests};

tests! { "v2_with_v1":
    p48_both_read_the_one_state ["P48"],
    p48_a_session_of_v1_is_not_changed_by_v2 ["P48"],
    p48_a_session_of_v2_is_not_changed_by_v1 ["P48"],
    p48_v1_does_not_move_a_device_in_p2p ["P48"],
    p48_they_take_turns ["P48"],
    p48_one_after_the_other_in_a_race ["P48"],
    a_descriptor_keeps_the_module [],
    a_descriptor_outlives_the_device [],
    all_calls_at_once [],
    two_devices_at_once [],
}

fn p48_both_read_the_one_state(env: &Env) -> Result {
    let v2 = V2::new(env)?;
    for state in State::ALL {
        let fd = v2.reach(state)?;
        assert_eq!(v2.state()?, v1_state(state), "{state} by v1");
        v2.reset()?;
        assert_eq!(v2.state()?, v1::State::RUNNING);
        drop(fd);
    }
    for (to, state) in [
        (v1::State::STOP, State::STOP),
        (v1::State::STOP_AND_COPY, State::STOP_COPY),
        (v1::State::PRE_COPY, State::PRE_COPY),
        (v1::State::RESUMING, State::RESUMING),
    ] {
        v2.go(&[to])?;
        assert_eq!(v2.now()?, state, "{to:?} by v2");
        v2.reset()?;
    }
    crate::v1::region::reach(&v2, v1::State::ERROR)?;
    assert_eq!(v2.now()?, State::ERROR);
    v2.reset()
}

fn p48_a_session_of_v1_is_not_changed_by_v2(env: &Env) -> Result {
    let v2 = V2::new(env)?;
    v2.write_pages(0..3, 1)?;
    let bytes = v2.save()?;
    v2.go(&[v1::State::RUNNING])?;
    for open in [
        v1::State::PRE_COPY,
        v1::State::STOP_AND_COPY,
        v1::State::RESUMING,
    ] {
        v2.go(&[open])?;
        let state = v2.now()?;
        for to in State::ALL {
            assert_errno!(
                v2.feature.set_state(to),
                EBUSY,
                "{open:?} of v1, {to} by v2"
            );
            assert_eq!(v2.now()?, state);
        }
        let set = || v2.feature.set_state(State::STOP);
        assert_refused!(env, v2.uuid(), set(), EBUSY, "opened by v1");
        // The session continues.
        match open {
            v1::State::RESUMING => {
                v2.feed(&bytes, v2.section())?;
                v2.go(&[v1::State::RUNNING])?;
            }
            _ => {
                v2.feature.data_size()?;
                v2.go(&[v1::State::STOP_AND_COPY])?;
                assert!(v2.save_pending()?.concat() == bytes);
                v2.go(&[v1::State::RUNNING])?;
            }
        }
    }
    Ok(())
}

fn p48_a_session_of_v2_is_not_changed_by_v1(env: &Env) -> Result {
    let v2 = V2::new(env)?;
    v2.write_pages(0..3, 1)?;
    let bytes = v2.save_v2()?;
    v2.to(State::RUNNING)?;
    for open in [State::PRE_COPY, State::STOP_COPY, State::RESUMING] {
        let fd = v2.begin(open)?;
        for to in [0, 1, 2, 3, 4] {
            let result = v2.migration.write_state(v1::State(to));
            match v1::State(to) {
                // v1 has no such arc in any session.
                _ if result.as_ref().is_err_and(|e| e.is(libc::EINVAL)) => {}
                _ => assert_errno!(result, EBUSY, "{open} of v2, {to:03b} by v1"),
            }
            assert_eq!(v2.now()?, open);
        }
        // v1 cannot read or consume the data of this session.
        v2.migration.data_offset()?;
        assert_eq!(v2.migration.pending_bytes()?, 0, "{open}");
        assert_eq!(v2.migration.data_size()?, 0, "{open}");
        let stop = || v2.migration.write_state(v1::State::RUNNING);
        assert_refused!(env, v2.uuid(), stop(), EBUSY, "opened by v2");
        match open {
            State::RESUMING => {
                v2.migration.write_data(v2.data_offset(), &bytes)?;
                let size = || v2.migration.write_data_size(100);
                assert_refused!(env, v2.uuid(), size(), EBUSY, "opened by v2");
                fd.write_all(&bytes)?;
            }
            _ => {
                v2.to(State::STOP_COPY)?;
                let mut found = Vec::new();
                fd.read_available(&mut found)?;
                assert!(found == bytes, "{open}: v1 consumed a part of the stream");
            }
        }
        v2.to(State::RUNNING)?;
    }
    Ok(())
}

fn p48_v1_does_not_move_a_device_in_p2p(env: &Env) -> Result {
    let v2 = V2::new(env)?;
    for state in [State::RUNNING_P2P, State::PRE_COPY_P2P] {
        let fd = v2.reach(state)?;
        for to in [0, 1, 2, 3, 4] {
            let result = v2.migration.write_state(v1::State(to));
            assert_errno!(result, EBUSY, "{state} to {to:03b} by v1");
            assert_eq!(v2.now()?, state);
        }
        let stop = || v2.migration.write_state(v1::State::STOP);
        assert_refused!(env, v2.uuid(), stop(), EBUSY, "v2");
        drop(fd);
        v2.to(State::RUNNING)?;
        v2.go(&[v1::State::STOP, v1::State::RUNNING])?;
    }
    Ok(())
}

fn p48_they_take_turns(env: &Env) -> Result {
    let v2 = V2::new(env)?;
    v2.write_pages(0..3, 1)?;
    let bytes = v2.save()?;
    for _ in 0..3 {
        // One protocol stops the device, the other changes its state next.
        assert!(v2.save_v2()? == bytes);
        v2.go(&[v1::State::RESUMING])?;
        v2.feed(&bytes, 1000)?;
        v2.go(&[v1::State::STOP])?;
        let fd = v2.begin(State::RESUMING)?;
        fd.write_all(&bytes)?;
        v2.to(State::STOP)?;
        assert!(v2.save()? == bytes);
        // A reset ends the session of either protocol. Then the other can open one.
        v2.go(&[v1::State::STOP_AND_COPY])?;
        assert_errno!(v2.feature.set_state(State::STOP), EBUSY);
        v2.reset()?;
        v2.load_v2(&bytes)?;
        let fd = v2.begin(State::PRE_COPY)?;
        assert_errno!(v2.migration.write_state(v1::State::STOP), EBUSY);
        v2.reset()?;
        expect_over(&fd, "after a reset");
        v2.fixture.load(&bytes)?;
        v2.go(&[v1::State::STOP])?;
    }
    Ok(())
}

fn p48_one_after_the_other_in_a_race(env: &Env) -> Result {
    const SAVES: u64 = 5;
    let v2 = V2::new(env)?;
    v2.write_pages(0..3, 1)?;
    let (by_v1, by_v2) = (AtomicU64::new(0), AtomicU64::new(0));
    let end = Instant::now() + PATIENCE;
    // Run until both protocols have saved often enough.
    let over = || {
        let enough = |saves: &AtomicU64| saves.load(Ordering::Relaxed) >= SAVES;
        (enough(&by_v1) && enough(&by_v2)) || Instant::now() > end
    };
    thread::scope(|threads| -> Result {
        let other = threads.spawn(|| -> Result {
            while !over() {
                match v2.migration.write_state(v1::State::STOP_AND_COPY) {
                    // v1 owns the session: v2 cannot end it.
                    Ok(()) => {
                        v2.save_pending()?;
                        v2.migration.write_state(v1::State::RUNNING)?;
                        by_v1.fetch_add(1, Ordering::Relaxed);
                        thread::sleep(Duration::from_millis(1));
                    }
                    Err(e) if e.is(libc::EBUSY) || e.is(libc::EINVAL) => {}
                    Err(e) => return Err(e.into()),
                }
            }
            Ok(())
        });
        while !over() {
            match v2.feature.set_state(State::PRE_COPY) {
                Ok(Some(fd)) => {
                    expect_alive(&fd, "after v2 opened a session");
                    v2.to(State::STOP_COPY)?;
                    fd.read_available(&mut Vec::new())?;
                    v2.to(State::RUNNING)?;
                    by_v2.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(1));
                }
                Ok(None) => crate::fail!("a session without a descriptor"),
                Err(e) if e.is(libc::EBUSY) => {}
                Err(e) => return Err(e.into()),
            }
        }
        other.join().expect("it does not panic")
    })?;
    let (by_v1, by_v2) = (by_v1.into_inner(), by_v2.into_inner());
    crate::note!("{by_v1} saves by v1, {by_v2} by v2");
    assert!(by_v1 >= SAVES && by_v2 >= SAVES);
    assert_eq!(v2.now()?, State::RUNNING);
    Ok(())
}

fn a_descriptor_keeps_the_module(env: &Env) -> Result {
    env.module.path()?;
    for state in [State::PRE_COPY, State::RESUMING] {
        let v2 = V2::new(env)?;
        let fd = v2.begin(state)?;
        let V2 { feature, fixture } = v2;
        drop(feature);
        fixture.close().remove()?;
        assert_eq!(env.module.refcnt()?, 1, "{state}");
        assert_errno!(env.module.unload(), EAGAIN, "{state}");
        expect_over(&fd, "after the instance was removed");
        drop(fd);
        crate::harness::check::wait_for("the module to be unused", || {
            Ok(env.module.refcnt()? == 0)
        })?;
        env.module.unload()?;
        env.module.load()?;
    }
    Ok(())
}

fn a_descriptor_outlives_the_device(env: &Env) -> Result {
    let mut old: Vec<DataFd> = Vec::new();
    for _ in 0..5 {
        let v2 = V2::new(env)?;
        v2.write_pages(0..300, 1)?;
        for state in [State::PRE_COPY, State::STOP_COPY, State::RESUMING] {
            let fd = v2.begin(state)?;
            if state != State::RESUMING {
                fd.read(&mut [0; 10])?;
            }
            old.push(fd);
            v2.reset()?;
        }
        old.push(v2.begin(State::PRE_COPY)?);
    }
    for fd in &old {
        expect_over(fd, "after the device was removed");
    }
    Ok(())
}

/// Checks that the device works after a reset.
fn usable(v2: &V2) -> Result {
    v2.reset()?;
    v2.device.config()?.enable()?;
    v2.write_pages([0], 7)?;
    let bytes = v2.save_v2()?;
    v2.load_v2(&bytes)?;
    v2.expect_mark(7, "loaded");
    assert!(all_are(&v2.read_pages(0..1)?, 7));
    v2.fixture.load(&v2.fixture.save()?)
}

/// Checks that a call on a data file succeeded or returned a documented errno.
fn may_be(result: std::io::Result<usize>) {
    if let Err(e) = result {
        let errno = e.raw_os_error().unwrap_or(0);
        let known = [
            libc::ENODEV,
            libc::ENOMSG,
            libc::EBADF,
            libc::EINVAL,
            libc::EBADMSG,
        ];
        assert!(known.contains(&errno), "{e}");
    }
}

fn all_calls_at_once(env: &Env) -> Result {
    let v2 = V2::new(env)?;
    v2.write_pages(0..500, 1)?;
    let bytes = v2.save_v2()?;
    v2.to(State::RUNNING)?;
    let over = AtomicBool::new(false);
    let current = std::sync::Mutex::new(v2.begin(State::PRE_COPY)?);
    let seed = env.limits.seed;
    let latest = || current.lock().unwrap().try_clone();
    let memory = match v2.memory_size() {
        0 => None,
        _ => Some(v2.map_memory()?),
    };
    let v2 = &v2;
    thread::scope(|threads| -> Result {
        let mut users = Vec::new();
        for n in 0..3 {
            let (over, latest, bytes) = (&over, &latest, &bytes);
            users.push(threads.spawn(move || -> Result {
                let mut rng = fastrand::Rng::with_seed(seed + n);
                while !over.load(Ordering::Relaxed) {
                    let fd = latest()?;
                    for _ in 0..4 {
                        may_be(fd.read(&mut vec![0; rng.usize(0..300_000)]));
                        may_be(fd.write(&bytes[..rng.usize(0..bytes.len())]));
                        let _ = fd.precopy_info();
                        fd.wait_readable(Duration::from_millis(1))?;
                    }
                }
                Ok(())
            }));
        }
        let (over_ref, writer_memory) = (&over, &memory);
        let writer = threads.spawn(move || {
            let mut rng = fastrand::Rng::with_seed(seed + 10);
            while !over_ref.load(Ordering::Relaxed) {
                match writer_memory {
                    Some(memory) => memory.write(rng.usize(0..memory.len() - 8), &[1; 8]),
                    None => thread::yield_now(),
                }
            }
        });
        let run = || -> Result {
            let mut rng = fastrand::Rng::with_seed(seed + 20);
            // Each of the twelve calls comes twenty times, beside any call of the other threads.
            for _ in 0..env.limits.fewer(4) {
                match rng.u8(0..12) {
                    0 => v2.device.reset()?,
                    1 => drop(v2.migration.write_state(v1::State(rng.u32(0..8)))),
                    2 => drop(v2.migration.data_offset()),
                    _ => {
                        if let Ok(Some(fd)) = v2.feature.set_state(State(rng.u32(0..9))) {
                            *current.lock().unwrap() = fd;
                        }
                    }
                }
                let state = v2.now()?;
                assert!(state.name().is_some());
                v2.feature.data_size()?;
            }
            Ok(())
        };
        let result = run();
        over.store(true, Ordering::Relaxed);
        writer.join().expect("it does not panic");
        for user in users {
            user.join().expect("it does not panic")?;
        }
        result
    })?;
    drop(memory);
    usable(v2)
}

fn two_devices_at_once(env: &Env) -> Result {
    // The devices share only the driver. One thread saves the first while another loads the second.
    let (source, destination) = (V2::new(env)?, V2::new(env)?);
    source.write_pages((0..1500).step_by(3), 5)?;
    for _ in 0..5 {
        let from = source.begin(State::PRE_COPY)?;
        let to = destination.begin(State::RESUMING)?;
        thread::scope(|threads| -> Result {
            let (pipe, taken) = std::sync::mpsc::sync_channel::<Vec<u8>>(1);
            let writer = threads.spawn(|| -> Result {
                for piece in taken {
                    to.write_all(&piece)?;
                }
                Ok(())
            });
            let mut stopped = false;
            loop {
                let mut piece = vec![0; 50_000];
                match from.read(&mut piece) {
                    Ok(0) => break,
                    Ok(n) => {
                        piece.truncate(n);
                        pipe.send(piece)?;
                    }
                    Err(e) if e.raw_os_error() == Some(libc::ENOMSG) && !stopped => {
                        source.to(State::STOP_COPY)?;
                        stopped = true;
                    }
                    Err(e) => return Err(e.into()),
                }
            }
            drop(pipe);
            writer.join().expect("it does not panic")
        })?;
        source.to(State::RUNNING)?;
        destination.to(State::RUNNING)?;
        assert!(source.save_v2()? == destination.save_v2()?);
        source.to(State::RUNNING)?;
        destination.to(State::RUNNING)?;
    }
    Ok(())
}
