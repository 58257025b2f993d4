// SPDX-License-Identifier: GPL-2.0

//! The engine: one unit of work on one job.
//!
//! The engine does a job in units of at most [`UNIT`] bytes. [`run`] does one unit: it fetches the
//! descriptor if the job is new, processes the next bytes, and makes the completion record if they
//! were the last. Between two units, [`Job`] holds everything about the job, so the device can be
//! stopped and saved there and continue elsewhere.
//!
//! A job between two ranges is cut at multiples of [`UNIT`]. A job with a scatter list is also cut
//! at the borders of its entries. Its units end after [`WINDOW`] such pieces, so that small entries
//! do not make units long.
//!
//! [`Control::finish`](crate::control::Control::finish) writes the record and updates its registers
//! together, so software sees both or neither.
//!
//! The engine reaches memory through [`Bus`]: guest memory and device memory in the kernel, vectors
//! in tests.

use crate::desc::{Completion, Descriptor, Error, Op, Operand, Place};
use crate::desc::{COMPLETION_SIZE, DESCRIPTOR_SIZE, INTERRUPT};
use crate::list::{Cursor, Entry, List, ENTRY_SIZE, WINDOW};
use crate::queue::Ring;

/// The most bytes one unit processes.
///
/// Jobs without a list are cut at multiples of it from their beginning, so it is part of the layout
/// of a saved state.
pub const UNIT: usize = 64 << 10;

/// The initial value of a CRC-32C, and the mask that inverts the last one.
pub const CRC_SEED: u32 = !0;

/// A job in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// The descriptor, as it was when the job began.
    pub desc: Descriptor,
    /// Bytes processed: between two units above 0 and below `desc.len`, and without a list a
    /// multiple of [`UNIT`].
    pub done: u64,
    /// CRC of the bytes processed, starting from [`CRC_SEED`] and not inverted.
    pub crc: u32,
    /// Position in the list of the source, if it is a list.
    pub src: Cursor,
    /// Position in the list of the destination, if it is a list.
    pub dst: Cursor,
}

/// An order to do one unit of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Number of the run of the queue. It changes when software disables or halts the queue.
    pub run: u32,
    /// The ring.
    pub ring: Ring,
    /// Index of the descriptor.
    pub index: u32,
    /// The job, if an earlier unit fetched its descriptor.
    pub job: Option<Job>,
    /// `JOBS_DONE` once this job is completed.
    pub sequence: u64,
    /// Size of the device memory in bytes.
    pub memory_size: u64,
    /// Microseconds to wait after the unit.
    pub throttle: u32,
}

/// The memory that the engine reaches.
///
/// All lengths are in bytes and at most [`UNIT`]. A failed transfer may be partly done.
pub trait Bus {
    /// Makes ring and completion records accessible. Called at the start of each unit.
    fn prepare(&mut self, ring: &Ring) -> Result<(), Error>;

    /// Reads the descriptor at `index`.
    fn fetch(&mut self, ring: &Ring, index: u32) -> Result<[u8; DESCRIPTOR_SIZE], Error>;

    /// Writes the completion record at `index`, its sequence last. Must not wait: the caller holds the
    /// lock of the registers.
    fn complete(
        &mut self,
        ring: &Ring,
        index: u32,
        record: &[u8; COMPLETION_SIZE],
    ) -> Result<(), Error>;

    /// Reads entries of a list.
    fn entries(&mut self, iova: u64, bytes: &mut [u8]) -> Result<(), Error>;

    /// Copies `len` bytes; the ranges may overlap.
    fn copy(&mut self, src: Place, dst: Place, len: usize) -> Result<(), Error>;

    /// Fills `len` bytes with repetitions of `value`, little endian.
    fn fill(&mut self, dst: Place, value: u64, len: usize) -> Result<(), Error>;

    /// Returns `crc` continued over `len` bytes.
    fn crc32c(&mut self, src: Place, crc: u32, len: usize) -> Result<u32, Error>;
}

/// How a unit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The job has more units.
    More,
    /// The job is completed.
    Completed {
        /// Software requested an interrupt.
        interrupt: bool,
    },
    /// The job failed: the queue halts.
    Failed(Error),
}

/// The outcome of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// The job and its progress, unless it ended.
    pub job: Option<Job>,
    /// Bytes processed by this unit.
    pub bytes: u64,
    /// The completion record, if the job ended and has one.
    pub record: Option<Completion>,
}

