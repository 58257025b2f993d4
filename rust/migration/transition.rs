// SPDX-License-Identifier: GPL-2.0

//! The permitted changes of state in v1 and v2, and what each of them does.
//!
//! A [`Transition`] is a list of [`Action`]s, done in order. An action that can fail is always the
//! first of its transition, so a failed transition has changed nothing and keeps the state (P10).
//! The only exception is [`Action::CommitLoad`]: if it fails, the device is in [`State::Error`]
//! (P26).
//!
//! `VFIO_DEVICE_RESET` is not a transition. It works in every state, ends any session, frees all
//! buffers and enters [`State::Running`] (P11).

use crate::state::{State, StateError};

/// One step of a transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Open a save session: allocate its buffers, start tracking device memory, mark the populated
    /// pages. A failure has changed nothing.
    BeginSave,
    /// Allocate the buffers of a load session. A failure has changed nothing.
    PrepareLoad,
    /// Stop starting DMA and finish outstanding DMA; registers keep working (P44).
    QuiescePeer,
    /// Stop the device and drain all DMA (P9). The device may be in a P2P state.
    QuiesceAll,
    /// Run without starting DMA.
    RunPeer,
    /// Run.
    Run,
    /// Tell the save session that the device is stopped:
    /// [`SaveSession::stop`](crate::save::SaveSession::stop).
    StopSave,
    /// Offer the staged buffer again, if there is one that was not consumed (P23):
    /// [`SaveSession::restage`](crate::save::SaveSession::restage).
    Restage,
    /// Close the save session: stop tracking, free its buffers.
    EndSave,
    /// Discard the memory of the stopped device and open the load session.
    BeginLoad,
    /// If the load session is broken ([`LoadSession::is_broken`](crate::load::LoadSession::is_broken)),
    /// discard the memory of the stopped device and restart the load. An intact load continues,
    /// because VMMs also write the state that the device is already in.
    RestartLoad,
    /// Finish the load session: [`LoadSession::finish`](crate::load::LoadSession::finish), then
    /// free its buffers. A failure leaves the device in [`State::Error`] (P26).
    CommitLoad,
}

impl Action {
    /// Returns whether the action can fail.
    pub const fn is_fallible(self) -> bool {
        matches!(
            self,
            Action::BeginSave | Action::PrepareLoad | Action::CommitLoad
        )
    }
}

/// A permitted change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The state it starts from.
    pub from: State,
    /// The state it leads to.
    pub to: State,
    /// The actions, in order.
    pub actions: &'static [Action],
}

impl Transition {
    /// Returns the state of the device after the transition failed.
    pub fn on_failure(&self) -> State {
        if self.actions.contains(&Action::CommitLoad) {
            State::Error
        } else {
            self.from
        }
    }

    /// Returns whether v2 gives the user a new data fd for this transition (P43).
    pub fn opens_data_fd(&self) -> bool {
        self.actions
            .iter()
            .any(|a| matches!(a, Action::BeginSave | Action::BeginLoad))
    }

    /// Returns whether the transition ends the session of the data fd (P43).
    pub fn closes_data_fd(&self) -> bool {
        self.actions
            .iter()
            .any(|a| matches!(a, Action::EndSave | Action::CommitLoad))
    }
}

/// A cell of a table below: the actions of the transition, or `None` if there is none.
type Cell = Option<&'static [Action]>;

/// The cells, named for the tables below.
pub(crate) mod cells {
    use super::{Action::*, Cell};

    /// No such transition.
    pub(crate) const NO: Cell = None;
    /// The device is already in this state.
    pub(crate) const SELF: Cell = Some(&[]);

    // Without a session: the device stops, runs, stops or starts DMA.
    pub(crate) const HALT: Cell = Some(&[QuiesceAll]);
    pub(crate) const RUN: Cell = Some(&[Run]);
    pub(crate) const PEER: Cell = Some(&[QuiescePeer]);
    pub(crate) const RUN_PEER: Cell = Some(&[RunPeer]);

    // A save begins: the device keeps running, is stopped already, stops for it.
    pub(crate) const SAVE: Cell = Some(&[BeginSave]);
    pub(crate) const COPY: Cell = Some(&[BeginSave, StopSave]);
    pub(crate) const HALT_COPY: Cell = Some(&[BeginSave, QuiesceAll, StopSave]);

    // The device stops and the save continues. Only v1 can have a buffer to offer again (P23).
    pub(crate) const LAST: Cell = Some(&[QuiesceAll, StopSave]);
    pub(crate) const LAST_AGAIN: Cell = Some(&[QuiesceAll, StopSave, Restage]);

    // A save ends: the device keeps running or stays stopped, runs, stops.
    pub(crate) const END: Cell = Some(&[EndSave]);
    pub(crate) const END_RUN: Cell = Some(&[EndSave, Run]);
    pub(crate) const HALT_END: Cell = Some(&[QuiesceAll, EndSave]);

