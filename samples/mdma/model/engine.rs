// SPDX-License-Identifier: GPL-2.0

//! The engine: one unit of work on one job.
//!
//! The engine does a job in units of at most [`UNIT`] bytes. [`run`] fetches the descriptor of a new
//! job, processes the next bytes, and makes the completion record if they were the last. Between two
//! units, [`Job`] holds everything about the job, so the device can be saved there and continue
//! elsewhere.
//!
//! A job between two ranges is cut at multiples of [`UNIT`]. A job with a scatter list is also cut
//! at the borders of its entries. Its units end after [`WINDOW`] such pieces, so that small entries
//! do not make units long.

use crate::desc::{Completion, Descriptor, Error, Op, Operand, Place};
use crate::desc::{COMPLETION_SIZE, DESCRIPTOR_SIZE, INTERRUPT};
use crate::error::Result;
use crate::key::{Progress, Registration};
use crate::list::{Cursor, Entry, List, ENTRY_SIZE, WINDOW};
use crate::queue::Ring;

/// The most bytes one unit processes. Jobs without a list are cut at multiples of it, so it is part
/// of the layout of a saved state.
pub const UNIT: usize = 64 << 10;

/// The initial value of a CRC-32C, and the mask that inverts the last one.
pub const CRC_SEED: u32 = !0;

/// A job in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// The descriptor, as it was when the job began.
    pub desc: Descriptor,
    /// Bytes processed. Between two units of a job that moves data it is above 0, below `desc.len`, and
    /// without a list a multiple of [`UNIT`].
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
    fn prepare(&mut self, ring: &Ring) -> Result;

    /// Reads the descriptor at `index`.
    fn fetch(&mut self, ring: &Ring, index: u32) -> Result<[u8; DESCRIPTOR_SIZE]>;

    /// Writes the completion record at `index`, its sequence last. Must not wait: the caller holds the
    /// lock of the registers.
    fn complete(&mut self, ring: &Ring, index: u32, record: &[u8; COMPLETION_SIZE]) -> Result;

    /// Checks that a job may access `len` bytes at `offset` of registered memory.
    fn check_key(&mut self, key: u32, offset: u64, len: u64, write: bool) -> Result;

    /// Pins the next part of the memory that the job in flight registers, and returns how far it is.
    fn register(&mut self, memory: &Registration) -> Result<Progress>;

    /// Unpins the next part of the memory with a key. Returns whether the key is gone.
    fn deregister(&mut self, key: u64) -> Result<bool>;

    /// Reads entries of a list.
    fn entries(&mut self, iova: u64, bytes: &mut [u8]) -> Result;

    /// Copies `len` bytes; the ranges may overlap.
    fn copy(&mut self, src: Place, dst: Place, len: usize) -> Result;

    /// Fills `len` bytes with repetitions of `value`, little endian.
    fn fill(&mut self, dst: Place, value: u64, len: usize) -> Result;

    /// Returns `crc` continued over `len` bytes.
    fn crc32c(&mut self, src: Place, crc: u32, len: usize) -> Result<u32>;
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

/// The source or the destination of a job with a list, during a unit.
#[expect(clippy::large_enum_variant, reason = "the engine does not allocate")]
enum Side {
    /// The start of a range; `None` if the operation does not use this side.
    Range(Option<Place>),
    /// A list.
    List {
        list: List,
        /// Index of the first entry that the unit can reach.
        first: u32,
        /// The bytes of these entries.
        window: [[u8; ENTRY_SIZE]; WINDOW as usize],
    },
}

/// The source or the destination of a piece.
#[derive(Clone, Copy)]
struct Span {
    place: Option<Place>,
    /// Contiguous bytes from there on.
    len: u64,
    /// The entry of the list, if there is one.
    entry: Option<Entry>,
}

impl Side {
    /// Prepares an operand, if there is one. Reads the entries of a list from the cursor on.
    fn new(operand: Option<Operand>, cursor: Cursor, bus: &mut impl Bus) -> Result<Side> {
        Ok(match operand {
            None => Side::Range(None),
            Some(Operand::At(place)) => Side::Range(Some(place)),
            Some(Operand::List(list)) => {
                let mut window = [[0; ENTRY_SIZE]; WINDOW as usize];
                let first = cursor.entry;
                let count = WINDOW.min(list.entries.saturating_sub(first)) as usize;
                bus.entries(list.entry_at(first), window[..count].as_flattened_mut())?;
                Side::List {
                    list,
                    first,
                    window,
                }
            }
        })
    }

