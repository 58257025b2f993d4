// SPDX-License-Identifier: GPL-2.0

//! The controller: the contents of registers and queues, and the effects of accesses.

use crate::event::{Event, Events};
use crate::feature::Features;
use crate::log::{Counters, ErrorLog};
use crate::queue::{self, CompletionQueue, SubmissionQueue, COMPLETION_SIZE};
use crate::regs::{self, Access, Reg, Register, Target};
use crate::{command, QUEUES, TRAILER};

/// An access of a width or alignment that the device does not serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// What is saved. The default is the power-on state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// `CC`.
    pub cc: u32,
    /// The controller was enabled with legal values and no reset has begun.
    pub ready: bool,
    /// `CSTS.CFS`.
    pub fatal: bool,
    /// A shutdown was requested.
    pub shutdown: bool,
    /// The interrupt mask.
    pub mask: u32,
    /// `AQA`.
    pub aqa: u32,
    /// `ASQ`.
    pub asq: u64,
    /// `ACQ`.
    pub acq: u64,
    /// The submission queues; number 0 is the admin queue.
    pub sq: [SubmissionQueue; QUEUES],
    /// The completion queues; number 0 is the admin queue.
    pub cq: [CompletionQueue; QUEUES],
    /// The features.
    pub features: Features,
    /// Asynchronous events.
    pub events: Events,
    /// The error log.
    pub errors: ErrorLog,
    /// What SMART counts.
    pub counters: Counters,
}

impl State {
    /// Returns the admin queues that the registers describe, if they are legal.
    pub fn admin_queues(&self) -> Option<(SubmissionQueue, CompletionQueue)> {
        let (sq_entries, cq_entries) = ((self.aqa & 0xfff) + 1, ((self.aqa >> 16) & 0xfff) + 1);
        let legal = queue::legal(sq_entries, self.asq, command::ENTRY_SIZE)
            && queue::legal(cq_entries, self.acq, COMPLETION_SIZE);
        let sq = SubmissionQueue {
            base: self.asq,
            entries: sq_entries as u16,
            ..SubmissionQueue::default()
        };
        let cq = CompletionQueue {
            base: self.acq,
            entries: cq_entries as u16,
            phase: true,
            interrupts: true,
            ..CompletionQueue::default()
        };
        legal.then_some((sq, cq))
    }

    /// Returns whether commands are processed.
    pub fn is_running(&self) -> bool {
        self.ready && !self.fatal && !self.shutdown
    }
}

/// What has to follow from a change: the caller carries it out while the controller is locked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// There may be work.
    pub schedule: bool,
    /// Vectors whose message is raised.
    pub signal: u64,
    /// The vectors that are asserted may have changed.
    pub asserted: bool,
}

/// The controller, without storage.
pub struct Controller {
    pub(crate) state: State,
    /// Blocks of the namespace.
    blocks: u64,
    pub(crate) effects: Effects,
    /// Number of the run: it changes at each reset and load. The outcome of a unit of an earlier run
    /// is dropped.
    pub(crate) run: u32,
    /// The run of the unit in progress.
    pub(crate) unit: Option<u32>,
    /// The completion queue with an entry that is being written.
    pub(crate) posting: Option<usize>,
    /// The submission queue that is looked at first.
    pub(crate) next: usize,
}

impl Controller {
    /// Creates a controller in its power-on state, with `storage` bytes of storage.
    pub fn new(storage: u64) -> Self {
        Self {
            state: State::default(),
            blocks: storage.saturating_sub(TRAILER) / crate::BLOCK as u64,
            effects: Effects::default(),
            run: 0,
            unit: None,
            posting: None,
            next: 0,
        }
    }

    /// Returns the state that is saved.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Returns the blocks of the namespace.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Replaces the state by one that was checked.
    pub fn load(&mut self, state: &State) {
        self.state = *state;
        self.run = self.run.wrapping_add(1);
        self.posting = None;
        self.next = 0;
        self.effects.asserted = true;
    }

    /// Returns to the power-on state.
    pub fn power_on(&mut self) {
        self.load(&State::default());
    }

    /// Returns what has to follow from the changes since the last call.
    #[inline]
    pub fn take_effects(&mut self) -> Effects {
        core::mem::take(&mut self.effects)
    }

    /// Returns the asserted vectors: those of completion queues with entries that software has not
    /// taken.
    #[inline]
    pub fn asserted(&self) -> u64 {
        let mut vectors = 0;
        for (number, cq) in self.state.cq.iter().enumerate() {
            // Software may claim to have taken an entry before it is written.
            let writing = u16::from(self.posting == Some(number));
            let written = cq.pending().saturating_sub(writing);
            if cq.interrupts && written != 0 {
                vectors |= 1 << cq.vector;
            }
        }
        vectors & !u64::from(self.state.mask)
    }

