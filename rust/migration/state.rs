// SPDX-License-Identifier: GPL-2.0

//! The one state of a device, and the arcs of v1 and v2 between its values.
//!
//! ```text
//!   state          v1 bits  v2 number   the device ...
//!   Error            110       0        is out of use until a reset
//!   Stop             000       1        neither runs nor moves
//!   Running          001       2        runs (the default, P8)
//!   StopCopy         010       3        is stopped and being saved
//!   Resuming         100       4        is stopped and being loaded
//!   RunningP2p       001       5        runs but starts no DMA
//!   PreCopy          011       6        runs and is being saved
//!   PreCopyP2p       011       7        is being saved, runs but starts no DMA
//! ```
//!
//! An arc is a list of [`Action`]s, done in order. An action that can fail is always the first of
//! its arc, so an arc that fails has changed nothing and leaves the state as it was (P10). The one
//! exception is [`Action::CommitLoad`]: when it fails the device is in [`State::Error`] (P26).
//!
//! `VFIO_DEVICE_RESET` is no arc. It is accepted in every state, ends any session, drops every
//! buffer and gives [`State::Running`] (P11).

use core::fmt;

/// State of a device. The discriminants are the numbers of `enum vfio_device_mig_state` (P38).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum State {
    /// Out of use until a reset.
    Error = 0,
    /// Stopped; no session.
    Stop = 1,
    /// Running; no session.
    Running = 2,
    /// Stopped, a save session is open.
    StopCopy = 3,
    /// Stopped, a load session is open.
    Resuming = 4,
    /// Running without DMA; no session.
    RunningP2p = 5,
    /// Running, a save session is open.
    PreCopy = 6,
    /// Running without DMA, a save session is open.
    PreCopyP2p = 7,
}

/// One step of an arc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Open a save session: get its buffers, start tracking device memory, mark what is populated.
    /// Can fail, then nothing has changed.
    BeginSave,
    /// Get the buffers of a load session. Can fail, then nothing has changed.
    PrepareLoad,
    /// Start no new DMA and finish what is outstanding; registers keep working (P44).
    QuiescePeer,
    /// Stop the device, with all DMA drained (P9). From a P2P state too.
    QuiesceAll,
    /// Leave the stop, but start no DMA yet.
    RunPeer,
    /// Run.
    Run,
    /// Tell the save session that the device is stopped:
    /// [`SaveSession::stop`](crate::save::SaveSession::stop).
    StopSave,
    /// Offer the staged, unconsumed buffer again, if there is one (P23):
    /// [`SaveSession::restage`](crate::save::SaveSession::restage).
    Restage,
    /// Close the save session: stop tracking, drop its buffers.
    EndSave,
    /// Discard the memory of the stopped device and open the load session.
    BeginLoad,
    /// If the load session is broken ([`LoadSession::is_broken`](crate::load::LoadSession::is_broken)),
    /// discard the memory of the stopped device and begin the load afresh. A load that is in order
    /// goes on: VMMs write the state that the device is in.
    RestartLoad,
    /// Finish the load session: [`LoadSession::finish`](crate::load::LoadSession::finish), then
    /// drop its buffers. Can fail, then the state is [`State::Error`] (P26).
    CommitLoad,
}

impl Action {
    /// Whether the action can fail.
    pub const fn is_fallible(self) -> bool {
        matches!(
            self,
            Action::BeginSave | Action::PrepareLoad | Action::CommitLoad
        )
    }
}

/// A permitted change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arc {
    /// The state it starts from.
    pub from: State,
    /// The state it leads to.
    pub to: State,
    /// What to do, in order.
    pub actions: &'static [Action],
}

impl Arc {
    /// The state in which a failed arc leaves the device.
    pub fn on_failure(&self) -> State {
        if self.actions.contains(&Action::CommitLoad) {
            State::Error
        } else {
            self.from
        }
    }

    /// Whether v2 gives the user a new data fd for this arc (P43).
    pub fn opens_data_fd(&self) -> bool {
        self.actions
            .iter()
            .any(|a| matches!(a, Action::BeginSave | Action::BeginLoad))
    }

    /// Whether the arc ends the session of the data fd (P43).
    pub fn closes_data_fd(&self) -> bool {
        self.actions
            .iter()
            .any(|a| matches!(a, Action::EndSave | Action::CommitLoad))
    }
}

/// Why a state cannot be entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `device_state` with reserved bits set (P12).
    ReservedBits(u32),
    /// `device_state` 101 or 111 (P7).
    InvalidBits(u32),
    /// The error state cannot be asked for (P14, P42).
    ErrorRequested,
    /// A state number that v2 does not have.
    UnknownNumber(u32),
    /// Only a reset leaves the error state (P11, P42).
    InError,
    /// There is no such arc (P14, P39, P41).
    NoArc(State, State),
    /// v2 holds the device in a P2P state, which v1 cannot express (P48).
    HeldByV2(State),
}

