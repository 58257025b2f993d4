// SPDX-License-Identifier: GPL-2.0

//! The state of a device, and its encodings in v1 and v2.
//!
//! ```text
//!   state          v1 bits  v2 number   the device ...
//!   Error            110       0        is unusable until a reset
//!   Stop             000       1        is stopped; no migration is open
//!   Running          001       2        runs (the default, P8)
//!   StopCopy         010       3        is stopped and being saved
//!   Resuming         100       4        is stopped and being loaded
//!   RunningP2p       001       5        runs but does not start DMA
//!   PreCopy          011       6        runs and is being saved
//!   PreCopyP2p       011       7        is being saved, runs but does not start DMA
//! ```

use crate::error::{EBUSY, EINVAL};
use core::fmt;

/// State of a device. The discriminants are the numbers of `enum vfio_device_mig_state` (P38).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum State {
    /// Unusable until a reset.
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

/// Why a state cannot be entered: `EINVAL`, except [`StateError::HeldByV2`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateError {
    /// `device_state` with reserved bits set (P12).
    ReservedBits(u32),
    /// `device_state` with the bits 101 or 111 (P7).
    InvalidBits(u32),
    /// The user cannot request the error state (P14, P42).
    ErrorRequested,
    /// A state number that v2 does not define.
    UnknownNumber(u32),
    /// Only a reset leaves the error state (P11, P42).
    InError,
    /// No transition connects these two states (P14, P39, P41).
    NoTransition(State, State),
    /// v2 holds the device in a P2P state, which v1 cannot express (P48). `EBUSY`.
    HeldByV2(State),
}

impl StateError {
    /// Returns the positive errno of this error.
    pub const fn errno(self) -> i32 {
        match self {
            StateError::HeldByV2(_) => EBUSY,
            _ => EINVAL,
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

    /// Returns the state that v1 requests by writing `bits` to `device_state` (P7, P12).
    pub const fn from_v1(bits: u32) -> Result<State, StateError> {
        match bits {
            0b000 => Ok(State::Stop),
            0b001 => Ok(State::Running),
            0b010 => Ok(State::StopCopy),
            0b011 => Ok(State::PreCopy),
            0b100 => Ok(State::Resuming),
            0b101 | 0b111 => Err(StateError::InvalidBits(bits)),
            0b110 => Err(StateError::ErrorRequested),
            _ => Err(StateError::ReservedBits(bits)),
        }
    }

    /// Returns the bits that v1 reads from `device_state`. A P2P state reads as the same state without
    /// P2P.
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

    /// Returns the state with this v2 number (P38), which may be the error state.
    pub const fn from_v2(number: u32) -> Result<State, StateError> {
        match number {
            0 => Ok(State::Error),
            1 => Ok(State::Stop),
            2 => Ok(State::Running),
            3 => Ok(State::StopCopy),
            4 => Ok(State::Resuming),
            5 => Ok(State::RunningP2p),
            6 => Ok(State::PreCopy),
            7 => Ok(State::PreCopyP2p),
            _ => Err(StateError::UnknownNumber(number)),
        }
    }

    /// Returns the v2 number of the state (P38).
    pub const fn to_v2(self) -> u32 {
        self as u32
    }

    /// Returns the state's name in the UAPI without `VFIO_DEVICE_STATE_`.
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

    /// Returns whether the device runs, with or without DMA.
    pub const fn is_running(self) -> bool {
        matches!(
            self,
            State::Running | State::PreCopy | State::RunningP2p | State::PreCopyP2p
        )
    }

    /// Returns whether the device runs but may not start DMA (P44).
    pub const fn is_p2p(self) -> bool {
        matches!(self, State::RunningP2p | State::PreCopyP2p)
    }

    /// Returns whether the device may start DMA.
    pub const fn may_dma(self) -> bool {
        self.is_running() && !self.is_p2p()
    }

    /// Returns whether a save session is open.
    pub const fn is_saving(self) -> bool {
        matches!(self, State::PreCopy | State::PreCopyP2p | State::StopCopy)
    }

    /// Returns whether a load session is open.
    pub const fn is_resuming(self) -> bool {
        matches!(self, State::Resuming)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StateError::ReservedBits(bits) => {
                write!(f, "device_state {bits:#x} sets reserved bits")
            }
            StateError::InvalidBits(bits) => write!(f, "device_state {bits:03b} is invalid"),
            StateError::ErrorRequested => f.write_str("the error state cannot be requested"),
            StateError::UnknownNumber(number) => {
                write!(f, "no device state has the number {number}")
            }
            StateError::InError => f.write_str("only a reset leaves the error state"),
            StateError::NoTransition(from, to) => write!(f, "no transition from {from} to {to}"),
            StateError::HeldByV2(state) => {
                write!(f, "device is held in {state} by the v2 interface")
            }
        }
    }
}
