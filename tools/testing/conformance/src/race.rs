// SPDX-License-Identifier: GPL-2.0

//! Checks of calls by two threads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use vfio_client::v2::State;

use crate::check::{Check, Line};
use crate::fault::{require, Fault};
use crate::subject::{restart, Subject};

pub(crate) const CHECKS: &[Check] = &[
    Check::changes(
        "race.states",
        Line::vfio("VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE", "must fully transition the device to the new state value before the operation returns to the user."),
        "While two threads change the state and a third resets, each state that is read is valid.",
        states,
    ),
    Check::changes(
        "race.data_fd",
        Line::vfio("enum vfio_device_mig_state", "The STOP_COPY arc will terminate a data transfer session."),
        "A data_fd that is read while the state changes gives no data after its session.",
        data_fd,
    ),
];

/// Changes of a thread.
const ROUNDS: usize = 300;

fn states(subject: &Subject) -> Result<(), Fault> {
    let (device, migration) = subject.open_v2()?;
    let wanted = [
        State::STOP,
        State::STOP_COPY,
        State::RUNNING,
        State::RESUMING,
        State::PRE_COPY,
    ];
    let over = AtomicBool::new(false);
    let result = thread::scope(|threads| {
        for step in [1, 3] {
            let (migration, over) = (&migration, &over);
            threads.spawn(move || {
                for n in (0..).step_by(step) {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    // Each may fail, since another thread has changed the state.
                    drop(migration.set_state(wanted[n % wanted.len()]));
                }
            });
        }
        let check = || -> Result<(), Fault> {
            for n in 0..ROUNDS {
                if n % 10 == 0 {
                    restart(&device, &migration)?;
                }
                let state = migration.state()?;
                require(state.name().is_some(), "a valid state", state)?;
            }
            Ok(())
        };
        let result = check();
        over.store(true, Ordering::Relaxed);
        result
    });
    result?;
    restart(&device, &migration)?;
    let state = migration.state()?;
    require(
        state == State::RUNNING,
        "RUNNING after a reset at the end",
        state,
    )
}

fn data_fd(subject: &Subject) -> Result<(), Fault> {
    let (_, migration) = subject.open_v2()?;
    for _ in 0..ROUNDS / 10 {
        let Some(file) = migration.set_state(State::STOP_COPY)? else {
            return require(false, "a data_fd", "none");
        };
        let late = thread::scope(|threads| {
            let reader = threads.spawn(|| while let Ok(1..) = file.read(&mut [0; 64]) {});
            let stopped = migration.set_state(State::STOP);
            let joined = reader.join();
            (stopped, joined)
        });
        let (stopped, joined) = late;
        stopped?;
        require(joined.is_ok(), "the reader to end", "a panic")?;
        let read = file.read(&mut [0; 16]);
        let what = "no byte from the data_fd after STOP_COPY ended";
        require(!matches!(read, Ok(1..)), what, format!("{read:?}"))?;
        migration.set_state(State::RUNNING)?;
    }
    Ok(())
}