/// The entries of a list that a unit can reach.
struct Window {
    list: List,
    /// Index of the first entry.
    first: u32,
    bytes: [u8; WINDOW as usize * ENTRY_SIZE],
}

impl Window {
    /// Reads the entries from the cursor on.
    fn new(list: List, cursor: Cursor, bus: &mut impl Bus) -> Result<Window, Error> {
        let mut window = Window {
            list,
            first: cursor.entry,
            bytes: [0; WINDOW as usize * ENTRY_SIZE],
        };
        let count = WINDOW.min(list.entries.saturating_sub(cursor.entry));
        let bytes = &mut window.bytes[..count as usize * ENTRY_SIZE];
        bus.entries(list.entry_at(cursor.entry), bytes)?;
        Ok(window)
    }

    /// Decodes the entry at the cursor. A unit has at most as many pieces as the window has entries.
    fn entry(&self, cursor: Cursor) -> Result<Entry, Error> {
        if cursor.entry >= self.list.entries {
            return Err(Error::BadList);
        }
        let at = cursor.entry.wrapping_sub(self.first) as usize * ENTRY_SIZE;
        let bytes = self.bytes.get(at..at + ENTRY_SIZE);
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        Entry::decode(bytes.ok_or(Error::BadList)?)
    }
}

/// The source or the destination of a job during a unit.
#[expect(clippy::large_enum_variant, reason = "the engine does not allocate")]
enum Side {
    /// The start of a range.
    At(Place),
    /// A list.
    List(Window),
}

/// The source or the destination of a piece.
#[derive(Clone, Copy)]
struct Span {
    place: Place,
    /// Contiguous bytes from there on.
    len: u64,
    /// The entry of the list, if there is one.
    entry: Option<Entry>,
}

impl Side {
    /// Prepares an operand, if there is one.
    fn new(
        operand: Option<Operand>,
        cursor: Cursor,
        bus: &mut impl Bus,
    ) -> Result<Option<Side>, Error> {
        Ok(match operand {
            None => None,
            Some(Operand::At(place)) => Some(Side::At(place)),
            Some(Operand::List(list)) => Some(Side::List(Window::new(list, cursor, bus)?)),
        })
    }

    /// Returns the next span after `done` bytes: `len` bytes, or the rest of the current entry.
    fn span(
        &self,
        cursor: Cursor,
        done: u64,
        len: u64,
        check: impl Fn(Entry) -> Result<(), Error>,
    ) -> Result<Span, Error> {
        match self {
            Side::At(place) => Ok(Span {
                place: place.plus(done),
                len,
                entry: None,
            }),
            Side::List(window) => {
                let entry = window.entry(cursor)?;
                check(entry)?;
                // Software may have shortened the entry since the job entered it.
                let left = entry.len.checked_sub(cursor.at).filter(|&left| left > 0);
                Ok(Span {
                    place: entry.place.plus(cursor.at.into()),
                    len: left.ok_or(Error::BadList)?.into(),
                    entry: Some(entry),
                })
            }
        }
    }
}

impl Job {
    /// Creates a job that has processed nothing.
    pub fn new(desc: Descriptor) -> Job {
        Job {
            desc,
            done: 0,
            crc: CRC_SEED,
            src: Cursor::default(),
            dst: Cursor::default(),
        }
    }

    /// Returns the offset of the next unit of a job without lists, relative to the job's addresses,
    /// and its length.
    ///
    /// A copy to a higher address that overlaps its source runs from the end to the beginning.
    pub fn unit(&self) -> (u64, usize) {
        let desc = &self.desc;
        let left = desc.len - self.done;
        let len = left.min(UNIT as u64);

        let overlaps = match (desc.source(), desc.destination()) {
            (Some(Operand::At(Place::Guest(src))), Some(Operand::At(Place::Guest(dst))))
            | (Some(Operand::At(Place::Device(src))), Some(Operand::At(Place::Device(dst)))) => {
                src < dst && dst - src < desc.len
            }
            _ => false,
        };
        let offset = if overlaps { left - len } else { self.done };
        (offset, len as usize)
    }

