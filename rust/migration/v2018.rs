// SPDX-License-Identifier: GPL-2.0

//! The migration region of November 2018.
//!
//! ```text
//!   offset  width  register                access
//!        0      4  device_state            read/write: a number, see [`Phase`]
//!        4     32  pending                 read
//!        4      8    precopy_only          read
//!       12      8    compatible            read
//!       20      8    postcopy_only         read
//!       28      8    threshold_size        read/write
//!       36     16  data                    read; write while resuming
//!       36      8    offset                read; write while resuming
//!       44      8    size                  read; write while resuming
//!       52     24  dirty_pfns              read/write while saving
//!       52      8    start_addr            read/write while saving
//!       60      8    total                 read/write while saving
//!       68      8    copied                read while saving
//!       76         no register up to the data section
//! ```
//!
//! The structure is packed, so the 8-byte fields are not aligned. Its user accesses `pending`, `data` and
//! `dirty_pfns` at once.

use crate::{
    error::EINVAL,
    fields::{Block, Field, Group, When},
    save::PrecopyInfo,
    state::State,
    transition::{cells, Action, Transition},
};
use core::fmt;

/// Size in bytes of `struct vfio_device_migration_info`.
pub const HEADER_SIZE: u64 = 76;

/// Where the user puts data that is trapped, and looks for a bitmap that is trapped: a byte behind the
/// structure.
pub const TRAPPED: u64 = HEADER_SIZE + 1;

/// A register, named as in the posting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// `device_state`, u32.
    DeviceState,
    /// `pending.precopy_only`, u64.
    PrecopyOnly,
    /// `pending.compatible`, u64.
    Compatible,
    /// `pending.postcopy_only`, u64.
    PostcopyOnly,
    /// `pending.threshold_size`, u64.
    ThresholdSize,
    /// `data.offset`, u64.
    DataOffset,
    /// `data.size`, u64.
    DataSize,
    /// `dirty_pfns.start_addr`, u64: the posting's user passes bytes, not pages.
    StartAddr,
    /// `dirty_pfns.total`, u64.
    Total,
    /// `dirty_pfns.copied`, u64.
    Copied,
}

const fn row(register: Register, offset: u64, read: When, write: When) -> Field<Register> {
    Field {
        register,
        offset,
        width: if offset == 0 { 4 } else { 8 },
        read,
        write,
    }
}

const fn group(first: usize, count: usize, read: When, write: When) -> Group {
    Group {
        first,
        count,
        read,
        write,
    }
}

/// The register block.
pub const BLOCK: Block<Register> = Block {
    fields: &{
        use Register::*;
        use When::*;
        [
            row(DeviceState, 0, Always, Always),
            row(PrecopyOnly, 4, Always, Never),
            row(Compatible, 12, Always, Never),
            row(PostcopyOnly, 20, Always, Never),
            row(ThresholdSize, 28, Always, Always),
            row(DataOffset, 36, Always, Resuming),
            row(DataSize, 44, Always, Resuming),
            row(StartAddr, 52, Saving, Saving),
            row(Total, 60, Saving, Saving),
            row(Copied, 68, Saving, Never),
        ]
    },
    groups: &[
        group(1, 4, When::Always, When::Never),
        group(5, 2, When::Always, When::Resuming),
        group(7, 3, When::Saving, When::Saving),
    ],
};

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Register::DeviceState => "device_state",
            Register::PrecopyOnly => "pending.precopy_only",
            Register::Compatible => "pending.compatible",
            Register::PostcopyOnly => "pending.postcopy_only",
            Register::ThresholdSize => "pending.threshold_size",
            Register::DataOffset => "data.offset",
            Register::DataSize => "data.size",
            Register::StartAddr => "dirty_pfns.start_addr",
            Register::Total => "dirty_pfns.total",
            Register::Copied => "dirty_pfns.copied",
        })
    }
}

/// A value of `device_state`, named as in the posting without `VFIO_DEVICE_STATE_` and `MIGRATION_`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Phase {
    /// Initialised, not running.
    None = 0,
    /// Running. A device that was just opened reads this, because it runs (P8).
    Running = 1,
    /// Running, a save is prepared.
    Setup = 2,
    /// Running, being saved.
    PreCopy = 3,
    /// Stopped, being saved.
    StopNCopy = 4,
    /// Stopped, all was saved.
    SaveCompleted = 5,
    /// Stopped, being loaded.
    Resume = 6,
    /// Stopped, all was loaded.
    ResumeCompleted = 7,
    /// Running after a migration that failed.
    Failed = 8,
    /// Running after a migration that was cancelled.
    Cancelled = 9,
}