    // A load begins: the device is stopped already, stops for it.
    pub(crate) const LOAD: Cell = Some(&[PrepareLoad, BeginLoad]);
    pub(crate) const HALT_LOAD: Cell = Some(&[PrepareLoad, QuiesceAll, BeginLoad]);

    // A refused load restarts.
    pub(crate) const RELOAD: Cell = Some(&[RestartLoad]);

    // A load takes effect: the device stays stopped, runs.
    pub(crate) const COMMIT: Cell = Some(&[CommitLoad]);
    pub(crate) const COMMIT_RUN: Cell = Some(&[CommitLoad, Run]);
}

/// v1: a row for each current state, a column for each value written to `device_state` (P13, P14).
#[rustfmt::skip]
const V1: [(State, [Cell; 8]); 6] = {
    use cells::*;
    [
        //                 000       001         010         011   100        101 110 111
        (State::Stop,     [SELF,     RUN,        COPY,       NO,   LOAD,      NO, NO, NO]),
        (State::Running,  [HALT,     SELF,       HALT_COPY,  SAVE, HALT_LOAD, NO, NO, NO]),
        (State::StopCopy, [END,      END_RUN,    SELF,       NO,   NO,        NO, NO, NO]),
        (State::PreCopy,  [HALT_END, END,        LAST_AGAIN, SELF, NO,        NO, NO, NO]),
        (State::Resuming, [COMMIT,   COMMIT_RUN, NO,         NO,   RELOAD,    NO, NO, NO]),
        (State::Error,    [NO,       NO,         NO,         NO,   NO,        NO, NO, NO]),
    ]
};

/// v2: a row for each current state, a column for each next state, both by number (P39).
///
/// These are the direct transitions. `vfio_mig_get_next_state()` composes all others (P40). Those that skip
/// a P2P state are for devices that have none.
#[rustfmt::skip]
const V2: [(State, [Cell; 8]); 8] = {
    use cells::*;
    [
        //                   ERROR STOP   RUN-  STOP_ RESU- RUN_P2P   PRE_  PRE_COPY
        //                                NING  COPY  MING            COPY  _P2P
        (State::Error,      [NO,   NO,     NO,   NO,   NO,   NO,       NO,   NO  ]),
        (State::Stop,       [NO,   SELF,   RUN,  COPY, LOAD, RUN_PEER, NO,   NO  ]),
        (State::Running,    [NO,   HALT,   SELF, NO,   NO,   PEER,     SAVE, NO  ]),
        (State::StopCopy,   [NO,   END,    NO,   SELF, NO,   NO,       NO,   NO  ]),
        (State::Resuming,   [NO,   COMMIT, NO,   NO,   RELOAD, NO,     NO,   NO  ]),
        (State::RunningP2p, [NO,   HALT,   RUN,  NO,   NO,   SELF,     NO,   SAVE]),
        (State::PreCopy,    [NO,   NO,     END,  LAST, NO,   NO,       SELF, PEER]),
        (State::PreCopyP2p, [NO,   NO,     NO,   LAST, NO,   END,      RUN,  SELF]),
    ]
};

fn lookup(table: &[(State, [Cell; 8])], from: State, column: u32) -> Cell {
    let (_, row) = table.iter().find(|(state, _)| *state == from)?;
    *row.get(usize::try_from(column).ok()?)?
}

/// Returns the transition of v1 between two states (P13, P14).
pub fn v1_transition(from: State, to: State) -> Result<Transition, StateError> {
    if from == State::Error {
        return Err(StateError::InError);
    }
    if from.is_p2p() {
        return Err(StateError::HeldByV2(from));
    }
    if to == State::Error {
        return Err(StateError::ErrorRequested);
    }
    if to.is_p2p() {
        return Err(StateError::NoTransition(from, to));
    }
    match lookup(&V1, from, to.to_v1()) {
        Some(actions) => Ok(Transition { from, to, actions }),
        None => Err(StateError::NoTransition(from, to)),
    }
}

/// Returns the transition that a write of `bits` to `device_state` requests (P7-P15).
pub fn v1_write(from: State, bits: u32) -> Result<Transition, StateError> {
    v1_transition(from, State::from_v1(bits)?)
}

/// Returns the direct transition of v2 between two states (P39).
pub fn v2_transition(from: State, to: State) -> Result<Transition, StateError> {
    v2_check(from, to)?;
    match lookup(&V2, from, to.to_v2()) {
        Some(actions) => Ok(Transition { from, to, actions }),
        None => Err(StateError::NoTransition(from, to)),
    }
}

/// Checks that v2 can go from one state to another, by any number of transitions.
///
/// Call this before `vfio_mig_get_next_state()`, which never returns for the two pairs of P41 in
/// older kernels.
pub fn v2_check(from: State, to: State) -> Result<(), StateError> {
    match (from, to) {
        (State::Error, _) => Err(StateError::InError),
        (_, State::Error) => Err(StateError::ErrorRequested),
        (State::StopCopy, State::PreCopy | State::PreCopyP2p) => {
            Err(StateError::NoTransition(from, to))
        }
        _ => Ok(()),
    }
}
