// SPDX-License-Identifier: GPL-2.0

//! The states of v2, the arcs between them, and the data files that some arcs return.

use std::thread;

use mdma::job;
use mdma::regs::Reg;
use vfio_client::uapi::VFIO_PCI_MSIX_IRQ_INDEX;
use vfio_client::v2::State;
use vfio_client::{Action, EventFd};

use crate::env::Env;
use crate::fixture::bytes::all_are;
use crate::fixture::v2::{expect_alive, expect_over, MdmaV2, V2};
use crate::fixture::{guest, run_jobs, wait_register};
use crate::harness::check::{expect_signal, PATIENCE, SILENCE};
use crate::harness::result::Result;
use crate::{assert_errno, assert_refused, tests};

tests! { "v2_states":
    p38_numbers_and_flags ["P38"],
    p38_running_is_the_default ["P38", "P8"],
    p39_direct_arcs ["P39"],
    p40_combination_arcs ["P40", "P43"],
    p40_every_pair_of_states ["P39", "P40", "P43"],
    p41_stop_copy_does_not_go_back_to_pre_copy ["P41"],
    p42_error_is_left_by_reset_only ["P42", "P11"],
    p42_refusals_are_logged ["P42"],
    p42_a_path_that_fails_ends_in_error ["P42", "P26"],
    p42_reset_gives_running_from_every_state ["P42", "P11"],
    p44_no_dma_in_a_p2p_state ["P44"] needs [Mdma],
    p44_work_in_flight_is_finished ["P44"] needs [Mdma],
    p52_configuration_and_registers_in_every_state ["P52"],
    p52_everything_else_works_in_every_state ["P52"] needs [Mdma],
    running_and_stopping_change_nothing [],
    a_queue_outlasts_running_and_stopping [] needs [Mdma],
}

const ERROR: State = State::ERROR;
const STOP: State = State::STOP;
const RUNNING: State = State::RUNNING;
const STOP_COPY: State = State::STOP_COPY;
const RESUMING: State = State::RESUMING;
const RUNNING_P2P: State = State::RUNNING_P2P;
const PRE_COPY: State = State::PRE_COPY;
const PRE_COPY_P2P: State = State::PRE_COPY_P2P;

/// The arcs that a driver implements, and whether each returns a new data file.
const DIRECT: [(State, State, bool); 15] = [
    (RUNNING, RUNNING_P2P, false),
    (RUNNING_P2P, RUNNING, false),
    (RUNNING_P2P, STOP, false),
    (STOP, RUNNING_P2P, false),
    (STOP, STOP_COPY, true),
    (STOP_COPY, STOP, false),
    (STOP, RESUMING, true),
    (RESUMING, STOP, false),
    (RUNNING, PRE_COPY, true),
    (PRE_COPY, RUNNING, false),
    (PRE_COPY, PRE_COPY_P2P, false),
    (PRE_COPY_P2P, PRE_COPY, false),
    (RUNNING_P2P, PRE_COPY_P2P, true),
    (PRE_COPY_P2P, RUNNING_P2P, false),
    (PRE_COPY_P2P, STOP_COPY, false),
];

/// All other changes with the states they pass, as the UAPI lists them.
const COMBINATIONS: [&[State]; 25] = [
    &[PRE_COPY, PRE_COPY_P2P, STOP_COPY],
    &[PRE_COPY, RUNNING, RUNNING_P2P],
    &[PRE_COPY, RUNNING, RUNNING_P2P, STOP],
    &[PRE_COPY, RUNNING, RUNNING_P2P, STOP, RESUMING],
    &[PRE_COPY_P2P, RUNNING_P2P, RUNNING],
    &[PRE_COPY_P2P, RUNNING_P2P, STOP],
    &[PRE_COPY_P2P, RUNNING_P2P, STOP, RESUMING],
    &[RESUMING, STOP, RUNNING_P2P],
    &[RESUMING, STOP, RUNNING_P2P, PRE_COPY_P2P],
    &[RESUMING, STOP, RUNNING_P2P, RUNNING],
    &[RESUMING, STOP, RUNNING_P2P, RUNNING, PRE_COPY],
    &[RESUMING, STOP, STOP_COPY],
    &[RUNNING, RUNNING_P2P, PRE_COPY_P2P],
    &[RUNNING, RUNNING_P2P, STOP],
    &[RUNNING, RUNNING_P2P, STOP, RESUMING],
    &[RUNNING, RUNNING_P2P, STOP, STOP_COPY],
    &[RUNNING_P2P, RUNNING, PRE_COPY],
    &[RUNNING_P2P, STOP, RESUMING],
    &[RUNNING_P2P, STOP, STOP_COPY],
    &[STOP, RUNNING_P2P, PRE_COPY_P2P],
    &[STOP, RUNNING_P2P, RUNNING],
    &[STOP, RUNNING_P2P, RUNNING, PRE_COPY],
    &[STOP_COPY, STOP, RESUMING],
    &[STOP_COPY, STOP, RUNNING_P2P],
    &[STOP_COPY, STOP, RUNNING_P2P, RUNNING],
];

