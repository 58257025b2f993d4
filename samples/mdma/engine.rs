// SPDX-License-Identifier: GPL-2.0

//! The engine: one unit of work on one job.
//!
//! A job is done in units of at most [`UNIT`] bytes. [`run`] does one: it fetches the descriptor
//! if the job is new, moves the next unit, and makes the completion record if that was the last.
//! Between two units all there is to know about a job is in [`Job`], so a device can be stopped,
//! saved and continued elsewhere there.
//!
//! [`Control::finish`](crate::control::Control::finish) writes the record, together with the
//! registers that go with it: software that sees the one sees the others.
//!
//! What the engine works on is behind [`Bus`]: guest memory and device memory in the kernel,
//! vectors in tests.
//!
//! This file imports `core` only: it is compiled into the module and into userspace.

use crate::control::Ticket;
use crate::desc::{Completion, Descriptor, Error, Op, Place};
use crate::desc::{COMPLETION_SIZE, DESCRIPTOR_SIZE, INTERRUPT};
use crate::queue::Ring;

/// The most bytes one unit processes.
///
/// Jobs are cut at multiples of it from their beginning, so it is part of the layout of a saved
/// state.
pub const UNIT: usize = 64 << 10;

/// A CRC-32C before the first byte, and what the last value is inverted by.
pub const CRC_SEED: u32 = !0;

/// A job in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// What to do, as it was when the job was begun.
    pub desc: Descriptor,
    /// Bytes processed: between two units a multiple of [`UNIT`], above 0 and below `desc.len`.
    pub done: u64,
    /// CRC of the bytes processed, from [`CRC_SEED`] on and not inverted.
    pub crc: u32,
}

/// What the engine can reach.
///
/// All lengths are at most [`UNIT`]. A transfer that fails may have been done in part.
pub trait Bus {
    /// Makes ring and completion records accessible. Called at the beginning of each unit.
    fn prepare(&mut self, ring: &Ring) -> Result<(), Error>;

    /// Reads the descriptor at `index`.
    fn fetch(&mut self, ring: &Ring, index: u32) -> Result<[u8; DESCRIPTOR_SIZE], Error>;

    /// Writes the completion record at `index`, its sequence last. Called with the registers
    /// locked, so it does not wait for anything.
    fn complete(
        &mut self,
        ring: &Ring,
        index: u32,
        record: &[u8; COMPLETION_SIZE],
    ) -> Result<(), Error>;

    /// Copies `len` bytes; the ranges may overlap.
    fn copy(&mut self, src: Place, dst: Place, len: usize) -> Result<(), Error>;

    /// Repeats `value`, little endian, over `len` bytes.
    fn fill(&mut self, dst: Place, value: u64, len: usize) -> Result<(), Error>;

    /// Continues `crc` over `len` bytes.
    fn crc32c(&mut self, src: Place, crc: u32, len: usize) -> Result<u32, Error>;
}

/// How a unit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The job has more units.
    More,
    /// The job is completed.
    Completed {
        /// An interrupt is wanted.
        interrupt: bool,
    },
    /// The job has failed: the queue halts.
    Failed(Error),
}

/// What came of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// The job with what was done, unless it ended.
    pub job: Option<Job>,
    /// Bytes processed by this unit.
    pub bytes: u64,
    /// The completion record, if the job ended and has one.
    pub record: Option<Completion>,
}

impl Job {
    /// Begins a job.
    pub fn new(desc: Descriptor) -> Job {
        Job {
            desc,
            done: 0,
            crc: CRC_SEED,
        }
    }

    /// Returns where the next unit begins, relative to the job's addresses, and its length.
    ///
    /// A copy to a higher address that overlaps its source goes from the end to the beginning.
    pub fn unit(&self) -> (u64, usize) {
        let desc = &self.desc;
        let left = desc.len - self.done;
        let len = left.min(UNIT as u64);

        let overlaps = match (desc.source(), desc.destination()) {
            (Some(Place::Guest(src)), Some(Place::Guest(dst)))
            | (Some(Place::Device(src)), Some(Place::Device(dst))) => {
                src < dst && dst - src < desc.len
            }
            _ => false,
        };
        let offset = if overlaps { left - len } else { self.done };
        (offset, len as usize)
    }