    /// Reads registers into `data`. A refused read leaves `data` unchanged.
    #[inline]
    pub fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), Refused> {
        match regs::decode(offset, data.len()).ok_or(Refused)? {
            Target::Register(row, first) => {
                let value = self.value(row.reg).to_le_bytes();
                data.copy_from_slice(&value[first..first + data.len()]);
            }
            Target::Doorbell { .. } | Target::Reserved => data.fill(0),
        }
        Ok(())
    }

    /// Writes `data` to registers.
    #[inline]
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), Refused> {
        match regs::decode(offset, data.len()).ok_or(Refused)? {
            Target::Register(row, first) => {
                // A write to one half of a wide register keeps the other half.
                let mut value = self.value(row.reg).to_le_bytes();
                value[first..first + data.len()].copy_from_slice(data);
                self.set(row, u64::from_le_bytes(value) & row.mask);
            }
            Target::Doorbell { queue, completion } => {
                let mut value = [0; 4];
                value.copy_from_slice(data);
                self.doorbell(queue, completion, u32::from_le_bytes(value));
            }
            Target::Reserved => {}
        }
        Ok(())
    }

    /// Returns the value of a register.
    fn value(&self, reg: Reg) -> u64 {
        let state = &self.state;
        match reg {
            Reg::Cap => regs::CAP,
            Reg::Vs => regs::VS.into(),
            Reg::Intms | Reg::Intmc => state.mask.into(),
            Reg::Cc => state.cc.into(),
            Reg::Csts => self.status().into(),
            Reg::Aqa => state.aqa.into(),
            Reg::Asq => state.asq,
            Reg::Acq => state.acq,
        }
    }

    /// Returns the value of `CSTS`.
    fn status(&self) -> u32 {
        let state = &self.state;
        // A unit that began before a reset may still access guest memory.
        let stale = self.unit.is_some_and(|run| run != self.run);
        let mut status = 0;
        if state.ready || stale {
            status |= regs::CSTS_RDY;
        }
        if state.fatal {
            status |= regs::CSTS_CFS;
        }
        if state.shutdown {
            status |= match self.unit {
                Some(_) => regs::CSTS_SHST_BUSY,
                None => regs::CSTS_SHST_DONE,
            };
        }
        status
    }

    /// Writes a register.
    fn set(&mut self, row: &Register, value: u64) {
        let state = &mut self.state;
        let enabled = state.cc & regs::CC_EN != 0;
        if row.access == Access::RwDisabled && enabled {
            return;
        }
        match row.reg {
            Reg::Cap | Reg::Vs | Reg::Csts => {}
            Reg::Intms => {
                state.mask |= value as u32;
                self.effects.asserted = true;
            }
            Reg::Intmc => {
                state.mask &= !(value as u32);
                self.effects.asserted = true;
            }
            Reg::Cc => self.configure(value as u32),
            Reg::Aqa => state.aqa = value as u32,
            Reg::Asq => state.asq = value,
            Reg::Acq => state.acq = value,
        }
    }

    /// Writes `CC`.
    fn configure(&mut self, value: u32) {
        let state = &mut self.state;
        let was = state.cc & regs::CC_EN != 0;
        match (was, value & regs::CC_EN != 0) {
            (true, true) => {
                let kept = !(regs::CC_SHN | regs::CC_ENTRY_SIZES);
                state.cc = state.cc & kept | value & !kept;
            }
            (true, false) => {
                self.reset();
                self.state.cc = value;
            }
            (false, false) => state.cc = value,
            (false, true) => {
                state.cc = value;
                match state.admin_queues() {
                    Some((sq, cq)) if value & regs::CC_FIXED == 0 => {
                        state.sq[0] = sq;
                        state.cq[0] = cq;
                        state.ready = true;
                    }
                    _ => state.fatal = true,
                }
            }
        }
        if value & regs::CC_SHN != 0 {
            self.state.shutdown = true;
        }
    }

    /// Resets the controller, as a write of 0 to `CC.EN` does.
    fn reset(&mut self) {
        let state = &mut self.state;
        *state = State {
            aqa: state.aqa,
            asq: state.asq,
            acq: state.acq,
            errors: state.errors,
            counters: state.counters,
            ..State::default()
        };
        self.run = self.run.wrapping_add(1);
        self.posting = None;
        self.next = 0;
        self.effects.asserted = true;
    }

    /// Writes a doorbell.
    fn doorbell(&mut self, queue: usize, completion: bool, value: u32) {
        if !self.state.ready {
            return;
        }
        let Ok(value) = u16::try_from(value) else {
            return self.bad_doorbell(queue, Event::InvalidValue);
        };
        let (sq, cq) = (self.state.sq.get_mut(queue), self.state.cq.get_mut(queue));
        let legal = match (completion, sq, cq) {
            (false, Some(sq), _) if sq.exists() => sq.fill(value),
            (true, _, Some(cq)) if cq.exists() => {
                self.effects.asserted = true;
                cq.take(value)
            }
            _ => return self.bad_doorbell(queue, Event::InvalidRegister),
        };
        self.effects.schedule = true;
        if !legal {
            self.bad_doorbell(queue, Event::InvalidValue);
        }
    }

    /// A doorbell was written in error.
    fn bad_doorbell(&mut self, queue: usize, event: Event) {
        self.state.errors.doorbell(queue);
        self.state.events.raise(event);
        self.effects.schedule = true;
    }

    /// Returns whether an I/O queue exists.
    pub(crate) fn has_io_queues(&self) -> bool {
        let (sq, cq) = (&self.state.sq[1..], &self.state.cq[1..]);
        sq.iter().any(SubmissionQueue::exists) || cq.iter().any(CompletionQueue::exists)
    }
}