/// Returns whether a direct arc returns a new data file.
fn opens(from: State, to: State) -> bool {
    let arc = DIRECT.iter().find(|(f, t, _)| (*f, *t) == (from, to));
    arc.unwrap_or_else(|| panic!("{from} to {to} is not a direct arc"))
        .2
}

/// Takes a path in one call, starting with a running device, and checks the states and data files.
fn take(v2: &V2, path: &[State], saved: &[u8]) -> Result {
    let (from, to) = (path[0], path[path.len() - 1]);
    let before = v2.reach(from)?;
    assert_eq!(
        before.is_some(),
        [PRE_COPY, PRE_COPY_P2P, STOP_COPY, RESUMING].contains(&from),
        "the descriptor of {from}"
    );
    if from == RESUMING {
        before.as_ref().expect("just checked").write_all(saved)?;
    }
    let after = v2.feature.set_state(to)?;
    assert_eq!(v2.now()?, to, "{path:?}");

    // Only the last arc can return a data file, because no state in between has a session (P43).
    let last = &path[path.len().saturating_sub(2)..];
    let expected = last.len() == 2 && opens(last[0], last[1]);
    assert_eq!(after.is_some(), expected, "{path:?}: a data file");
    let when = format!("{path:?}");
    let kept = path.windows(2).all(|arc| {
        let saving = |s| [PRE_COPY, PRE_COPY_P2P, STOP_COPY].contains(s);
        arc.iter().all(saving)
    });
    match &before {
        Some(fd) if !kept => expect_over(fd, &when),
        Some(fd) if from != RESUMING => expect_alive(fd, &when),
        _ => {}
    }
    if let Some(fd) = &after {
        match to {
            RESUMING => fd.write_all(&saved[..10])?,
            _ => expect_alive(fd, &when),
        }
    }
    v2.reset()?;
    for fd in before.iter().chain(&after) {
        expect_over(fd, &format!("{path:?} and a reset"));
    }
    Ok(())
}

/// Returns a stream to load.
fn saved(v2: &V2) -> Result<Vec<u8>> {
    v2.write_pages([2], 0xc0)?;
    let bytes = v2.save_v2()?;
    v2.reset()?;
    Ok(bytes)
}

fn p38_numbers_and_flags(env: &Env) -> Result {
    let v2 = V2::new(env)?;
    assert_eq!(v2.feature.flags(), 0b111, "STOP_COPY, P2P, PRE_COPY");
    let states = [
        ERROR,
        STOP,
        RUNNING,
        STOP_COPY,
        RESUMING,
        RUNNING_P2P,
        PRE_COPY,
        PRE_COPY_P2P,
    ];
    for (number, state) in (0..).zip(states) {
        assert_eq!(state.0, number);
        v2.reach(state)?;
        assert_eq!(v2.now()?.0, number, "{state}");
        v2.reset()?;
    }
    // The probe of each feature reports whether get and set work.
    for (feature, get, set) in [(1, true, false), (2, true, true), (9, true, false)] {
        assert_eq!(v2.device.feature_probe(feature, true, false)?, get);
        assert_eq!(v2.device.feature_probe(feature, false, true)?, set);
    }
    Ok(())
}

fn p38_running_is_the_default(env: &Env) -> Result {
    let mut v2 = V2::new(env)?;
    for state in State::ALL {
        let fd = v2.reach(state)?;
        v2 = v2.reopen()?;
        assert_eq!(v2.now()?, RUNNING, "opened after {state}");
        if let Some(fd) = &fd {
            expect_over(fd, &format!("{state} and a close"));
        }
        v2.usable()?;
    }
    Ok(())
}

