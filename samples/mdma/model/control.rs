// SPDX-License-Identifier: GPL-2.0

//! The state of the device, and the effects of reading and writing its registers.
//!
//! [`Control`] is the whole state of a device except its memory. One lock protects it, which is held
//! for a few instructions at a time. The engine works without this lock: [`Control::begin`] returns a
//! [`Ticket`] for the next unit, and [`Control::finish`] takes its outcome. If the queue was disabled
//! in between, [`Ticket::run`] does not match any more and the outcome is dropped.

use crate::desc::Error;
use crate::engine::{Bus, End, Job, Outcome, Ticket};
use crate::queue::Ring;
use crate::refused::{self, RegisterError};
use crate::regs::{self, Access, Reg, Reset, INT_COMPLETION, INT_HALT, REGISTERS};
use core::ops::{Index, IndexMut};

/// The values of the registers and the progress of the job in flight: everything that is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// The value of each register; of `STATUS` and `ERROR_INDEX`, which follow from others, the value
    /// after a reset.
    values: [u64; regs::COUNT],
    /// The job at `HEAD`, if the device has fetched its descriptor.
    pub job: Option<Job>,
}

impl Index<Reg> for State {
    type Output = u64;

    #[inline]
    fn index(&self, reg: Reg) -> &u64 {
        &self.values[reg as usize]
    }
}

impl IndexMut<Reg> for State {
    #[inline]
    fn index_mut(&mut self, reg: Reg) -> &mut u64 {
        &mut self.values[reg as usize]
    }
}

impl State {
    /// Returns the state after a reset.
    pub fn new(memory_size: u64, throttle: u32) -> State {
        let mut state = State {
            values: [0; regs::COUNT],
            job: None,
        };
        for row in &REGISTERS {
            state[row.reg] = match row.reset {
                Reset::Value(value) => value,
                Reset::MemorySize => memory_size,
                Reset::ThrottleUs => throttle.into(),
            };
        }
        state
    }

    /// Returns the ring that the registers describe, or the register that is illegal.
    pub fn ring(&self) -> Result<Ring, Reg> {
        let order = self[Reg::RingOrder] as u32;
        Ring::new(self[Reg::RingBase], order, self[Reg::CompletionBase])
    }

    /// Returns whether the queue is enabled.
    pub fn enabled(&self) -> bool {
        self[Reg::Control] != 0
    }

    /// Returns whether the queue has halted.
    pub fn halted(&self) -> bool {
        self[Reg::Error] != Error::None as u64
    }
}

/// What the rest of the device has to do after a write of a register or the end of a unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effect {
    /// The engine has work.
    pub schedule: bool,
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
    /// The ring of the queue, while it is enabled.
    ring: Option<Ring>,
    /// `THROTTLE` after a reset.
    throttle: u32,
    /// Counts how often software disabled or halted the queue.
    run: u32,
    /// A ticket was not handed back yet.
    in_flight: bool,
}

