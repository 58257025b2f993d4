// SPDX-License-Identifier: GPL-2.0

//! Checks of the migration states: transitions, resets and closing.

use vfio_client::v2::State;

use crate::check::Check;
use crate::fault::{require, require_invalid, Fault};
use crate::subject::{supported, Subject};

pub(crate) const CHECKS: &[Check] = &[
    Check::changes(
        "states.reach",
        "enum vfio_device_mig_state",
        "Each supported state is reached from each other, or the request fails and changes nothing.",
        reach
    ),
    Check::changes(
        "states.invalid",
        "VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE",
        "ERROR and unknown numbers cannot be requested: EINVAL, and the state stays.",
        invalid
    ),
    Check::changes(
        "states.data_fd",
        "struct vfio_device_feature_mig_state",
        "STOP_COPY, RESUMING and PRE_COPY give a data_fd; STOP and RUNNING give none.",
        data_fd
    ),
    Check::changes(
        "reset.states",
        "VFIO_DEVICE_RESET",
        "A reset in any state leads to RUNNING.",
        reset
    ),
    Check::changes(
        "close.states",
        "enum vfio_device_mig_state",
        "A device that was closed in any state is RUNNING for its next user. The UAPI does not say this outright.",
        close
    ),
];

fn reach(subject: &Subject) -> Result<(), Fault> {
    let (_, migration) = subject.open_v2()?;
    for from in supported(&migration) {
        for to in supported(&migration) {
            migration.set_state(State::STOP)?;
            // An arc into RESUMING and out of it without data may fail.
            if from == State::RESUMING || to == State::RESUMING {
                continue;
            }
            migration.set_state(from)?;
            let copying = [State::STOP_COPY, State::PRE_COPY, State::PRE_COPY_P2P];
            let result = migration.set_state(to);
            let state = migration.state()?;
            let wanted = if result.is_ok() { to } else { from };
            let what = format!("{wanted} after {from} to {to} ({result:?})");
            require(state == wanted, what, state)?;
            // STOP_COPY may go back to pre-copy by no path.
            if !(from == State::STOP_COPY && copying.contains(&to)) {
                let what = format!("success of {from} to {to}");
                require(result.is_ok(), what, format!("{result:?}"))?;
            }
            drop(result);
        }
    }
    migration.set_state(State::RUNNING)?;
    Ok(())
}

fn invalid(subject: &Subject) -> Result<(), Fault> {
    let (_, migration) = subject.open_v2()?;
    for state in [State::ERROR, State(8), State(u32::MAX)] {
        let call = format!("a request of state {state}");
        require_invalid(&call, migration.set_state(state))?;
        let seen = migration.state()?;
        require(seen == State::RUNNING, "the state to stay RUNNING", seen)?;
    }
    Ok(())
}

fn data_fd(subject: &Subject) -> Result<(), Fault> {
    let (_, migration) = subject.open_v2()?;
    let mut path = vec![(State::STOP, false), (State::STOP_COPY, true)];
    path.extend([(State::STOP, false), (State::RUNNING, false)]);
    if migration.has_pre_copy() {
        path.extend([(State::PRE_COPY, true), (State::RUNNING, false)]);
    }
    path.extend([(State::STOP, false), (State::RESUMING, true)]);
    for (state, wanted) in path {
        let seen = migration.set_state(state)?.is_some();
        let what = format!("data_fd {wanted} from the transition to {state}");
        require(seen == wanted, what, seen)?;
    }
    Ok(())
}

fn reset(subject: &Subject) -> Result<(), Fault> {
    let (device, migration) = subject.open_v2()?;
    for state in supported(&migration) {
        let file = migration.set_state(state)?;
        device.reset()?;
        let seen = migration.state()?;
        let what = format!("RUNNING after a reset in {state}");
        require(seen == State::RUNNING, what, seen)?;
        drop(file);
    }
    Ok(())
}

fn close(subject: &Subject) -> Result<(), Fault> {
    let states = supported(&subject.open_v2()?.1);
    for state in states {
        let (device, migration) = subject.open_v2()?;
        let file = migration.set_state(state)?;
        drop((device, migration, file));
        let device = subject.open()?;
        let seen = match device.migration_v2()? {
            Some(migration) => migration.state()?,
            None => return Err(Fault::Absent("migration after a close".into())),
        };
        let what = format!("RUNNING after a close in {state}");
        require(seen == State::RUNNING, what, seen)?;
    }
    Ok(())
}