/// Why `device_state` cannot be written: always `EINVAL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PhaseError {
    /// The number is not that of a state.
    Unknown(u32),
    /// The posting draws no arc between the two.
    NoArc(Phase, Phase),
    /// A load failed. Only FAILED, CANCELLED and a reset end it.
    LoadFailed,
}

/// What a write of `device_state` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arc {
    /// Changes the state.
    Change(Transition),
    /// Resets the device.
    Reset,
}

/// A cell of [`ARCS`].
#[derive(Clone, Copy)]
enum Cell {
    /// No arc.
    No,
    /// An arc with these actions.
    Do(Option<&'static [Action]>),
    /// An arc that resets the device.
    Reset,
}

/// A row for each present state, a column for each state written, both by number.
#[rustfmt::skip]
const ARCS: [[Cell; 10]; 10] = {
    use Cell::{No as NO, Reset as RESET};
    const KEEP: Cell = Cell::Do(cells::SELF);
    const HALT: Cell = Cell::Do(cells::HALT);
    const RUN: Cell = Cell::Do(cells::RUN);
    const SAVE: Cell = Cell::Do(cells::SAVE);
    const LAST: Cell = Cell::Do(cells::LAST_AGAIN);
    const END: Cell = Cell::Do(cells::END);
    const ENDRUN: Cell = Cell::Do(cells::END_RUN);
    const LOAD: Cell = Cell::Do(cells::LOAD);
    const HALTLD: Cell = Cell::Do(cells::HALT_LOAD);
    const COMMIT: Cell = Cell::Do(cells::COMMIT);
    const COMRUN: Cell = Cell::Do(cells::COMMIT_RUN);
    [
        //                    NONE  RUNNING SETUP PRE-  STOP- SAVE_  RESUME  RESUME_ FAILED  CANCELLED
        //                                        COPY  NCOPY COMPL.         COMPL.
        /* NONE */            [KEEP, RUN,    NO,   NO,   NO,   NO,   LOAD,   NO,     NO,     NO    ],
        /* RUNNING */         [HALT, KEEP,   SAVE, NO,   NO,   NO,   HALTLD, NO,     KEEP,   KEEP  ],
        /* SETUP */           [NO,   END,    KEEP, KEEP, LAST, NO,   NO,     NO,     END,    END   ],
        /* PRECOPY */         [NO,   END,    NO,   KEEP, LAST, NO,   NO,     NO,     END,    END   ],
        /* STOPNCOPY */       [NO,   ENDRUN, NO,   NO,   KEEP, END,  NO,     NO,     ENDRUN, ENDRUN],
        /* SAVE_COMPLETED */  [NO,   RUN,    NO,   NO,   NO,   KEEP, NO,     NO,     RUN,    RUN   ],
        /* RESUME */          [NO,   COMRUN, NO,   NO,   NO,   NO,   KEEP,   COMMIT, RESET,  RESET ],
        /* RESUME_COMPLETED */[NO,   RUN,    NO,   NO,   NO,   NO,   LOAD,   KEEP,   RESET,  RESET ],
        /* FAILED */          [NO,   KEEP,   SAVE, NO,   NO,   NO,   HALTLD, NO,     KEEP,   KEEP  ],
        /* CANCELLED */       [NO,   KEEP,   SAVE, NO,   NO,   NO,   HALTLD, NO,     KEEP,   KEEP  ],
    ]
};

impl Phase {
    /// All states, by number.
    pub const ALL: [Phase; 10] = [
        Phase::None,
        Phase::Running,
        Phase::Setup,
        Phase::PreCopy,
        Phase::StopNCopy,
        Phase::SaveCompleted,
        Phase::Resume,
        Phase::ResumeCompleted,
        Phase::Failed,
        Phase::Cancelled,
    ];

    /// Returns the state with this number.
    pub fn from_number(number: u32) -> Result<Self, PhaseError> {
        let mut all = Self::ALL.into_iter();
        all.find(|phase| *phase as u32 == number)
            .ok_or(PhaseError::Unknown(number))
    }