    /// Returns the next span after `done` bytes: the rest of the range or of the current entry.
    fn span(&self, cursor: Cursor, done: u64, check: impl Fn(Entry) -> Result) -> Result<Span> {
        match self {
            Side::Range(start) => Ok(Span {
                place: start.map(|start| start.plus(done)),
                len: u64::MAX,
                entry: None,
            }),
            Side::List {
                list,
                first,
                window,
            } => {
                // A unit has at most as many pieces as the window has entries.
                let bytes = window.get(cursor.entry.wrapping_sub(*first) as usize);
                let bytes = bytes.filter(|_| cursor.entry < list.entries);
                let entry = Entry::decode(bytes.ok_or(Error::BadList)?)?;
                check(entry)?;
                // Software may have shortened the entry since the job entered it.
                let left = entry.len.checked_sub(cursor.at).filter(|&left| left > 0);
                Ok(Span {
                    place: Some(entry.place.plus(cursor.at.into())),
                    len: left.ok_or(Error::BadList)?.into(),
                    entry: Some(entry),
                })
            }
        }
    }
}

impl Job {
    /// Processes `len` bytes.
    fn piece(
        &mut self,
        src: Option<Place>,
        dst: Option<Place>,
        len: usize,
        bus: &mut impl Bus,
    ) -> Result {
        match (self.desc.op, src, dst) {
            (Op::Copy, Some(src), Some(dst)) => bus.copy(src, dst, len)?,
            (Op::Fill, _, Some(dst)) => {
                // Rotate so that the next byte of `value` comes first.
                let phase = (self.done % 8) as u32;
                bus.fill(dst, self.desc.value.rotate_right(8 * phase), len)?;
            }
            (Op::Crc32c, Some(src), _) => self.crc = bus.crc32c(src, self.crc, len)?,
            _ => (),
        }
        self.done += len as u64;
        Ok(())
    }

    /// Does the next unit of a job without lists.
    ///
    /// A copy to a higher address that overlaps its source runs from the end to the beginning.
    fn advance_ranges(&mut self, bus: &mut impl Bus) -> Result {
        let desc = &self.desc;
        let left = desc.len - self.done;
        let len = left.min(UNIT as u64);

        let place = |operand| match operand {
            Some(Operand::At(place)) => Some(place),
            Some(Operand::List(_)) | None => None,
        };
        let (src, dst) = (place(desc.source()), place(desc.destination()));
        let overlaps = match (src, dst) {
            (Some(Place::Guest(src)), Some(Place::Guest(dst)))
            | (Some(Place::Device(src)), Some(Place::Device(dst))) => {
                src < dst && dst - src < desc.len
            }
            (
                Some(Place::Key { key, offset: src }),
                Some(Place::Key {
                    key: other,
                    offset: dst,
                }),
            ) => key == other && src < dst && dst - src < desc.len,
            _ => false,
        };
        let offset = if overlaps { left - len } else { self.done };
        let at = |place: Place| place.plus(offset);
        self.piece(src.map(at), dst.map(at), len as usize, bus)
    }

    /// Does the next unit of a job with a list. After an error, `done` counts the bytes before it.
    fn advance_lists(&mut self, memory_size: u64, bus: &mut impl Bus) -> Result {
        let desc = self.desc;
        let source = Side::new(desc.source(), self.src, bus)?;
        let destination = Side::new(desc.destination(), self.dst, bus)?;
        let end = desc.len.min(self.done + UNIT as u64);
        let check = |range, fault| {
            move |entry: Entry| {
                let len = entry.len.into();
                entry.place.check(len, memory_size, range, fault)
            }
        };
        let check_src = check(Error::SrcRange, Error::SrcFault);
        let check_dst = check(Error::DstRange, Error::DstFault);

        for _ in 0..WINDOW {
            let (done, room) = (self.done, end - self.done);
            if room == 0 {
                break;
            }
            let src = source.span(self.src, done, check_src)?;
            let dst = destination.span(self.dst, done, check_dst)?;
            let len = room.min(src.len).min(dst.len) as usize;

            self.piece(src.place, dst.place, len, bus)?;
            for (span, cursor) in [(src, &mut self.src), (dst, &mut self.dst)] {
                if let Some(entry) = span.entry {
                    cursor.advance(&entry, len);
                }
            }
        }
        Ok(())
    }
}