fn p39_direct_arcs(env: &Env) -> Result {
    let v2 = V2::new(env)?;
    let saved = saved(&v2)?;
    for (from, to, _) in DIRECT {
        take(&v2, &[from, to], &saved)?;
    }
    Ok(())
}

fn p40_combination_arcs(env: &Env) -> Result {
    let v2 = V2::new(env)?;
    let saved = saved(&v2)?;
    for path in COMBINATIONS {
        take(&v2, path, &saved)?;
    }
    Ok(())
}

fn p40_every_pair_of_states(env: &Env) -> Result {
    let v2 = V2::new(env)?;
    let saved = saved(&v2)?;
    let (mut taken, mut refused) = (0, 0);
    for from in State::ALL {
        for to in State::ALL {
            let combination = COMBINATIONS
                .iter()
                .find(|path| (path[0], path[path.len() - 1]) == (from, to));
            let direct = DIRECT.iter().any(|(f, t, _)| (*f, *t) == (from, to));
            assert!(!(direct && combination.is_some()));
            if from == ERROR || to == ERROR || (!direct && combination.is_none() && from != to) {
                let fd = v2.reach(from)?;
                assert_errno!(v2.feature.set_state(to), EINVAL, "{from} to {to}");
                assert_eq!(v2.now()?, from, "after a refused {to}");
                if let (Some(fd), true) = (&fd, from != RESUMING) {
                    expect_alive(fd, &format!("{from} and a refused {to}"));
                }
                v2.reset()?;
                refused += 1;
                continue;
            }
            match combination {
                Some(path) => take(&v2, path, &saved)?,
                None if direct => take(&v2, &[from, to], &saved)?,
                None => {
                    // A change to the current state does nothing, and the data file stays open.
                    let fd = v2.reach(from)?;
                    assert!(v2.feature.set_state(to)?.is_none(), "{from} to {to}");
                    assert_eq!(v2.now()?, to);
                    match &fd {
                        Some(fd) if from == RESUMING => fd.write_all(&saved[..10])?,
                        Some(fd) => expect_alive(fd, &format!("{from} to {to}")),
                        None => {}
                    }
                    v2.reset()?;
                }
            }
            taken += 1;
        }
    }
    assert_eq!((taken, refused), (15 + 25 + 7, 8 + 7 + 2));
    Ok(())
}

fn p41_stop_copy_does_not_go_back_to_pre_copy(env: &Env) -> Result {
    let v2 = V2::new(env)?;
    v2.write_pages(0..3, 1)?;
    let expected = v2.save_v2()?;
    for to in [PRE_COPY, PRE_COPY_P2P] {
        let fd = v2.begin(STOP_COPY)?;
        let mut bytes = vec![0; 100];
        assert_eq!(fd.read(&mut bytes)?, 100);
        let set = || v2.feature.set_state(to);
        assert_refused!(env, v2.uuid(), set(), EINVAL, "no transition");
        assert_eq!(v2.now()?, STOP_COPY);
        // The session continues at the same position.
        fd.read_available(&mut bytes)?;
        assert!(bytes == expected, "a refused {to} changed the stream");
        v2.to(STOP)?;
    }
    Ok(())
}

fn p42_error_is_left_by_reset_only(env: &Env) -> Result {
    let v2 = V2::new(env)?;
    // A user cannot request the error state or an invalid number.
    for from in State::ALL {
        v2.reach(from)?;
        for to in [0, 8, 9, 0x8000_0000, u32::MAX] {
            assert_errno!(v2.feature.set_state(State(to)), EINVAL, "{from} to {to:#x}");
            assert_eq!(v2.now()?, from);
        }
        v2.reset()?;
    }
    v2.reach(ERROR)?;
    for to in State::ALL {
        assert_errno!(v2.feature.set_state(to), EINVAL, "ERROR to {to}");
        assert_eq!(v2.now()?, ERROR);
    }
    v2.reset()?;
    v2.usable()?;
    let bytes = v2.save_v2()?;
    v2.load_v2(&bytes)
}