    /// Returns the state of the device.
    pub const fn state(self) -> State {
        match self {
            Phase::None | Phase::SaveCompleted | Phase::ResumeCompleted => State::Stop,
            Phase::Running | Phase::Failed | Phase::Cancelled => State::Running,
            Phase::Setup | Phase::PreCopy => State::PreCopy,
            Phase::StopNCopy => State::StopCopy,
            Phase::Resume => State::Resuming,
        }
    }

    /// Returns whether there is data to save in it.
    pub const fn has_data(self) -> bool {
        matches!(self, Phase::PreCopy | Phase::StopNCopy)
    }

    /// Returns the name in the posting.
    pub const fn name(self) -> &'static str {
        match self {
            Phase::None => "NONE",
            Phase::Running => "RUNNING",
            Phase::Setup => "SETUP",
            Phase::PreCopy => "PRECOPY",
            Phase::StopNCopy => "STOPNCOPY",
            Phase::SaveCompleted => "SAVE_COMPLETED",
            Phase::Resume => "RESUME",
            Phase::ResumeCompleted => "RESUME_COMPLETED",
            Phase::Failed => "FAILED",
            Phase::Cancelled => "CANCELLED",
        }
    }
}

/// The registers that the user has set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    /// `device_state`.
    pub phase: Phase,
    /// `pending.threshold_size`.
    pub threshold: u64,
    /// `data.offset`: where the section is that the user loads.
    pub offset: u64,
}

impl Default for Registers {
    fn default() -> Self {
        Registers {
            phase: Phase::Running,
            threshold: u64::MAX,
            offset: TRAPPED,
        }
    }
}

/// Returns what a write of `to` does in the state `from` of a device that is in `state`.
pub fn arc(from: Phase, state: State, to: Phase) -> Result<Arc, PhaseError> {
    let cell = ARCS.get(from as usize).and_then(|row| row.get(to as usize));
    match cell {
        // The posting has no error state: the device stays in RESUME, and ends as a failed load does.
        Some(Cell::Reset) => Ok(Arc::Reset),
        _ if state == State::Error => Err(PhaseError::LoadFailed),
        Some(Cell::Do(Some(actions))) => Ok(Arc::Change(Transition {
            from: state,
            to: to.state(),
            actions,
        })),
        Some(Cell::Do(None) | Cell::No) | None => Err(PhaseError::NoArc(from, to)),
    }
}

/// The group `pending`, without the threshold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// What has to go before the guest stops.
    pub precopy_only: u64,
    /// What may go at any time.
    pub compatible: u64,
    /// What can go only once the guest has stopped.
    pub postcopy_only: u64,
}

/// Returns the values of `pending`, whose sum is all that is left to send.
///
/// The posting's user calls for data while the guest runs only if `precopy_only` is not 0, and once it has
/// stopped only if `postcopy_only` is not 0. It stops the guest when the sum is below `threshold`. So
/// what changed again counts as `precopy_only` if it is more than that, or the user would wait forever for it
/// to become less. And all that a stopped device has left is `postcopy_only`.
pub fn pending(phase: Phase, precopy: PrecopyInfo, left: u64, threshold: u64) -> Pending {
    let (initial, again) = (precopy.initial_bytes, precopy.dirty_bytes);
    match phase {
        Phase::PreCopy if initial.saturating_add(again) >= threshold => Pending {
            precopy_only: initial.saturating_add(again),
            ..Pending::default()
        },
        Phase::PreCopy => Pending {
            precopy_only: initial,
            compatible: again,
            postcopy_only: 0,
        },
        Phase::StopNCopy => Pending {
            postcopy_only: left,
            ..Pending::default()
        },
        _ => Pending::default(),
    }
}

impl PhaseError {
    /// Returns the positive errno of this error.
    pub const fn errno(self) -> i32 {
        EINVAL
    }
}

impl fmt::Display for PhaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PhaseError::Unknown(number) => write!(f, "no device state has the number {number}"),
            PhaseError::NoArc(from, to) => {
                write!(f, "no arc from {} to {}", from.name(), to.name())
            }
            PhaseError::LoadFailed => {
                f.write_str("the load failed: only FAILED, CANCELLED and a reset end it")
            }
        }
    }
}