    /// Processes `len` bytes.
    fn piece(
        &mut self,
        src: Option<Place>,
        dst: Option<Place>,
        len: usize,
        bus: &mut impl Bus,
    ) -> Result<(), Error> {
        match (self.desc.op, src, dst) {
            (Op::Copy, Some(src), Some(dst)) => bus.copy(src, dst, len),
            (Op::Fill, _, Some(dst)) => {
                // Rotate so that the next byte of `value` comes first.
                let phase = (self.done % 8) as u32;
                bus.fill(dst, self.desc.value.rotate_right(8 * phase), len)
            }
            (Op::Crc32c, Some(src), _) => {
                self.crc = bus.crc32c(src, self.crc, len)?;
                Ok(())
            }
            (Op::Nop | Op::Copy | Op::Fill | Op::Crc32c, _, _) => Ok(()),
        }
    }

    /// Does the next unit of a job without lists.
    fn advance_ranges(&mut self, bus: &mut impl Bus) -> Result<(), Error> {
        let (offset, len) = self.unit();
        if len == 0 {
            return Ok(());
        }
        let place = |operand| match operand {
            Some(Operand::At(place)) => Some(Place::plus(place, offset)),
            Some(Operand::List(_)) | None => None,
        };
        let (src, dst) = (place(self.desc.source()), place(self.desc.destination()));
        self.piece(src, dst, len, bus)?;
        self.done += len as u64;
        Ok(())
    }

    /// Does the next unit of a job with a list. After an error, `done` counts the bytes before it.
    fn advance_lists(&mut self, memory_size: u64, bus: &mut impl Bus) -> Result<(), Error> {
        let desc = self.desc;
        let source = Side::new(desc.source(), self.src, bus)?;
        let destination = Side::new(desc.destination(), self.dst, bus)?;
        let end = desc.len.min(self.done + UNIT as u64);

        for _ in 0..WINDOW {
            let room = end - self.done;
            if room == 0 {
                break;
            }
            let span = |side: &Option<Side>, cursor, range, fault| {
                side.as_ref()
                    .map(|side| {
                        side.span(cursor, self.done, room, |entry| {
                            entry
                                .place
                                .check(entry.len.into(), memory_size, range, fault)
                        })
                    })
                    .transpose()
            };
            let src = span(&source, self.src, Error::SrcRange, Error::SrcFault)?;
            let dst = span(&destination, self.dst, Error::DstRange, Error::DstFault)?;
            let spans = [src, dst];
            let len = spans
                .iter()
                .flatten()
                .map(|span| span.len)
                .fold(room, u64::min);
            let len = len as usize;

            self.piece(
                src.map(|span| span.place),
                dst.map(|span| span.place),
                len,
                bus,
            )?;
            for (span, cursor) in spans.iter().zip([&mut self.src, &mut self.dst]) {
                if let Some(entry) = span.and_then(|span| span.entry) {
                    cursor.advance(&entry, len);
                }
            }
            self.done += len as u64;
        }
        Ok(())
    }

    /// Does the next unit.
    fn advance(&mut self, memory_size: u64, bus: &mut impl Bus) -> Result<(), Error> {
        if self.desc.has_list() {
            self.advance_lists(memory_size, bus)
        } else {
            self.advance_ranges(bus)
        }
    }
}

/// Does one unit of work.
pub fn run(ticket: &Ticket, bus: &mut impl Bus) -> Outcome {
    match begin(ticket, bus) {
        Ok(job) => advance(ticket, job, bus),
        Err((error, record)) => Outcome::ended(End::Failed(error), 0, record),
    }
}

/// Returns the job in flight, or fetches and checks the next one. An error comes with the completion
/// record, if there is one.
fn begin(ticket: &Ticket, bus: &mut impl Bus) -> Result<Job, (Error, Option<Completion>)> {
    // Without the descriptor there is no cookie, so no record.
    let lost = |error| (error, None);

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
            let cookie = Descriptor::cookie_of(&bytes);
            (error, Some(record(ticket, cookie, error, 0, 0)))
        })
}

/// Does the next unit of a job.
fn advance(ticket: &Ticket, mut job: Job, bus: &mut impl Bus) -> Outcome {
    let cookie = job.desc.cookie;
    let before = job.done;
    let result = job.advance(ticket.memory_size, bus);
    let bytes = job.done - before;
    if let Err(error) = result {
        let record = record(ticket, cookie, error, 0, job.done);
        return Outcome::ended(End::Failed(error), bytes, Some(record));
    }
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
    /// Returns the outcome of the last unit of a job.
    fn ended(end: End, bytes: u64, record: Option<Completion>) -> Outcome {
        Outcome {
            end,
            job: None,
            bytes,
            record,
        }
    }
}
