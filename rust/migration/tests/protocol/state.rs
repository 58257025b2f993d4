// SPDX-License-Identifier: GPL-2.0

//! The arcs of v1 and v2, compared with expectations written from the text, and with a state machine that executes the
//! actions.

use migration::state::{State, StateError};
use migration::transition::{v1_transition, v1_write, v2_check, v2_transition, Action, Transition};
use proptest::prelude::*;
use State::*;

/// The v1 arcs as the requirements list them: `from->to`, in bits.
const P13: [(u32, u32); 7] = [(1, 0), (1, 2), (1, 3), (3, 2), (2, 0), (1, 4), (4, 1)];
const P14: [(u32, u32); 12] = [
    (0, 0),
    (1, 1),
    (2, 2),
    (3, 3),
    (4, 4),
    (3, 1),
    (2, 1),
    (0, 1),
    (3, 0),
    (0, 2),
    (0, 4),
    (4, 0),
];
const V1_STATES: [(u32, State); 6] = [
    (0, Stop),
    (1, Running),
    (2, StopCopy),
    (3, PreCopy),
    (4, Resuming),
    (6, Error),
];

/// The v2 arcs as P39 lists them.
const P39: [(State, State); 15] = [
    (Running, RunningP2p),
    (RunningP2p, Running),
    (RunningP2p, Stop),
    (Stop, RunningP2p),
    (Stop, StopCopy),
    (StopCopy, Stop),
    (Stop, Resuming),
    (Resuming, Stop),
    (Running, PreCopy),
    (PreCopy, Running),
    (PreCopy, PreCopyP2p),
    (PreCopyP2p, PreCopy),
    (RunningP2p, PreCopyP2p),
    (PreCopyP2p, RunningP2p),
    (PreCopyP2p, StopCopy),
];

/// The v2 arcs of a device without P2P states that P39 does not list.
const WITHOUT_P2P: [(State, State); 3] = [(Running, Stop), (Stop, Running), (PreCopy, StopCopy)];

/// A device that executes actions and asserts that each is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Machine {
    runs: bool,
    dma: bool,
    saving: bool,
    save_stopped: bool,
    prepared: bool,
    loading: bool,
}

impl Machine {
    fn in_state(state: State) -> Machine {
        let runs = matches!(state, Running | PreCopy | RunningP2p | PreCopyP2p);
        Machine {
            runs,
            dma: matches!(state, Running | PreCopy),
            saving: matches!(state, PreCopy | PreCopyP2p | StopCopy),
            save_stopped: state == StopCopy,
            prepared: state == Resuming,
            loading: state == Resuming,
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::BeginSave => {
                assert!(!self.saving && !self.loading && !self.prepared);
                self.saving = true;
            }
            Action::PrepareLoad => {
                assert!(!self.saving && !self.prepared);
                self.prepared = true;
            }
            Action::QuiescePeer => {
                assert!(self.runs && self.dma);
                self.dma = false;
            }
            Action::QuiesceAll => {
                assert!(self.runs);
                (self.runs, self.dma) = (false, false);
            }
            Action::RunPeer => {
                assert!(!self.runs && !self.loading && !self.saving);
                self.runs = true;
            }
            Action::Run => {
                assert!(!self.dma && !self.loading && !self.save_stopped);
                (self.runs, self.dma) = (true, true);
            }
            Action::StopSave => {
                assert!(self.saving && !self.runs && !self.save_stopped);
                self.save_stopped = true;
            }
            Action::Restage => assert!(self.saving && self.save_stopped),
            Action::EndSave => {
                assert!(self.saving);
                (self.saving, self.save_stopped) = (false, false);
            }
            Action::BeginLoad => {
                assert!(self.prepared && !self.runs && !self.loading);
                self.loading = true;
            }
            Action::RestartLoad => assert!(self.prepared && self.loading && !self.runs),
            Action::CommitLoad => {
                assert!(self.loading);
                (self.prepared, self.loading) = (false, false);
            }
        }
    }

    fn walk(transition: &Transition) {
        let mut machine = Machine::in_state(transition.from);
        for &action in transition.actions {
            machine.act(action);
        }
        assert_eq!(
            machine,
            Machine::in_state(transition.to),
            "{} -> {}",
            transition.from,
            transition.to
        );
    }
}

