// SPDX-License-Identifier: GPL-2.0

//! The state of the device, and the effects of reading and writing its registers.
//!
//! [`Control`] is the whole state of a device except its memory: the registers and the job in
//! flight. One lock protects it, which is held for a few instructions at a time. The engine works
//! without this lock: [`Control::begin`] returns a [`Ticket`] for the next unit, and
//! [`Control::finish`] takes its outcome. If the queue was disabled in between, [`Ticket::run`]
//! does not match any more and the outcome is dropped.

use crate::desc::Error;
use crate::engine::{Bus, End, Job, Outcome, Ticket};
use crate::queue::Ring;
use crate::refused::{RefusedRegister, RegisterError};
use crate::regs::{self, Access, Reg, Target};

/// The values of the registers and the progress of the job in flight: everything that is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// `CONTROL.ENABLE`.
    pub enabled: bool,
    /// `ERROR`; `STATUS.HALTED` is set unless this is [`Error::None`].
    pub error: Error,
    /// `INT_CAUSE`.
    pub cause: u32,
    /// `INT_MASK`.
    pub mask: u32,
    /// `RING_BASE`.
    pub ring_base: u64,
    /// `RING_ORDER`.
    pub ring_order: u32,
    /// `COMPLETION_BASE`.
    pub completion_base: u64,
    /// `HEAD`.
    pub head: u32,
    /// `TAIL`.
    pub tail: u32,
    /// `JOBS_DONE`.
    pub jobs_done: u64,
    /// `BYTES_DONE`.
    pub bytes_done: u64,
    /// `SCRATCH`.
    pub scratch: u64,
    /// `THROTTLE`.
    pub throttle: u32,
    /// `REFUSED`.
    pub refused: RefusedRegister,
    /// The job at `head`, if the device has fetched its descriptor.
    pub job: Option<Job>,
}

impl State {
    /// Returns the state after a reset.
    pub const fn new(throttle: u32) -> State {
        State {
            enabled: false,
            error: Error::None,
            cause: 0,
            mask: 0,
            ring_base: 0,
            ring_order: 0,
            completion_base: 0,
            head: 0,
            tail: 0,
            jobs_done: 0,
            bytes_done: 0,
            scratch: 0,
            throttle,
            refused: RefusedRegister::NONE,
            job: None,
        }
    }

    /// Returns the ring that the registers describe, or the register that is illegal.
    pub fn ring(&self) -> Result<Ring, Reg> {
        Ring::new(self.ring_base, self.ring_order, self.completion_base)
    }

    /// Returns whether the queue has halted.
    pub fn halted(&self) -> bool {
        self.error != Error::None
    }

    /// Returns whether the queue has work.
    pub fn pending(&self) -> bool {
        self.enabled && !self.halted() && self.head != self.tail
    }
}

/// What the rest of the device has to do after a write of a register or the end of a unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// The engine has work.
    pub kick: bool,
    /// Enabled causes with a new event to signal.
    pub events: u32,
    /// Whether [`Control::asserted`] may have changed.
    pub asserted: bool,
}

/// The next step of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing: the ring is empty.
    Idle,
    /// Nothing, and the queue does not need its pages any more.
    Release,
    /// One unit of work.
    Unit(Ticket),
}

/// The state of one device and the rules of its registers.
#[derive(Debug)]
pub struct Control {
    state: State,
    memory_size: u64,
    /// `THROTTLE` after a reset.
    throttle: u32,
    /// Counts how often software disabled or halted the queue.
    run: u32,
    /// A ticket was not handed back yet.
    in_flight: bool,
}

impl Control {
    /// Creates a device with `memory_size` bytes of memory in its power-on state.
    ///
    /// `throttle` is the value of `THROTTLE` after a reset, at most
    /// [`MAX_THROTTLE_US`](regs::MAX_THROTTLE_US).
    pub fn new(memory_size: u64, throttle: u32) -> Control {
        Control {
            state: State::new(throttle),
            memory_size,
            throttle,
            run: 0,
            in_flight: false,
        }
    }

    /// Returns the state that is saved.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Returns the size of the device memory in bytes.
    pub fn memory_size(&self) -> u64 {
        self.memory_size
    }

    /// Replaces the state by one that was checked.
    pub fn load(&mut self, state: State) {
        self.state = state;
        self.run = self.run.wrapping_add(1);
    }

    /// Returns to the power-on state.
    pub fn reset(&mut self) {
        self.load(State::new(self.throttle));
    }

    /// Returns the pending causes that are enabled. INTx is asserted while there is one.
    pub fn asserted(&self) -> u32 {
        self.state.cause & self.state.mask
    }