    /// Does the next unit, and returns how many bytes that were.
    fn advance(&mut self, bus: &mut impl Bus) -> Result<u64, Error> {
        let (offset, len) = self.unit();
        if len == 0 {
            return Ok(0);
        }

        let desc = self.desc;
        match (desc.op, desc.source(), desc.destination()) {
            (Op::Copy, Some(src), Some(dst)) => {
                bus.copy(src.plus(offset), dst.plus(offset), len)?;
            }
            // A unit begins at a multiple of eight bytes, so each begins with a whole `value`.
            (Op::Fill, _, Some(dst)) => bus.fill(dst.plus(offset), desc.value, len)?,
            (Op::Crc32c, Some(src), _) => {
                self.crc = bus.crc32c(src.plus(offset), self.crc, len)?;
            }
            (Op::Nop | Op::Copy | Op::Fill | Op::Crc32c, _, _) => (),
        }
        self.done += len as u64;
        Ok(len as u64)
    }
}

impl Place {
    /// Returns the place `offset` bytes on.
    ///
    /// The ranges of a job have been checked; wrapping is for the type only.
    fn plus(self, offset: u64) -> Place {
        match self {
            Place::Guest(iova) => Place::Guest(iova.wrapping_add(offset)),
            Place::Device(at) => Place::Device(at.wrapping_add(offset)),
        }
    }
}

/// Does one unit of work.
pub fn run(ticket: &Ticket, bus: &mut impl Bus) -> Outcome {
    match begin(ticket, bus) {
        Ok(job) => advance(ticket, job, bus),
        Err(outcome) => outcome,
    }
}

/// Returns the job in flight, or fetches and checks the next one.
fn begin(ticket: &Ticket, bus: &mut impl Bus) -> Result<Job, Outcome> {
    // Without the descriptor there is no cookie to answer with.
    let lost = |error| Outcome::ended(End::Failed(error), 0, None);

    bus.prepare(&ticket.ring).map_err(lost)?;
    if let Some(job) = ticket.job {
        return Ok(job);
    }
    let bytes = bus.fetch(&ticket.ring, ticket.index).map_err(lost)?;
    Descriptor::decode(&bytes)
        .and_then(|desc| {
            desc.check(ticket.memory_size)?;
            Ok(Job::new(desc))
        })
        .map_err(|error| {
            let record = record(ticket, Descriptor::cookie_of(&bytes), error, 0, 0);
            Outcome::ended(End::Failed(error), 0, Some(record))
        })
}

/// Does the next unit of a job.
fn advance(ticket: &Ticket, mut job: Job, bus: &mut impl Bus) -> Outcome {
    let cookie = job.desc.cookie;
    let bytes = match job.advance(bus) {
        Ok(bytes) => bytes,
        Err(error) => {
            let record = record(ticket, cookie, error, 0, job.done);
            return Outcome::ended(End::Failed(error), 0, Some(record));
        }
    };
    if job.done < job.desc.len {
        return Outcome {
            end: End::More,
            job: Some(job),
            bytes,
            record: None,
        };
    }

    let crc = match job.desc.op {
        Op::Crc32c => !job.crc,
        Op::Nop | Op::Copy | Op::Fill => 0,
    };
    let interrupt = job.desc.flags & INTERRUPT != 0;
    let record = record(ticket, cookie, Error::None, crc, job.done);
    Outcome::ended(End::Completed { interrupt }, bytes, Some(record))
}

/// Makes a completion record.
fn record(ticket: &Ticket, cookie: u64, error: Error, crc: u32, bytes: u64) -> Completion {
    Completion {
        cookie,
        error: error as u32,
        crc,
        bytes,
        sequence: ticket.sequence,
    }
}

impl Outcome {
    /// The end of a job.
    fn ended(end: End, bytes: u64, record: Option<Completion>) -> Outcome {
        Outcome {
            end,
            job: None,
            bytes,
            record,
        }
    }
}