impl Refusal {
    /// The positive errno of this refusal.
    pub const fn errno(self) -> i32 {
        match self {
            Refusal::HeldByV2(_) => crate::error::EBUSY,
            _ => crate::error::EINVAL,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::ReservedBits(bits) => write!(f, "device_state {bits:#x} sets reserved bits"),
            Refusal::InvalidBits(bits) => write!(f, "device_state {bits:03b} is invalid"),
            Refusal::ErrorRequested => f.write_str("the error state cannot be requested"),
            Refusal::UnknownNumber(number) => write!(f, "no device state has number {number}"),
            Refusal::InError => f.write_str("only a reset leaves the error state"),
            Refusal::NoArc(from, to) => write!(f, "no arc from {from} to {to}"),
            Refusal::HeldByV2(state) => write!(f, "device is held in {state} by the v2 interface"),
        }
    }
}

impl State {
    /// All states, by v2 number.
    pub const ALL: [State; 8] = [
        State::Error,
        State::Stop,
        State::Running,
        State::StopCopy,
        State::Resuming,
        State::RunningP2p,
        State::PreCopy,
        State::PreCopyP2p,
    ];

    /// The state that v1 asks for by writing `bits` to `device_state` (P7, P12).
    pub const fn from_v1(bits: u32) -> Result<State, Refusal> {
        match bits {
            0b000 => Ok(State::Stop),
            0b001 => Ok(State::Running),
            0b010 => Ok(State::StopCopy),
            0b011 => Ok(State::PreCopy),
            0b100 => Ok(State::Resuming),
            0b101 | 0b111 => Err(Refusal::InvalidBits(bits)),
            0b110 => Err(Refusal::ErrorRequested),
            _ => Err(Refusal::ReservedBits(bits)),
        }
    }

    /// What v1 reads from `device_state`. A P2P state reads as the state without P2P.
    pub const fn to_v1(self) -> u32 {
        match self {
            State::Stop => 0b000,
            State::Running | State::RunningP2p => 0b001,
            State::StopCopy => 0b010,
            State::PreCopy | State::PreCopyP2p => 0b011,
            State::Resuming => 0b100,
            State::Error => 0b110,
        }
    }

    /// The state with this v2 number (P38), the error state included.
    pub const fn from_v2(number: u32) -> Result<State, Refusal> {
        match number {
            0 => Ok(State::Error),
            1 => Ok(State::Stop),
            2 => Ok(State::Running),
            3 => Ok(State::StopCopy),
            4 => Ok(State::Resuming),
            5 => Ok(State::RunningP2p),
            6 => Ok(State::PreCopy),
            7 => Ok(State::PreCopyP2p),
            _ => Err(Refusal::UnknownNumber(number)),
        }
    }

    /// The v2 number of the state (P38).
    pub const fn to_v2(self) -> u32 {
        self as u32
    }

    /// The state's name in the UAPI, without its prefix.
    pub const fn name(self) -> &'static str {
        match self {
            State::Error => "ERROR",
            State::Stop => "STOP",
            State::Running => "RUNNING",
            State::StopCopy => "STOP_COPY",
            State::Resuming => "RESUMING",
            State::RunningP2p => "RUNNING_P2P",
            State::PreCopy => "PRE_COPY",
            State::PreCopyP2p => "PRE_COPY_P2P",
        }
    }

    /// Whether the device runs, perhaps without DMA.
    pub const fn is_running(self) -> bool {
        matches!(
            self,
            State::Running | State::PreCopy | State::RunningP2p | State::PreCopyP2p
        )
    }

    /// Whether the device runs but may start no DMA (P44).
    pub const fn is_p2p(self) -> bool {
        matches!(self, State::RunningP2p | State::PreCopyP2p)
    }

    /// Whether the device may start DMA.
    pub const fn may_dma(self) -> bool {
        self.is_running() && !self.is_p2p()
    }

    /// Whether a save session is open.
    pub const fn is_saving(self) -> bool {
        matches!(self, State::PreCopy | State::PreCopyP2p | State::StopCopy)
    }

    /// Whether a load session is open.
    pub const fn is_resuming(self) -> bool {
        matches!(self, State::Resuming)
    }
}

/// A cell of an arc table: what the arc does, or nothing where there is no arc.
type Cell = Option<&'static [Action]>;

/// What arcs do, named for the tables below.
mod arcs {
    use super::{Action::*, Cell};

    /// There is no such arc.
    pub(super) const NO: Cell = None;
    /// The device is in this state already.
    pub(super) const SELF: Cell = Some(&[]);

    // The device stops, or runs; no session.
    pub(super) const HALT: Cell = Some(&[QuiesceAll]);
    pub(super) const RUN: Cell = Some(&[Run]);
    pub(super) const PEER: Cell = Some(&[QuiescePeer]);
    pub(super) const RUN_PEER: Cell = Some(&[RunPeer]);

    // A save begins: of a device that goes on running, that is stopped, that stops for it.
    pub(super) const SAVE: Cell = Some(&[BeginSave]);
    pub(super) const COPY: Cell = Some(&[BeginSave, StopSave]);
    pub(super) const HALT_COPY: Cell = Some(&[BeginSave, QuiesceAll, StopSave]);