impl Control {
    /// Creates a device in its power-on state, with `memory_size` bytes of memory. `throttle`, at most
    /// [`MAX_THROTTLE_US`](regs::MAX_THROTTLE_US), is the value of `THROTTLE` after a reset.
    pub fn new(memory_size: u64, throttle: u32) -> Control {
        Control {
            state: State::new(memory_size, throttle),
            ring: None,
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
        self.state[Reg::MemSize]
    }

    /// Returns the value of `THROTTLE` after a reset.
    pub fn reset_throttle(&self) -> u32 {
        self.throttle
    }

    /// Resets the device, with another value of `THROTTLE` from now on: at most
    /// [`MAX_THROTTLE_US`](regs::MAX_THROTTLE_US).
    pub fn reset_with_throttle(&mut self, throttle: u32) {
        self.throttle = throttle;
        self.reset();
    }

    /// Replaces the state by one that was checked.
    pub fn load(&mut self, state: State) {
        self.state = state;
        self.ring = state.ring().ok().filter(|_| state.enabled());
        self.run = self.run.wrapping_add(1);
    }

    /// Returns to the power-on state.
    pub fn reset(&mut self) {
        self.load(State::new(self.memory_size(), self.throttle));
    }

    /// Returns the pending causes that are enabled. INTx is asserted while there is one.
    pub fn asserted(&self) -> u32 {
        (self.state[Reg::IntCause] & self.state[Reg::IntMask]) as u32
    }

    /// Reads a register into `data`. A refused read leaves `data` unchanged.
    #[inline]
    pub fn read(&mut self, offset: u64, data: &mut [u8]) -> Result<(), RegisterError> {
        let Some((reg, first)) = regs::decode(offset, data.len()) else {
            return Err(self.refuse(offset, RegisterError::NoRegister));
        };
        let value = self.value(reg).to_le_bytes();
        data.copy_from_slice(&value[first..first + data.len()]);
        Ok(())
    }

    /// Writes `data` to a register. A refused write changes nothing but `REFUSED`.
    #[inline]
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<Effect, RegisterError> {
        self.try_write(offset, data)
            .map_err(|error| self.refuse(offset, error))
    }

    /// Counts a refused access and returns its error.
    fn refuse(&mut self, offset: u64, error: RegisterError) -> RegisterError {
        let refused = &mut self.state[Reg::Refused];
        *refused = refused::count(*refused, offset, error);
        error
    }

    /// Writes `data` to a register; the caller counts a refusal.
    #[inline]
    fn try_write(&mut self, offset: u64, data: &[u8]) -> Result<Effect, RegisterError> {
        let (reg, first) = regs::decode(offset, data.len()).ok_or(RegisterError::NoRegister)?;
        let row = reg.row();

        match row.access {
            Access::Ro => return Err(RegisterError::ReadOnly),
            Access::RwDisabled if self.state.enabled() => return Err(RegisterError::Enabled),
            Access::RwDisabled | Access::Rw | Access::Rw1c => (),
        }

        // A write to one half of a wide register keeps the other half.
        let mut value = self.state[reg].to_le_bytes();
        value[first..first + data.len()].copy_from_slice(data);
        let value = u64::from_le_bytes(value);
        if value > row.max {
            return Err(RegisterError::Illegal);
        }
        self.set(reg, value)
    }

    /// Returns the value of a register.
    #[inline]
    fn value(&self, reg: Reg) -> u64 {
        let state = &self.state;

        match reg {
            Reg::Status => {
                let busy =
                    state.enabled() && !state.halted() && state[Reg::Head] != state[Reg::Tail];
                let bit = |set, bit| u64::from(if set { bit } else { 0 });

                bit(state.enabled(), regs::STATUS_ENABLED)
                    | bit(busy || self.in_flight, regs::STATUS_BUSY)
                    | bit(state.halted(), regs::STATUS_HALTED)
            }
            Reg::ErrorIndex if state.halted() => state[Reg::Head],
            _ => state[reg],
        }
    }

    /// Sets a writable register to a new value, which is not above its maximum.
    fn set(&mut self, reg: Reg, value: u64) -> Result<Effect, RegisterError> {
        let state = &mut self.state;
        let mut effect = Effect::default();

        match reg {
            Reg::Control => return self.enable(value != 0),
            Reg::Tail => return self.doorbell(value as u32),
            Reg::IntCause => {
                state[reg] &= !value;
                effect.asserted = true;
            }
            Reg::IntMask => {
                let unmasked = value & !state[reg];
                state[reg] = value;
                effect.events = (unmasked & state[Reg::IntCause]) as u32;
                effect.asserted = true;
            }
            _ => state[reg] = value,
        }
        Ok(effect)
    }

    /// Writes `CONTROL.ENABLE`.
    fn enable(&mut self, enable: bool) -> Result<Effect, RegisterError> {
        let state = &mut self.state;

        if enable == state.enabled() {
            return Ok(Effect::default());
        }
        if enable {
            // A unit of the previous run may be in flight. Its outcome is dropped, and the next unit
            // starts only after it has ended.
            self.ring = Some(state.ring().map_err(|_| RegisterError::Illegal)?);
        } else {
            self.ring = None;
            self.run = self.run.wrapping_add(1);
            state.job = None;
            for reg in [Reg::Error, Reg::Head, Reg::Tail] {
                state[reg] = 0;
            }
        }
        state[Reg::Control] = enable.into();
        // A disabled queue must release its pages.
        Ok(self.effect(true, 0))
    }

    /// Writes `TAIL`.
    fn doorbell(&mut self, value: u32) -> Result<Effect, RegisterError> {
        let ring = self.ring.ok_or(RegisterError::Disabled)?;
        let (head, tail) = (self.state[Reg::Head] as u32, self.state[Reg::Tail] as u32);

        // Software cannot take descriptors back: the device may have started on them.
        if !ring.contains(value) || ring.pending(head, value) < ring.pending(head, tail) {
            return Ok(self.halt(Error::BadTail));
        }
        self.state[Reg::Tail] = value.into();
        Ok(self.effect(true, 0))
    }

    /// Halts the queue because of an error of software. The first error is the useful one: keep it.
    fn halt(&mut self, error: Error) -> Effect {
        if self.state.halted() {
            return Effect::default();
        }
        self.state[Reg::Error] = error as u64;
        self.state.job = None;
        // Drop the outcome of a unit in flight.
        self.run = self.run.wrapping_add(1);
        // The queue must release its pages.
        self.effect(true, INT_HALT)
    }

    /// Adds causes of interrupts and returns their effect.
    fn effect(&mut self, schedule: bool, causes: u32) -> Effect {
        self.state[Reg::IntCause] |= u64::from(causes);
        Effect {
            schedule,
            events: causes & self.state[Reg::IntMask] as u32,
            asserted: causes != 0,
        }
    }

    /// Plans the next unit. The caller must hand a ticket back to [`Control::finish`].
    #[inline]
    pub fn begin(&mut self) -> Plan {
        let state = &self.state;

        let Some(ring) = self.ring.filter(|_| !state.halted()) else {
            return Plan::Release;
        };
        if state[Reg::Head] == state[Reg::Tail] {
            return Plan::Idle;
        }
        self.in_flight = true;
        Plan::Unit(Ticket {
            run: self.run,
            ring,
            index: state[Reg::Head] as u32,
            job: state.job,
            sequence: state[Reg::JobsDone].wrapping_add(1),
            memory_size: state[Reg::MemSize],
            throttle: state[Reg::Throttle] as u32,
        })
    }

    /// Returns whether the queue still waits for the outcome of a ticket.
    pub fn awaits(&self, ticket: &Ticket) -> bool {
        self.run == ticket.run
    }

    /// Applies the outcome of a unit, and writes the completion record if there is one.
    ///
    /// The caller holds the lock of the registers, so software that sees the record also sees its
    /// `HEAD` and `JOBS_DONE`. If the queue was disabled meanwhile, guest memory is not touched.
    pub fn finish(&mut self, ticket: &Ticket, outcome: &Outcome, bus: &mut impl Bus) -> Effect {
        let awaited = self.awaits(ticket);
        let state = &mut self.state;

        self.in_flight = false;
        // The bytes count even if the queue was disabled.
        state[Reg::BytesDone] = state[Reg::BytesDone].wrapping_add(outcome.bytes);
        if !awaited {
            return Effect::default();
        }

        let mut end = outcome.end;
        if let Some(record) = &outcome.record {
            match bus.complete(&ticket.ring, ticket.index, &record.encode()) {
                Ok(()) => state[Reg::JobsDone] = record.sequence,
                // Keep the first of two errors.
                Err(_) if matches!(end, End::Failed(_)) => (),
                Err(error) => end = End::Failed(error),
            }
        }
        state.job = outcome.job;
        let causes = match end {
            End::More => 0,
            End::Completed { interrupt } => {
                state[Reg::Head] = ticket.ring.next(ticket.index).into();
                u32::from(interrupt) * INT_COMPLETION
            }
            End::Failed(error) => {
                state[Reg::Error] = error as u64;
                INT_HALT
            }
        };
        self.effect(false, causes)
    }
}