fn p42_refusals_are_logged(env: &Env) -> Result {
    let v2 = V2::new(env)?;
    let uuid = v2.uuid();
    let set = |state| v2.feature.set_state(State(state));
    assert_refused!(env, uuid, set(0), EINVAL, "cannot be requested");
    assert_refused!(env, uuid, set(8), EINVAL, "number 8");
    let fd = v2.begin(RESUMING)?;
    assert_refused!(env, uuid, set(1), ENODATA, "incomplete");
    assert_refused!(env, uuid, set(2), EINVAL, "reset");
    drop(fd);
    Ok(())
}

fn p42_a_path_that_fails_ends_in_error(env: &Env) -> Result {
    let v2 = V2::new(env)?;
    let bytes = saved(&v2)?;
    for to in [
        STOP,
        RUNNING,
        RUNNING_P2P,
        PRE_COPY,
        PRE_COPY_P2P,
        STOP_COPY,
    ] {
        v2.set_mark(0x42)?;
        let fd = v2.begin(RESUMING)?;
        fd.write_all(&bytes[..bytes.len() - 1])?;
        assert_errno!(v2.feature.set_state(to), ENODATA, "RESUMING to {to}");
        assert_eq!(v2.now()?, ERROR);
        v2.expect_mark(0x42, "the device applied an incomplete load");
        expect_over(&fd, "after a failed load");
        v2.reset()?;
    }
    Ok(())
}

fn p42_reset_gives_running_from_every_state(env: &Env) -> Result {
    let v2 = V2::new(env)?;
    for state in State::ALL {
        v2.write_pages([7], 7)?;
        let fd = v2.reach(state)?;
        v2.reset()?;
        assert!(all_are(&v2.read_pages(7..8)?, 0), "{state}");
        v2.expect_no_mark(&format!("after a reset in {state}"));
        if let Some(fd) = &fd {
            expect_over(fd, &format!("{state} and a reset"));
        }
        v2.reset()?;
    }
    Ok(())
}

const BASE: u64 = 0x100_0000;
const SIZE: usize = 4 << 20;

fn p44_no_dma_in_a_p2p_state(env: &Env) -> Result {
    let v2 = MdmaV2::new(env)?;
    let buffer = v2.buffer(BASE, SIZE)?;
    let mut queue = v2.queue(4)?;
    run_jobs(&mut queue, &[job::nop()])?;
    let paths: [&[State]; 6] = [
        &[RUNNING_P2P, RUNNING],
        &[STOP, RUNNING_P2P, RUNNING],
        &[PRE_COPY, PRE_COPY_P2P, PRE_COPY],
        &[RUNNING_P2P, PRE_COPY_P2P, RUNNING_P2P, RUNNING],
        &[PRE_COPY_P2P, RUNNING],
        &[STOP_COPY, RUNNING_P2P, RUNNING],
    ];
    for (n, path) in (1..).zip(paths) {
        let mut submitted = false;
        for state in path {
            let fd = v2.feature.set_state(*state)?;
            let quiet = [RUNNING_P2P, PRE_COPY_P2P].contains(state);
            if quiet && !submitted {
                queue.submit(&job::fill(guest(BASE), n, 64).cookie(n))?;
                submitted = true;
            }
            if quiet {
                // The registers still work.
                v2.mdma.set(Reg::Scratch, n)?;
                assert_eq!(v2.mdma.get(Reg::Scratch)?, n);
                thread::sleep(SILENCE);
                assert_eq!(
                    queue.poll(),
                    None,
                    "{path:?}: the device ran a job in {state}"
                );
                assert_ne!(buffer.to_vec(0, 8), n.to_le_bytes(), "{path:?}");
            }
            drop(fd);
        }
        assert!(submitted, "{path:?} has no P2P state");
        // The device runs the job after it leaves the P2P states.
        assert_eq!(queue.wait(PATIENCE)?.cookie, n, "{path:?}");
        assert_eq!(buffer.to_vec(0, 8), n.to_le_bytes());
        v2.feature.set_state(RUNNING)?;
    }
    Ok(())
}