/// What a unit left of its job.
enum Rest {
    /// More.
    More,
    /// Nothing: this is the result.
    Done(u32),
}

impl Job {
    /// Does the next unit.
    fn advance(&mut self, memory_size: u64, bus: &mut impl Bus) -> Result<Rest> {
        match self.desc.op {
            Op::Register => {
                let progress = bus.register(&self.desc.registration());
                self.done = match progress {
                    Ok(Progress::More(done)) => done,
                    Ok(Progress::Done(_)) => self.desc.len,
                    Err(_) => 0,
                };
                return match progress? {
                    Progress::More(_) => Ok(Rest::More),
                    Progress::Done(key) => Ok(Rest::Done(key)),
                };
            }
            Op::Deregister => {
                let gone = bus.deregister(self.desc.value)?;
                return Ok(if gone { Rest::Done(0) } else { Rest::More });
            }
            _ if self.desc.has_list() => self.advance_lists(memory_size, bus)?,
            _ => self.advance_ranges(bus)?,
        }
        if self.done < self.desc.len {
            return Ok(Rest::More);
        }
        let crc = self.desc.op == Op::Crc32c;
        Ok(Rest::Done(if crc { !self.crc } else { 0 }))
    }

    /// Returns whether the operation moves data. Others have nothing to save between two units: they start
    /// over.
    pub fn moves_data(&self) -> bool {
        !matches!(self.desc.op, Op::Register | Op::Deregister)
    }
}

/// Does one unit of work.
pub fn run(ticket: &Ticket, bus: &mut impl Bus) -> Outcome {
    let mut outcome = Outcome {
        end: End::More,
        job: None,
        bytes: 0,
        record: None,
    };
    let mut job = match begin(ticket, bus) {
        Ok(job) => job,
        Err((error, cookie)) => {
            outcome.end = End::Failed(error);
            outcome.record = cookie.map(|cookie| record(ticket, cookie, error, 0, 0));
            return outcome;
        }
    };
    let before = job.done;
    let result = job.advance(ticket.memory_size, bus);
    if job.moves_data() {
        outcome.bytes = job.done - before;
    }
    let interrupt = job.desc.flags & INTERRUPT != 0;
    let (end, error, result) = match result {
        Ok(Rest::More) => {
            outcome.job = Some(job);
            return outcome;
        }
        Ok(Rest::Done(result)) => (End::Completed { interrupt }, Error::None, result),
        Err(error) => (End::Failed(error), error, 0),
    };
    outcome.end = end;
    outcome.record = Some(record(ticket, job.desc.cookie, error, result, job.done));
    outcome
}

/// Returns the job in flight, or fetches and checks the next one. An error comes with the cookie, if
/// the descriptor could be fetched. Without it there is no completion record.
fn begin(ticket: &Ticket, bus: &mut impl Bus) -> Result<Job, (Error, Option<u64>)> {
    let lost = |error| (error, None);

    bus.prepare(&ticket.ring).map_err(lost)?;
    if let Some(job) = ticket.job {
        return Ok(job);
    }
    let bytes = bus.fetch(&ticket.ring, ticket.index).map_err(lost)?;
    Descriptor::decode(&bytes)
        .and_then(|desc| {
            desc.check(ticket.memory_size)?;
            check_keys(&desc, |key, offset, write| {
                bus.check_key(key, offset, desc.len, write)
            })?;
            Ok(Job {
                desc,
                done: 0,
                crc: CRC_SEED,
                src: Cursor::default(),
                dst: Cursor::default(),
            })
        })
        .map_err(|error| (error, Some(Descriptor::cookie_of(&bytes))))
}

/// Calls `check` with key and offset of each side that is in registered memory, and whether the job writes
/// there.
pub(crate) fn check_keys(
    desc: &Descriptor,
    mut check: impl FnMut(u32, u64, bool) -> Result,
) -> Result {
    for (operand, write) in [(desc.source(), false), (desc.destination(), true)] {
        if let Some(Operand::At(Place::Key { key, offset })) = operand {
            check(key, offset, write)?;
        }
    }
    Ok(())
}

/// Makes a completion record.
fn record(ticket: &Ticket, cookie: u64, error: Error, result: u32, bytes: u64) -> Completion {
    Completion {
        cookie,
        error: error as u32,
        result,
        bytes,
        sequence: ticket.sequence,
    }
}