#[test]
fn p13_p14_all_six_by_eight_pairs() {
    let mut accepted = 0;
    for (from_bits, from) in V1_STATES {
        for to in 0..8 {
            let legal = P13.contains(&(from_bits, to)) || P14.contains(&(from_bits, to));
            match v1_write(from, to) {
                Ok(transition) => {
                    assert!(legal, "{from_bits:03b} -> {to:03b} is accepted");
                    assert_eq!((transition.from, transition.to.to_v1()), (from, to));
                    Machine::walk(&transition);
                    accepted += 1;
                }
                Err(error) => {
                    assert!(!legal, "{from_bits:03b} -> {to:03b}: {error}");
                    assert_eq!(error.errno(), 22);
                }
            }
        }
    }
    assert_eq!(accepted, P13.len() + P14.len());
}

#[test]
fn p07_the_bits_of_each_state() {
    for (bits, state) in V1_STATES {
        assert_eq!(state.to_v1(), bits);
        match state {
            Error => assert_eq!(State::from_v1(bits), Err(StateError::ErrorRequested)),
            _ => assert_eq!(State::from_v1(bits), Ok(state)),
        }
        // The bits _RUNNING, _SAVING and _RESUMING have their meaning in all states but the error state.
        if state != Error {
            assert_eq!(state.is_running(), bits & 1 != 0);
            assert_eq!(state.is_saving(), bits & 2 != 0);
            assert_eq!(state.is_resuming(), bits & 4 != 0);
        }
    }
    for bits in [0b101, 0b111] {
        assert_eq!(State::from_v1(bits), Err(StateError::InvalidBits(bits)));
    }
}

#[test]
fn p11_every_write_fails_in_error() {
    for to in 0..=0xffff {
        assert!(v1_write(Error, to).is_err(), "{to:#x}");
    }
    for to in State::ALL {
        assert_eq!(v1_transition(Error, to), Err(StateError::InError));
        assert_eq!(v2_transition(Error, to), Err(StateError::InError));
        assert_eq!(v2_check(Error, to), Err(StateError::InError));
    }
}

#[test]
fn p42_error_is_never_asked_for() {
    for from in State::ALL {
        for error in [
            v1_transition(from, Error).unwrap_err(),
            v2_transition(from, Error).unwrap_err(),
            v2_check(from, Error).unwrap_err(),
        ] {
            let reason = match from {
                Error => "only a reset leaves the error state",
                RunningP2p | PreCopyP2p if error == StateError::HeldByV2(from) => continue,
                _ => "the error state cannot be requested",
            };
            assert_eq!(error.to_string(), reason);
        }
    }
}

#[test]
fn p12_reserved_bits_are_refused_one_by_one() {
    for bit in 3..32 {
        for low in 0..8 {
            for (_, from) in V1_STATES {
                let bits = (1 << bit) | low;
                assert_eq!(v1_write(from, bits), Err(StateError::ReservedBits(bits)));
            }
        }
    }
}

proptest! {
    #[test]
    fn p12_no_other_value_is_a_state(bits: u32) {
        prop_assert_eq!(State::from_v1(bits).is_ok(), bits < 5);
        prop_assert_eq!(State::from_v2(bits).is_ok(), bits < 8);
    }
}

#[test]
fn p08_self_arcs_do_nothing_but_mend_a_load() {
    let actions = |state| match state {
        Resuming => vec![Action::RestartLoad],
        _ => vec![],
    };
    for state in [Stop, Running, StopCopy, PreCopy, Resuming] {
        assert_eq!(v1_transition(state, state).unwrap().actions, actions(state));
    }
    for state in State::ALL {
        match state {
            Error => assert!(v2_transition(state, state).is_err()),
            _ => assert_eq!(v2_transition(state, state).unwrap().actions, actions(state)),
        }
    }
}

#[test]
fn p09_a_stop_is_a_drain() {
    for from in State::ALL {
        for to in State::ALL {
            for transition in [v1_transition(from, to), v2_transition(from, to)]
                .into_iter()
                .flatten()
            {
                let drains = transition.actions.contains(&Action::QuiesceAll);
                assert_eq!(
                    drains,
                    from.is_running() && !to.is_running(),
                    "{from} -> {to}"
                );
            }
        }
    }
}

#[test]
fn p10_only_the_first_action_can_fail() {
    for from in State::ALL {
        for to in State::ALL {
            for transition in [v1_transition(from, to), v2_transition(from, to)]
                .into_iter()
                .flatten()
            {
                for action in transition.actions.iter().skip(1) {
                    assert!(!action.is_fallible(), "{from} -> {to}: {action:?}");
                }
            }
        }
    }
}