    // The device stops and its save goes on. Only v1 may have a buffer to offer again (P23).
    pub(super) const LAST: Cell = Some(&[QuiesceAll, StopSave]);
    pub(super) const LAST_AGAIN: Cell = Some(&[QuiesceAll, StopSave, Restage]);

    // A save ends: the device goes on as it is, runs, stops.
    pub(super) const END: Cell = Some(&[EndSave]);
    pub(super) const END_RUN: Cell = Some(&[EndSave, Run]);
    pub(super) const HALT_END: Cell = Some(&[QuiesceAll, EndSave]);

    // A load begins: of a device that is stopped, that stops for it.
    pub(super) const LOAD: Cell = Some(&[PrepareLoad, BeginLoad]);
    pub(super) const HALT_LOAD: Cell = Some(&[PrepareLoad, QuiesceAll, BeginLoad]);

    // A load that was refused begins afresh.
    pub(super) const RELOAD: Cell = Some(&[RestartLoad]);

    // A load takes effect: the device stays stopped, runs.
    pub(super) const COMMIT: Cell = Some(&[CommitLoad]);
    pub(super) const COMMIT_RUN: Cell = Some(&[CommitLoad, Run]);
}

/// v1: rows are the present state, columns what is written to `device_state` (P13, P14).
#[rustfmt::skip]
const V1: [(State, [Cell; 8]); 6] = {
    use arcs::*;
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

/// v2: rows are the present state, columns the next one, both by number (P39).
///
/// These are the direct arcs. All others are made of them: `vfio_mig_get_next_state()` knows how
/// (P40).
#[rustfmt::skip]
const V2: [(State, [Cell; 8]); 8] = {
    use arcs::*;
    [
        //                   ERROR STOP   RUN-  STOP_ RESU- RUN_P2P   PRE_  PRE_COPY
        //                                NING  COPY  MING            COPY  _P2P
        (State::Error,      [NO,   NO,     NO,   NO,   NO,   NO,       NO,   NO  ]),
        (State::Stop,       [NO,   SELF,   NO,   COPY, LOAD, RUN_PEER, NO,   NO  ]),
        (State::Running,    [NO,   NO,     SELF, NO,   NO,   PEER,     SAVE, NO  ]),
        (State::StopCopy,   [NO,   END,    NO,   SELF, NO,   NO,       NO,   NO  ]),
        (State::Resuming,   [NO,   COMMIT, NO,   NO,   RELOAD, NO,     NO,   NO  ]),
        (State::RunningP2p, [NO,   HALT,   RUN,  NO,   NO,   SELF,     NO,   SAVE]),
        (State::PreCopy,    [NO,   NO,     END,  NO,   NO,   NO,       SELF, PEER]),
        (State::PreCopyP2p, [NO,   NO,     NO,   LAST, NO,   END,      RUN,  SELF]),
    ]
};

fn lookup(table: &[(State, [Cell; 8])], from: State, column: u32) -> Cell {
    let (_, row) = table.iter().find(|(state, _)| *state == from)?;
    *row.get(usize::try_from(column).ok()?)?
}

/// The arc that v1 takes from one state to another (P13, P14).
pub fn v1_arc(from: State, to: State) -> Result<Arc, Refusal> {
    if from == State::Error {
        return Err(Refusal::InError);
    }
    if from.is_p2p() {
        return Err(Refusal::HeldByV2(from));
    }
    if to == State::Error {
        return Err(Refusal::ErrorRequested);
    }
    if to.is_p2p() {
        return Err(Refusal::NoArc(from, to));
    }
    match lookup(&V1, from, to.to_v1()) {
        Some(actions) => Ok(Arc { from, to, actions }),
        None => Err(Refusal::NoArc(from, to)),
    }
}

/// The arc that a write of `bits` to `device_state` takes (P7-P15).
pub fn v1_write(from: State, bits: u32) -> Result<Arc, Refusal> {
    v1_arc(from, State::from_v1(bits)?)
}

/// The direct arc of v2 from one state to another (P39).
pub fn v2_arc(from: State, to: State) -> Result<Arc, Refusal> {
    v2_check(from, to)?;
    match lookup(&V2, from, to.to_v2()) {
        Some(actions) => Ok(Arc { from, to, actions }),
        None => Err(Refusal::NoArc(from, to)),
    }
}

/// Whether v2 may be asked to go from one state to another, by however many arcs.
///
/// To be called before `vfio_mig_get_next_state()`, which in older kernels never returns for the
/// two pairs of P41.
pub fn v2_check(from: State, to: State) -> Result<(), Refusal> {
    match (from, to) {
        (State::Error, _) => Err(Refusal::InError),
        (_, State::Error) => Err(Refusal::ErrorRequested),
        (State::StopCopy, State::PreCopy | State::PreCopyP2p) => Err(Refusal::NoArc(from, to)),
        _ => Ok(()),
    }
}