fn p44_work_in_flight_is_finished(env: &Env) -> Result {
    let v2 = MdmaV2::new(env)?;
    let buffer = v2.buffer(BASE, SIZE)?;
    let mut queue = v2.queue(4)?;
    for (n, to) in (1..).zip([RUNNING_P2P, PRE_COPY_P2P, RUNNING_P2P, PRE_COPY_P2P]) {
        let before = v2.mdma.get(Reg::BytesDone)?;
        v2.mdma.set_throttle(20_000)?;
        queue.submit(&job::fill(guest(BASE), n, SIZE as u64))?;
        wait_register(&v2.mdma, Reg::BytesDone, "a job in flight", |b| {
            b - before >= 128 << 10
        })?;
        let fd = v2.feature.set_state(to)?;
        let at_once = buffer.to_vec(0, SIZE);
        let done = v2.mdma.get(Reg::BytesDone)? - before;
        assert!(
            done < SIZE as u64,
            "{to}: the job finished before the change"
        );
        // The counter matches the memory: no DMA is in flight.
        let filled = at_once.chunks(8).take_while(|w| *w == n.to_le_bytes());
        assert_eq!(filled.count() as u64 * 8, done, "{to}");
        thread::sleep(SILENCE);
        assert!(
            buffer.to_vec(0, SIZE) == at_once,
            "{to}: DMA after the change"
        );
        drop(fd);
        v2.mdma.set_throttle(0)?;
        v2.to(RUNNING)?;
        assert_eq!(queue.wait(PATIENCE)?.bytes, SIZE as u64);
    }
    Ok(())
}

fn p52_configuration_and_registers_in_every_state(env: &Env) -> Result {
    let v2 = V2::new(env)?;
    let config = v2.device.config()?;
    for state in State::ALL {
        let fd = v2.reach(state)?;
        let snapshot = config.snapshot()?;
        config.restore(&snapshot)?;
        assert_eq!(config.snapshot()?, snapshot, "{state}");
        v2.write_pages([2], 9)?;
        v2.expect_mark(9, &format!("in {state}"));
        assert!(all_are(&v2.read_pages(2..3)?, 9), "{state}");
        drop(fd);
        v2.reset()?;
        config.enable()?;
    }
    Ok(())
}

fn p52_everything_else_works_in_every_state(env: &Env) -> Result {
    let v2 = MdmaV2::new(env)?;
    let config = v2.device.config()?;
    let msix = v2.device.irq(VFIO_PCI_MSIX_IRQ_INDEX)?;
    for state in State::ALL {
        let fd = v2.reach(state)?;
        let snapshot = config.snapshot()?;
        config.restore(&snapshot)?;
        assert_eq!(config.snapshot()?, snapshot, "{state}");
        let event = EventFd::new()?;
        msix.set_eventfds(0, &[Some(&event)])?;
        msix.set_none(Action::Trigger, 0, 1)?;
        expect_signal(&event, "an interrupt triggered by the user");
        msix.disable()?;
        v2.write_memory(8192, b"contents")?;
        assert_eq!(v2.read_memory(8192, 8)?, b"contents", "{state}");
        drop(fd);
        v2.reset()?;
        config.enable()?;
    }
    Ok(())
}

fn running_and_stopping_change_nothing(env: &Env) -> Result {
    let (v2, _) = V2::saved(env, &[3])?;
    v2.to(RUNNING)?;
    let before = v2.snapshot()?;
    for path in COMBINATIONS.iter().filter(|path| !path.contains(&RESUMING)) {
        for state in *path {
            v2.feature.set_state(*state)?;
        }
        v2.feature.set_state(RUNNING)?;
        v2.snapshot()?.expect(&before, &format!("{path:?}"));
    }
    Ok(())
}

fn a_queue_outlasts_running_and_stopping(env: &Env) -> Result {
    let v2 = MdmaV2::new(env)?;
    let _buffer = v2.buffer(BASE, SIZE)?;
    let mut queue = v2.queue(4)?;
    run_jobs(&mut queue, &[job::fill(guest(BASE), 1, 8).interrupt()])?;
    v2.mdma.set(Reg::Scratch, 0xabcd)?;
    v2.write_memory(12345, b"stays")?;
    let before = v2.registers()?;
    for path in COMBINATIONS.iter().filter(|path| !path.contains(&RESUMING)) {
        for state in *path {
            v2.feature.set_state(*state)?;
        }
        v2.feature.set_state(RUNNING)?;
        let diff = v2.registers()?.diff(&before);
        assert!(diff.is_empty(), "{path:?} changed {diff:x?}");
        assert_eq!(v2.read_memory(12345, 5)?, b"stays");
    }
    run_jobs(&mut queue, &[job::nop().cookie(2)])
}
