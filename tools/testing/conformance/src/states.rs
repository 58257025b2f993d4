// SPDX-License-Identifier: GPL-2.0

//! Checks of the migration states: transitions, resets and closing.

use vfio_client::uapi::VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE;
use vfio_client::v2::State;

use crate::check::{Check, Line};
use crate::fault::{require, require_invalid, Fault};
use crate::subject::{data_fd, restart, supported, Subject};

pub(crate) const CHECKS: &[Check] = &[
    Check::changes(
        "states.reach",
        Line::vfio("enum vfio_device_mig_state", "The remaining possible transitions are interpreted as combinations of the above FSM arcs."),
        "Each supported state is reached from each other. STOP_COPY to PRE_COPY and PRE_COPY_P2P fail and change nothing.",
        reach
    ),
    Check::changes(
        "states.invalid",
        Line::vfio("enum vfio_device_mig_state", "ERROR cannot be specified as a device state"),
        "ERROR and unknown numbers cannot be requested: EINVAL, and the state stays.",
        invalid
    ),
    Check::changes(
        "states.data_fd",
        Line::vfio("enum vfio_device_mig_state", "Some of the FSM arcs will create a migration data transfer session by returning a FD"),
        "STOP_COPY, RESUMING and PRE_COPY give a data_fd; STOP and RUNNING give none.",
        makes_data_fd
    ),
    Check::changes(
        "states.optional",
        Line::vfio("enum vfio_device_mig_state", "The optional states cannot be used with SET_STATE if the device does not support them."),
        "A state that the device does not support cannot be requested: EINVAL, and the state stays.",
        optional
    ),
    Check::changes(
        "states.get",
        Line::vfio("VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE", "get the current migration state of the VFIO device, data_fd will be -1."),
        "A GET in each state returns the state and a data_fd of -1.",
        get
    ),
    Check::changes(
        "states.data_size",
        Line::vfio("VFIO_DEVICE_FEATURE_MIG_DATA_SIZE", "Note: Can be called on each device state."),
        "The estimate of the data can be read in each state.",
        data_size
    ),
    Check::changes(
        "states.session",
        Line::vfio("enum vfio_device_mig_state", "what is streamed in session, but does not terminate or otherwise affect the associated fd."),
        "From PRE_COPY to PRE_COPY_P2P, back and to STOP_COPY there is no new data_fd, and the first one goes on.",
        session
    ),
    Check::changes(
        "reset.states",
        Line::vfio("enum vfio_device_mig_state", "VFIO_DEVICE_RESET must be used to return the device_state back to RUNNING."),
        "A reset in any state leads to RUNNING.",
        reset
    ),
    Check::changes(
        "close.states",
        Line::vfio("VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE", "must not generate asynchronous device state transitions outside of manipulation by the user"),
        "A device that was closed in any state is RUNNING for its next user. The UAPI does not say this outright.",
        close
    ),
];

fn reach(subject: &Subject) -> Result<(), Fault> {
    let (device, migration) = subject.open_v2()?;
    for from in supported(&migration) {
        // The way out of RESUMING needs data.
        if from == State::RESUMING {
            continue;
        }
        for to in supported(&migration) {
            restart(&device, &migration)?;
            migration.set_state(from)?;
            let result = migration.set_state(to);
            let pre_copy = to == State::PRE_COPY || to == State::PRE_COPY_P2P;
            let possible = !(from == State::STOP_COPY && pre_copy);
            let what = match possible {
                true => format!("success of {from} to {to}"),
                false => format!("an error of {from} to {to}"),
            };
            require(result.is_ok() == possible, what, format!("{result:?}"))?;
            let state = migration.state()?;
            let wanted = if possible { to } else { from };
            require(
                state == wanted,
                format!("{wanted} after {from} to {to}"),
                state,
            )?;
        }
    }
    restart(&device, &migration)?;
    Ok(())
}

fn optional(subject: &Subject) -> Result<(), Fault> {
    let (_, migration) = subject.open_v2()?;
    let supported = supported(&migration);
    let missing = State::ALL
        .into_iter()
        .filter(|state| *state != State::ERROR && !supported.contains(state));
    let mut count = 0;
    for state in missing {
        count += 1;
        let call = format!("a request of {state}, which is not supported");
        require_invalid(&call, migration.set_state(state))?;
        let seen = migration.state()?;
        require(seen == State::RUNNING, "the state to stay RUNNING", seen)?;
    }
    match count {
        0 => Err(Fault::Absent("state that it does not support".into())),
        _ => Ok(()),
    }
}

fn get(subject: &Subject) -> Result<(), Fault> {
    let (device, migration) = subject.open_v2()?;
    for wanted in supported(&migration) {
        restart(&device, &migration)?;
        let file = migration.set_state(wanted)?;
        let mut bytes = [0; 8];
        device.feature_get(VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, &mut bytes)?;
        let state = State(u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
        let fd = i32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        let good = state == wanted && fd == -1;
        let what = format!("{wanted} and data_fd -1 from a GET");
        require(good, what, format!("{state} and data_fd {fd}"))?;
        drop(file);
    }
    Ok(())
}

fn data_size(subject: &Subject) -> Result<(), Fault> {
    let (device, migration) = subject.open_v2()?;
    if migration.data_size().is_err() {
        return Err(Fault::Absent("VFIO_DEVICE_FEATURE_MIG_DATA_SIZE".into()));
    }
    for state in supported(&migration) {
        restart(&device, &migration)?;
        let file = migration.set_state(state)?;
        let size = migration.data_size();
        require(
            size.is_ok(),
            format!("an estimate in {state}"),
            format!("{size:?}"),
        )?;
        drop(file);
    }
    Ok(())
}

fn session(subject: &Subject) -> Result<(), Fault> {
    let (device, migration) = subject.open_v2()?;
    if !migration.has_pre_copy() {
        return Err(Fault::Absent("VFIO_MIGRATION_PRE_COPY".into()));
    }
    let file = data_fd(&migration, State::PRE_COPY)?;
    for state in [State::PRE_COPY_P2P, State::PRE_COPY, State::STOP_COPY] {
        if !supported(&migration).contains(&state) {
            continue;
        }
        let other = migration.set_state(state)?.is_some();
        let what = format!("no new data_fd from the transition to {state}");
        require(!other, what, "one")?;
    }
    let mut stream = Vec::new();
    file.read_available(&mut stream)?;
    require(
        !stream.is_empty(),
        "data from the data_fd of PRE_COPY in STOP_COPY",
        "none",
    )?;
    restart(&device, &migration)?;
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

fn makes_data_fd(subject: &Subject) -> Result<(), Fault> {
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
