// SPDX-License-Identifier: GPL-2.0

//! Every sequence of state changes up to a fixed length, by v1, by v2 and by both, compared with a model.
//!
//! The model follows the text of the protocols: the changes that each protocol allows, and which protocol owns the
//! session. Each sequence starts from a reset and is checked after each step, which shows side effects of a refused
//! change.

use vfio_client::v2::State;
use vfio_client::{errno, errno_name, v1};

use crate::env::Env;
use crate::fixture::v2::{v1_state, V2};
use crate::harness::limits::Limits;
use crate::harness::result::Result;
use crate::{note, tests};

tests! { "state_sequences":
    p48_every_sequence_of_three_changes ["P10", "P11", "P12", "P14", "P40", "P41", "P42", "P43", "P48"],
}

const LENGTH: u32 = 3;

/// If `--iterations` is below its default, only one in this many sequences runs.
const STEP: usize = 23;

/// A request to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// A write to `device_state`.
    V1(u32),
    /// `MIG_DEVICE_STATE`.
    V2(State),
    /// `VFIO_DEVICE_RESET`.
    Reset,
}

/// The protocol that opened the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Owner {
    V1,
    V2,
}

/// The model of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Model {
    state: State,
    owner: Option<Owner>,
}

/// The expected result: whether the device returns a data file, or the errno.
type Answer = Result<bool, i32>;

fn events() -> Vec<Event> {
    // v1: all values of the three bits, and a reserved one. v2: all states, and an invalid number.
    let v1 = (0..=8).map(Event::V1);
    let v2 = (0..=8).map(|number| Event::V2(State(number)));
    v1.chain(v2).chain([Event::Reset]).collect()
}

fn has_session(state: State) -> bool {
    [
        State::PRE_COPY,
        State::PRE_COPY_P2P,
        State::STOP_COPY,
        State::RESUMING,
    ]
    .contains(&state)
}

fn is_p2p(state: State) -> bool {
    [State::RUNNING_P2P, State::PRE_COPY_P2P].contains(&state)
}

fn saves(state: State) -> bool {
    has_session(state) && state != State::RESUMING
}

impl Model {
    const NEW: Model = Model {
        state: State::RUNNING,
        owner: None,
    };

    /// Returns the value that v1 reads.
    fn bits(self) -> u32 {
        v1_state(self.state).0
    }

    fn enter(&mut self, state: State, by: Owner) {
        self.state = state;
        self.owner = has_session(state).then_some(by);
    }

    fn v1(&mut self, bits: u32) -> Answer {
        match (self.state, bits) {
            (State::ERROR, _) | (_, 5..) => Err(errno::EINVAL),
            _ => self.v1_legal(bits),
        }
    }

    /// A write of a valid state to a device that is not in the error state.
    fn v1_legal(&mut self, bits: u32) -> Answer {
        if is_p2p(self.state) {
            return Err(errno::EBUSY);
        }
        let legal = match (self.bits(), bits) {
            (from, to) if from == to => true,
            (0b001, _) => true,
            (0b000, to) => to != 0b011,
            (0b011 | 0b100, to) => {
                to == 0b000 || to == 0b001 || (self.bits(), to) == (0b011, 0b010)
            }
            (_, to) => to == 0b000 || to == 0b001,
        };
        if !legal {
            return Err(errno::EINVAL);
        }
        if self.owner == Some(Owner::V2) {
            return Err(errno::EBUSY);
        }
        if self.bits() == 0b100 && bits != 0b100 {
            // A load without data is incomplete (P26).
            *self = Model {
                state: State::ERROR,
                owner: None,
            };
            return Err(errno::ENODATA);
        }
        let states = [
            State::STOP,
            State::RUNNING,
            State::STOP_COPY,
            State::PRE_COPY,
            State::RESUMING,
        ];
        self.enter(states[bits as usize], Owner::V1);
        Ok(false)
    }

    fn v2(&mut self, to: State) -> Answer {
        if self.owner == Some(Owner::V1) {
            return Err(errno::EBUSY);
        }
        if to.0 > 7 || to == State::ERROR || self.state == State::ERROR {
            return Err(errno::EINVAL);
        }
        let from = self.state;
        if from == State::STOP_COPY && [State::PRE_COPY, State::PRE_COPY_P2P].contains(&to) {
            return Err(errno::EINVAL);
        }
        if from == State::RESUMING && to != from {
            *self = Model {
                state: State::ERROR,
                owner: None,
            };
            return Err(errno::ENODATA);
        }
        self.enter(to, Owner::V2);
        // A change between saving states keeps the data file. Any other change to a state with a session opens one
        // (P43).
        Ok(has_session(to) && to != from && !(saves(from) && saves(to)))
    }

    fn take(&mut self, event: Event) -> Answer {
        match event {
            Event::V1(bits) => self.v1(bits),
            Event::V2(state) => self.v2(state),
            Event::Reset => {
                *self = Model::NEW;
                Ok(false)
            }
        }
    }
}

/// Sends the request to the device, and returns the result.
fn play(v2: &V2, event: Event) -> Answer {
    let number = |e: vfio_client::Error| e.errno().unwrap_or(0);
    match event {
        Event::V1(bits) => v2
            .migration
            .write_state(v1::State(bits))
            .map(|()| false)
            .map_err(number),
        Event::V2(state) => match v2.feature.set_state(state) {
            Ok(fd) => Ok(fd.is_some()),
            Err(e) => Err(number(e)),
        },
        Event::Reset => v2.device.reset().map(|()| false).map_err(number),
    }
}

fn named(answer: Answer) -> String {
    match answer {
        Ok(true) => "a data descriptor".into(),
        Ok(false) => "success".into(),
        Err(e) => errno_name(e).unwrap_or("an unknown errno").into(),
    }
}

fn p48_every_sequence_of_three_changes(env: &Env) -> Result {
    let v2 = V2::new(env)?;
    let events = events();
    let count = events.len().pow(LENGTH);
    let all = env.limits.iterations >= Limits::default().iterations;
    let mut states = std::collections::HashSet::new();
    for number in (0..count).step_by(if all { 1 } else { STEP }) {
        let mut model = Model::NEW;
        let mut rest = number;
        let mut sequence = Vec::new();
        for _ in 0..LENGTH {
            let event = events[rest % events.len()];
            rest /= events.len();
            sequence.push(event);
            let expected = model.take(event);
            let found = play(&v2, event);
            assert_eq!(
                found,
                expected,
                "{sequence:?}: {}, expected {}",
                named(found),
                named(expected)
            );
            let state = (v2.now()?, v2.state()?.0);
            assert_eq!(state, (model.state, model.bits()), "{sequence:?}");
            states.insert(model);
        }
        v2.reset()?;
    }
    note!(
        "{} of {count} sequences, {} pairs of state and owner",
        if all { count } else { count.div_ceil(STEP) },
        states.len()
    );
    // The eight states, and three that can belong to either protocol.
    assert_eq!(states.len(), 4 + 4 + 3);
    Ok(())
}