#[test]
fn p26_only_a_failed_load_leaves_error() {
    for from in State::ALL {
        for to in State::ALL {
            for transition in [v1_transition(from, to), v2_transition(from, to)]
                .into_iter()
                .flatten()
            {
                let expected = match (from, to) {
                    (Resuming, Stop | Running) => Error,
                    _ => from,
                };
                assert_eq!(transition.on_failure(), expected, "{from} -> {to}");
            }
        }
    }
}

#[test]
fn p23_only_v1_from_pre_copy_restages() {
    for from in State::ALL {
        for to in State::ALL {
            let restages = |transition: Result<Transition, StateError>| {
                transition.is_ok_and(|transition| transition.actions.contains(&Action::Restage))
            };
            assert_eq!(
                restages(v1_transition(from, to)),
                (from, to) == (PreCopy, StopCopy)
            );
            assert!(!restages(v2_transition(from, to)));
        }
    }
}

#[test]
fn p38_the_numbers_of_v2() {
    let numbers = [
        (0, Error, "ERROR"),
        (1, Stop, "STOP"),
        (2, Running, "RUNNING"),
        (3, StopCopy, "STOP_COPY"),
        (4, Resuming, "RESUMING"),
        (5, RunningP2p, "RUNNING_P2P"),
        (6, PreCopy, "PRE_COPY"),
        (7, PreCopyP2p, "PRE_COPY_P2P"),
    ];
    for (number, state, name) in numbers {
        assert_eq!(state.to_v2(), number);
        assert_eq!(State::from_v2(number), Ok(state));
        assert_eq!(state.to_string(), name);
    }
    assert_eq!(State::from_v2(8), Err(StateError::UnknownNumber(8)));
}

#[test]
fn p39_all_eight_by_eight_pairs() {
    for from in State::ALL {
        for to in State::ALL {
            let arc = (from, to);
            let legal =
                P39.contains(&arc) || WITHOUT_P2P.contains(&arc) || (from == to && from != Error);
            match v2_transition(from, to) {
                Ok(transition) => {
                    assert!(legal, "{from} -> {to} is accepted");
                    Machine::walk(&transition);
                }
                Err(error) => {
                    assert!(!legal, "{from} -> {to}: {error}");
                    assert_eq!(error.errno(), 22);
                }
            }
        }
    }
}

#[test]
fn p40_every_state_is_reached_by_direct_arcs() {
    for from in State::ALL {
        let mut seen = vec![from];
        let mut at = 0;
        while let Some(&state) = seen.get(at) {
            for to in State::ALL {
                if v2_transition(state, to).is_ok() && !seen.contains(&to) {
                    seen.push(to);
                }
            }
            at += 1;
        }
        assert_eq!(seen.len(), if from == Error { 1 } else { 7 }, "{from}");
    }
}

#[test]
fn p41_stop_copy_never_goes_back_to_pre_copy() {
    for from in State::ALL {
        for to in State::ALL {
            let refused = from == Error
                || to == Error
                || (from == StopCopy && matches!(to, PreCopy | PreCopyP2p));
            assert_eq!(v2_check(from, to).is_err(), refused, "{from} -> {to}");
        }
    }
}

#[test]
fn p43_the_arcs_with_a_data_fd() {
    let opens = [
        (Running, PreCopy),
        (RunningP2p, PreCopyP2p),
        (Stop, StopCopy),
        (Stop, Resuming),
    ];
    let closes = [
        (PreCopy, Running),
        (PreCopyP2p, RunningP2p),
        (StopCopy, Stop),
        (Resuming, Stop),
    ];
    for (from, to) in P39 {
        let transition = v2_transition(from, to).unwrap();
        assert_eq!(transition.opens_data_fd(), opens.contains(&(from, to)));
        assert_eq!(transition.closes_data_fd(), closes.contains(&(from, to)));
    }
}

#[test]
fn p44_no_dma_in_a_p2p_state() {
    for state in State::ALL {
        assert_eq!(state.may_dma(), matches!(state, Running | PreCopy));
        assert_eq!(state.is_p2p(), matches!(state, RunningP2p | PreCopyP2p));
    }
}

#[test]
fn p48_v1_does_not_move_what_v2_holds_in_p2p() {
    for from in [RunningP2p, PreCopyP2p] {
        for bits in 0..5 {
            let error = v1_write(from, bits).unwrap_err();
            assert_eq!(error, StateError::HeldByV2(from));
            assert_eq!(error.errno(), 16);
        }
    }
    assert_eq!(RunningP2p.to_v1(), 1);
    assert_eq!(PreCopyP2p.to_v1(), 3);
    assert!(v1_transition(Running, RunningP2p).is_err());
}
