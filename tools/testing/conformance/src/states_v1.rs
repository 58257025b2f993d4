// SPDX-License-Identifier: GPL-2.0

//! Checks of the states of protocol v1.

use vfio_client::v1::{Migration, State};

use crate::check::{Check, Line};
use crate::fault::{require, Fault};
use crate::subject::Subject;

pub(crate) const CHECKS: &[Check] = &[
    Check::changes(
        "v1.states",
        Line::v1("After successful transition to a given state, the vendor driver should return success"),
        "The states of a migration, a suspend and a shutdown are reached, and read back.",
        states,
    ),
    Check::changes(
        "v1.pre_copy_without_reading",
        Line::v1("The user must not be required to consume all migration data before the device transitions"),
        "010 is reached from 011 without a read of any data, and so is 001.",
        pre_copy_without_reading,
    ),
    Check::changes(
        "v1.resuming",
        Line::v1("the device state should be transitioned from the _RUNNING to the _RESUMING state"),
        "100 is reached from 001 and from 000.",
        resuming,
    ),
    Check::changes(
        "v1.invalid",
        Line::v1("The vendor driver should return previous state of the device"),
        "101, 110 and 111 are no states: the write fails, and the state stays.",
        invalid,
    ),
    Check::changes(
        "v1.reset",
        Line::v1("The user application must use the device reset ioctl to recover the device"),
        "A reset in any state leads to 001, and a migration starts over.",
        reset,
    ),
    Check::changes(
        "v1.close",
        Line::v1("Default state of VFIO device is _RUNNING when the user application starts."),
        "A device that was closed in any state is 001 for its next user.",
        close,
    ),
];

/// The states that a device has without an error.
const ALL: [State; 5] = [
    State::STOP,
    State::RUNNING,
    State::STOP_AND_COPY,
    State::PRE_COPY,
    State::RESUMING,
];

/// Changes the state and reads it back.
pub(crate) fn reach(migration: &Migration, state: State) -> Result<(), Fault> {
    let from = migration.state()?;
    let result = migration.write_state(state);
    let what = format!("success of {from} to {state}");
    require(result.is_ok(), what, format!("{result:?}"))?;
    let seen = migration.state()?;
    require(seen == state, format!("{state} to read back"), seen)
}

fn states(subject: &Subject) -> Result<(), Fault> {
    let (_, migration) = subject.open_v1()?;
    for path in [
        &[
            State::PRE_COPY,
            State::STOP_AND_COPY,
            State::STOP,
            State::RUNNING,
        ][..],
        &[State::STOP_AND_COPY, State::STOP, State::RUNNING],
        &[State::STOP, State::RUNNING],
    ] {
        for state in path {
            reach(&migration, *state)?;
        }
    }
    Ok(())
}

fn pre_copy_without_reading(subject: &Subject) -> Result<(), Fault> {
    let (_, migration) = subject.open_v1()?;
    for state in [
        State::PRE_COPY,
        State::STOP_AND_COPY,
        State::RUNNING,
        State::PRE_COPY,
        State::RUNNING,
    ] {
        reach(&migration, state)?;
    }
    Ok(())
}

fn resuming(subject: &Subject) -> Result<(), Fault> {
    for from in [State::RUNNING, State::STOP] {
        let (_, migration) = subject.open_v1()?;
        reach(&migration, from)?;
        reach(&migration, State::RESUMING)?;
    }
    Ok(())
}

fn invalid(subject: &Subject) -> Result<(), Fault> {
    let (_, migration) = subject.open_v1()?;
    for value in [0b101, 0b110, 0b111] {
        let result = migration.write_state(State(value));
        let what = format!("a write of {value:#b} to fail");
        require(result.is_err(), what, "success")?;
        let seen = migration.state()?;
        let what = format!("001 after a write of {value:#b}");
        require(seen == State::RUNNING, what, seen)?;
    }
    Ok(())
}

fn reset(subject: &Subject) -> Result<(), Fault> {
    let (device, migration) = subject.open_v1()?;
    for state in ALL {
        reach(&migration, state)?;
        device.reset()?;
        let seen = migration.state()?;
        let what = format!("001 after a reset in {state}");
        require(seen == State::RUNNING, what, seen)?;
        let pending = migration.pending_bytes()?;
        let what = format!("0 pending after a reset in {state}");
        require(pending == 0, what, pending)?;
    }
    Ok(())
}

fn close(subject: &Subject) -> Result<(), Fault> {
    for state in ALL {
        let (device, migration) = subject.open_v1()?;
        reach(&migration, state)?;
        drop((device, migration));
        let device = subject.open()?;
        let seen = match device.migration_v1()? {
            Some(migration) => migration.state()?,
            None => return Err(Fault::Absent("migration after a close".into())),
        };
        let what = format!("001 after a close in {state}");
        require(seen == State::RUNNING, what, seen)?;
    }
    Ok(())
}