    /// Reads a register into `data`. A refused read leaves `data` unchanged.
    pub fn read(&mut self, offset: u64, data: &mut [u8]) -> Result<(), RegisterError> {
        let target =
            target(offset, data.len()).inspect_err(|r| self.state.refused.add(offset, *r))?;
        let value = self.value(target.reg) >> target.shift;

        data.copy_from_slice(&value.to_le_bytes()[..target.len]);
        Ok(())
    }

    /// Writes `data` to a register. A refused write changes nothing but `REFUSED`.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<Effect, RegisterError> {
        self.try_write(offset, data)
            .inspect_err(|r| self.state.refused.add(offset, *r))
    }

    /// Writes `data` to a register; the caller counts a refusal.
    fn try_write(&mut self, offset: u64, data: &[u8]) -> Result<Effect, RegisterError> {
        let target = target(offset, data.len())?;
        let reg = target.reg;

        match reg.row().access {
            Access::Ro => return Err(RegisterError::ReadOnly),
            Access::RwDisabled if self.state.enabled => return Err(RegisterError::Enabled),
            Access::RwDisabled | Access::Rw | Access::Rw1c => (),
        }

        // A write to one half of a wide register keeps the other half.
        let mut value = match target.len as u64 == reg.row().width {
            true => [0; 8],
            false => self.value(reg).to_le_bytes(),
        };
        let first = target.shift as usize / 8;
        value[first..first + target.len].copy_from_slice(data);
        self.set(reg, u64::from_le_bytes(value))
    }

    /// Returns the value of a register.
    fn value(&self, reg: Reg) -> u64 {
        let state = &self.state;

        match reg {
            Reg::Id => regs::ID.into(),
            Reg::Version => regs::VERSION.into(),
            Reg::Caps => regs::CAPS.into(),
            Reg::MemSize => self.memory_size,
            Reg::Control if state.enabled => regs::CONTROL_ENABLE.into(),
            Reg::Control => 0,
            Reg::Status => self.status().into(),
            Reg::Error => state.error as u64,
            Reg::ErrorIndex if state.halted() => state.head.into(),
            Reg::ErrorIndex => 0,
            Reg::IntCause => state.cause.into(),
            Reg::IntMask => state.mask.into(),
            Reg::RingBase => state.ring_base,
            Reg::RingOrder => state.ring_order.into(),
            Reg::CompletionBase => state.completion_base,
            Reg::Head => state.head.into(),
            Reg::Tail => state.tail.into(),
            Reg::JobsDone => state.jobs_done,
            Reg::BytesDone => state.bytes_done,
            Reg::Scratch => state.scratch,
            Reg::Throttle => state.throttle.into(),
            Reg::Refused => state.refused.to_raw().into(),
        }
    }

    /// Returns the value of `STATUS`.
    fn status(&self) -> u32 {
        let bit = |set, bit| if set { bit } else { 0 };

        bit(self.state.enabled, regs::STATUS_ENABLED)
            | bit(self.state.pending() || self.in_flight, regs::STATUS_BUSY)
            | bit(self.state.halted(), regs::STATUS_HALTED)
    }

    /// Sets a writable register to a new value.
    fn set(&mut self, reg: Reg, value: u64) -> Result<Effect, RegisterError> {
        match reg {
            Reg::Control => {
                let value = at_most(value, regs::CONTROL_ENABLE)?;
                return self.enable(value != 0);
            }
            Reg::IntCause => {
                self.state.cause &= !at_most(value, regs::INT_ALL)?;
                return Ok(Effect {
                    asserted: true,
                    ..Effect::default()
                });
            }
            Reg::IntMask => {
                let mask = at_most(value, regs::INT_ALL)?;
                let unmasked = mask & !self.state.mask;
                self.state.mask = mask;
                return Ok(Effect {
                    events: unmasked & self.state.cause,
                    asserted: true,
                    ..Effect::default()
                });
            }
            Reg::RingBase => self.state.ring_base = value,
            Reg::RingOrder => {
                self.state.ring_order = at_most(value, regs::MAX_RING_ORDER)?;
            }
            Reg::CompletionBase => self.state.completion_base = value,
            Reg::Tail => return self.doorbell(value),
            Reg::Scratch => self.state.scratch = value,
            Reg::Throttle => {
                self.state.throttle = at_most(value, regs::MAX_THROTTLE_US)?;
            }
            Reg::Id
            | Reg::Version
            | Reg::Caps
            | Reg::MemSize
            | Reg::Status
            | Reg::Error
            | Reg::ErrorIndex
            | Reg::Head
            | Reg::JobsDone
            | Reg::BytesDone
            | Reg::Refused => return Err(RegisterError::ReadOnly),
        }
        Ok(Effect::default())
    }

    /// Writes `CONTROL.ENABLE`.
    fn enable(&mut self, enable: bool) -> Result<Effect, RegisterError> {
        let state = &mut self.state;

        if enable == state.enabled {
            return Ok(Effect::default());
        }
        if enable {
            // A unit of the previous run may be in flight. Its outcome is dropped, and the next unit
            // starts only after it has ended.
            state.ring().map_err(|_| RegisterError::Illegal)?;
            state.enabled = true;
        } else {
            state.enabled = false;
            state.error = Error::None;
            state.head = 0;
            state.tail = 0;
            state.job = None;
            self.run = self.run.wrapping_add(1);
        }
        // A disabled queue must release its pages.
        Ok(Effect {
            kick: true,
            ..Effect::default()
        })
    }

    /// Writes `TAIL`.
    fn doorbell(&mut self, value: u64) -> Result<Effect, RegisterError> {
        let state = &mut self.state;

        if !state.enabled {
            return Err(RegisterError::Disabled);
        }
        let ring = state.ring().map_err(|_| RegisterError::Illegal)?;
        let (head, tail) = (state.head, state.tail);
        let value = match u32::try_from(value) {
            // Software cannot take descriptors back: the device may have started on them.
            Ok(value)
                if ring.contains(value)
                    && ring.pending(head, value) >= ring.pending(head, tail) =>
            {
                value
            }
            _ => return Ok(self.halt(Error::BadTail)),
        };
        state.tail = value;
        Ok(Effect {
            kick: true,
            ..Effect::default()
        })
    }

    /// Halts the queue because of an error of software. A halted queue keeps its first error, which
    /// is the useful one.
    fn halt(&mut self, error: Error) -> Effect {
        let state = &mut self.state;

        if state.halted() {
            return Effect::default();
        }
        state.error = error;
        state.job = None;
        state.cause |= regs::INT_HALT;
        // Drop the outcome of a unit in flight.
        self.run = self.run.wrapping_add(1);
        Effect {
            // The queue must release its pages.
            kick: true,
            events: regs::INT_HALT & state.mask,
            asserted: true,
        }
    }

    /// Plans the next unit. The caller must hand a ticket back to [`Control::finish`].
    pub fn begin(&mut self) -> Plan {
        let state = &self.state;

        if !state.enabled || state.halted() {
            return Plan::Release;
        }
        if !state.pending() {
            return Plan::Idle;
        }
        match state.ring() {
            Ok(ring) => {
                self.in_flight = true;
                Plan::Unit(Ticket {
                    run: self.run,
                    ring,
                    index: state.head,
                    job: state.job,
                    sequence: state.jobs_done.wrapping_add(1),
                    memory_size: self.memory_size,
                    throttle: state.throttle,
                })
            }
            // Unreachable: enabling the queue checks the registers of the ring, which then do not
            // change until it is disabled.
            Err(_) => Plan::Release,
        }
    }

    /// Returns whether the queue still waits for the outcome of a ticket.
    pub fn awaits(&self, ticket: &Ticket) -> bool {
        self.run == ticket.run
    }

    /// Applies the outcome of a unit, and writes the completion record if there is one.
    ///
    /// The caller holds the lock of the registers, so software that sees the record also sees its
    /// `HEAD` and `JOBS_DONE`. If the queue was disabled meanwhile, this writes no record and does not
    /// touch guest memory.
    pub fn finish(&mut self, ticket: &Ticket, outcome: &Outcome, bus: &mut impl Bus) -> Effect {
        let awaited = self.awaits(ticket);
        let state = &mut self.state;

        self.in_flight = false;
        // The bytes count even if the queue was disabled.
        state.bytes_done = state.bytes_done.wrapping_add(outcome.bytes);
        if !awaited {
            return Effect::default();
        }

        let mut end = outcome.end;
        if let Some(record) = &outcome.record {
            match bus.complete(&ticket.ring, ticket.index, &record.encode()) {
                Ok(()) => state.jobs_done = record.sequence,
                // Keep the first of two errors.
                Err(_) if matches!(end, End::Failed(_)) => (),
                Err(error) => end = End::Failed(error),
            }
        }
        state.job = outcome.job;
        let cause = match end {
            End::More | End::Completed { interrupt: false } => 0,
            End::Completed { interrupt: true } => regs::INT_COMPLETION,
            End::Failed(_) => regs::INT_HALT,
        };
        match end {
            End::More => (),
            End::Completed { .. } => state.head = ticket.ring.next(ticket.index),
            End::Failed(error) => state.error = error,
        }
        state.cause |= cause;
        Effect {
            kick: false,
            events: cause & state.mask,
            asserted: cause != 0,
        }
    }
}

/// Returns the register that an access reaches.
fn target(offset: u64, len: usize) -> Result<Target, RegisterError> {
    regs::decode(offset, len).ok_or(RegisterError::NoRegister)
}

/// Returns `value`, or an error if it is above `max`.
fn at_most(value: u64, max: u32) -> Result<u32, RegisterError> {
    match u32::try_from(value) {
        Ok(value) if value <= max => Ok(value),
        _ => Err(RegisterError::Illegal),
    }
}
