// SPDX-License-Identifier: GPL-2.0

//! Parses, checks and applies a stream.
//!
//! ```text
//!   new()      device stopped, its memory reads 0
//!   feed()     bytes of the stream, in any pieces; writes device memory as it arrives
//!   finish()   after END was verified: applies the device's own state
//! ```
//!
//! The caller may cut the stream anywhere. The session parses a header once it is complete, and
//! checks all its fields before it uses a byte of the payload. The payload of MEMORY goes straight
//! to the device; the session collects all others.
//!
//! # Errors
//!
//! The first error is final: every later call returns it again (P26), until
//! [`LoadSession::restart`]. Transient errors ([`Error::is_transient`]) are the exception: out of
//! memory, or a task that is being killed. Such a call has consumed the beginning of its buffer:
//! [`Stats::bytes`] has grown by the number of bytes consumed. The caller can repeat the call with
//! the rest. A caller that cannot tell the user how many bytes were consumed calls
//! [`LoadSession::lose_position`].
//!
//! # A second stream
//!
//! A source that is reset, or whose save is aborted and restarted, sends another stream from the
//! beginning. Its first record is an IDENTITY with number 0 and START. It may follow any complete
//! record and replaces the stream before it, complete or not. Once its payload is accepted, the load
//! restarts: the session discards device memory and the counts of the earlier stream.

use crate::checksum::{crc_continue, crc_finish, CRC_SEED};
use crate::error::Error;
use crate::format::{
    Kind, END_SIZE, FLAG_AGAIN, FLAG_OPTIONAL, FLAG_START, FLAG_UNCHECKED, HEADER_SIZE,
    IDENTITY_SIZE, ZERO_SIZE,
};
use crate::identity::Identity;
use crate::limits::{check_flags, Limits};
use crate::part::{PartTable, Parts, SavedState};
use crate::record::Header;
use crate::state_codec::Reader;
use crate::totals::Totals;
use core::ops::DerefMut;

pub use crate::sink::{Sink, PIECE};

/// The counts of a load session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes of stream.
    pub bytes: u64,
    /// Complete records.
    pub records: u64,
    /// Bytes of device memory written.
    pub memory_bytes: u64,
    /// Records skipped because this version does not know their kind or part (P51).
    pub skipped: u64,
    /// Buffers received a second time (P23).
    pub repeated: u64,
    /// Streams that replaced an earlier one (P50).
    pub restarted: u64,
}

/// The record being received.
#[derive(Clone, Copy, Debug)]
struct Record {
    header: Header,
    /// `None` for an optional record of an unknown kind, or with an unknown part.
    kind: Option<Kind>,
    /// Bytes of payload received.
    done: u32,
    /// Running checksum of these bytes, if the payload has one.
    crc: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Receiving a header.
    Header { got: usize },
    /// Receiving a payload.
    Payload(Record),
    /// END was verified and nothing followed it.
    Complete,
    /// The device's state was applied.
    Committed,
    /// The session failed.
    Failed(Error),
}

/// Size in bytes of the largest payload that is collected outside the session's buffer.
const SMALL: usize = IDENTITY_SIZE;
const _: () = assert!(END_SIZE <= SMALL && ZERO_SIZE <= SMALL && HEADER_SIZE <= SMALL);

/// The destination's side of one migration.
///
/// `B` is memory for the device's own state: at least [`Identity::state_size_max`] bytes and
/// [`PartTable::buffer_size`].
#[derive(Debug)]
pub struct LoadSession<B> {
    identity: Identity,
    parts: PartTable,
    /// Skips parts that it does not know, also mandatory ones.
    any_parts: bool,
    /// The oldest version of the device whose state is accepted.
    oldest: u32,
    /// The version of the device in the stream.
    version: u32,
    buffer: B,
    phase: Phase,
    /// Incomplete headers and small payloads.
    small: [u8; SMALL],
    totals: Totals,
    /// The totals before the last START record, and its header without AGAIN.
    start: Option<(Totals, Header)>,
    /// END was verified. Only another stream may follow.
    ended: bool,
    /// Part of a buffer is lost: the next record must begin a buffer.
    position_lost: bool,
    stats: Stats,
}

/// The caller's buffer; its first `at` bytes are consumed.
struct Input<'a, S: Sink + ?Sized> {
    sink: &'a S,
    buf: &'a S::In,
    at: usize,
    len: usize,
}

impl<S: Sink + ?Sized> Input<'_, S> {
    fn left(&self) -> usize {
        self.len.saturating_sub(self.at)
    }

    fn get(&mut self, buf: &mut [u8]) -> Result<(), Error> {
        self.sink
            .get(self.buf, self.at, buf)
            .map_err(|errno| Error::access("reading the stream", errno))?;
        self.at = self.at.saturating_add(buf.len());
        Ok(())
    }

    /// Fills `to` from offset `got` on, as far as the input goes. Returns the new bytes.
    fn collect<'b>(&mut self, to: &'b mut [u8], got: usize) -> Result<&'b [u8], Error> {
        let rest = to.get_mut(got..).unwrap_or_default();
        let count = rest.len().min(self.left());
        let part = rest.get_mut(..count).unwrap_or_default();
        self.get(part)?;
        Ok(part)
    }
}

impl<B: DerefMut<Target = [u8]>> LoadSession<B> {
    /// Opens a session for a stopped device of this identity, whose memory reads 0. `buffer` receives
    /// the device's state. [`Error::Geometry`] if `identity` is invalid, [`Error::Space`] if `buffer`
    /// is too small.
    pub fn new(identity: Identity, buffer: B) -> Result<Self, Error> {
        identity.validate()?;
        if buffer.len() < identity.state_size_max as usize {
            return Err(Error::Space {
                needed: u64::from(identity.state_size_max),
                available: buffer.len() as u64,
            });
        }
        Ok(LoadSession {
            identity,
            parts: PartTable::EMPTY,
            any_parts: false,
            oldest: identity.device_version,
            version: identity.device_version,
            buffer,
            phase: Phase::Header { got: 0 },
            small: [0; SMALL],
            totals: Totals::new(),
            start: None,
            ended: false,
            position_lost: false,
            stats: Stats::default(),
        })
    }

    /// Accepts the state of older versions of the device too, from `oldest` on.
    #[must_use]
    pub fn since(mut self, oldest: u32) -> Self {
        self.oldest = oldest;
        self
    }

    /// Accepts these parts. [`Error::Space`] if the buffer is too small for them.
    pub fn with_parts(mut self, parts: PartTable) -> Result<Self, Error> {
        self.parts = parts;
        let needed = (self.identity.state_size_max as usize).saturating_add(parts.buffer_size());
        if self.buffer.len() < needed {
            return Err(Error::Space {
                needed: needed as u64,
                available: self.buffer.len() as u64,
            });
        }
        self.forget();
        Ok(self)
    }

    /// Skips all parts that it does not know, for a reader that only looks.
    #[must_use]
    pub fn with_any_parts(mut self) -> Self {
        self.any_parts = true;
        self
    }

    /// Restarts the load, even after an error. The caller must discard device memory.
    pub fn restart(&mut self) {
        self.forget();
        self.phase = Phase::Header { got: 0 };
    }

    /// Forgets the current stream.
    fn forget(&mut self) {
        self.totals = Totals::new();
        self.start = None;
        self.ended = false;
        self.position_lost = false;
        let parts = self.parts;
        parts.clear(self.part_buffer());
    }

    /// Returns the part of the buffer that holds the parts.
    fn part_buffer(&mut self) -> &mut [u8] {
        let from = self.identity.state_size_max as usize;
        self.buffer.get_mut(from..).unwrap_or_default()
    }

    /// Tells the session that the user does not know how much of the buffer [`LoadSession::feed`]
    /// consumed before a transient error. The session forgets the incomplete record. The next byte
    /// must begin a buffer: the same one again, or the first one of a stream.
    pub fn lose_position(&mut self) {
        if matches!(self.phase, Phase::Header { .. } | Phase::Payload(_)) {
            self.phase = Phase::Header { got: 0 };
            self.position_lost = true;
        }
    }

    /// Returns whether [`LoadSession::restart`] discards nothing useful: the session failed, or part
    /// of a buffer is lost.
    pub fn is_broken(&self) -> bool {
        self.position_lost || self.error().is_some()
    }

    /// Returns whether END was verified, so that [`LoadSession::finish`] can succeed.
    pub fn is_complete(&self) -> bool {
        matches!(self.phase, Phase::Complete)
    }

    /// Returns the error that ended the session, if one did.
    pub fn error(&self) -> Option<Error> {
        match self.phase {
            Phase::Failed(error) => Some(error),
            _ => None,
        }
    }

    /// Returns what was received so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Consumes the next `len` bytes of the stream, from the start of `input`.
    ///
    /// After a transient error ([`Error::is_transient`]), [`Stats::bytes`] has grown by the number of
    /// bytes consumed, and the caller may repeat the call with the rest. Any other error ends the
    /// session.
    pub fn feed<S: Sink + ?Sized>(
        &mut self,
        sink: &S,
        input: &S::In,
        len: usize,
    ) -> Result<(), Error> {
        let mut input = Input {
            sink,
            buf: input,
            at: 0,
            len,
        };
        let result = self.take(&mut input);
        self.stats.bytes = self.stats.bytes.saturating_add(input.at as u64);
        self.keep(result)
    }

    /// Applies the loaded state. [`Error::Incomplete`] unless END was verified, [`Error::AfterEnd`] if
    /// it was applied already, [`Error::Device`] if the device failed.
    pub fn finish<S: Sink + ?Sized>(&mut self, sink: &S) -> Result<(), Error> {
        let result = self.commit(sink);
        self.keep(result)
    }

    /// Remembers an error unless it is transient.
    fn keep(&mut self, result: Result<(), Error>) -> Result<(), Error> {
        match result {
            Err(error) if !error.is_transient() => self.phase = Phase::Failed(error),
            _ => {}
        }
        result
    }

    fn commit<S: Sink + ?Sized>(&mut self, sink: &S) -> Result<(), Error> {
        match self.phase {
            Phase::Complete => {}
            Phase::Failed(error) => return Err(error),
            Phase::Committed => return Err(Error::AfterEnd),
            Phase::Header { .. } | Phase::Payload(_) => {
                return Err(Error::Incomplete {
                    sequence: self.totals.records,
                })
            }
        }
        sink.commit_state(&self.state())
            .map_err(|errno| Error::device("restoring the device state", errno))?;
        self.phase = Phase::Committed;
        Ok(())
    }

    /// Returns the device's state as far as it has arrived.
    fn state(&self) -> SavedState<'_> {
        let len = usize::try_from(self.totals.state_bytes).unwrap_or(usize::MAX);
        let parts = self.buffer.get(self.identity.state_size_max as usize..);
        SavedState {
            version: self.version,
            bytes: self.buffer.get(..len).unwrap_or_default(),
            parts: Parts::new(self.parts, parts.unwrap_or_default()),
        }
    }

    fn take<S: Sink + ?Sized>(&mut self, input: &mut Input<'_, S>) -> Result<(), Error> {
        while input.left() > 0 {
            if input.sink.interrupted() {
                return Err(Error::Interrupted);
            }
            let at = input.at;
            match self.step(input) {
                Ok(phase) => self.phase = phase,
                Err(error) => {
                    // The next call repeats this step with the same bytes.
                    if error.is_transient() {
                        input.at = at;
                    }
                    return Err(error);
                }
            }
        }
        match self.phase {
            Phase::Failed(error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Consumes a part of the input, which is not empty. Returns the next phase; an error keeps the
    /// current one.
    fn step<S: Sink + ?Sized>(&mut self, input: &mut Input<'_, S>) -> Result<Phase, Error> {
        let phase = match self.phase {
            Phase::Failed(error) => return Err(error),
            Phase::Committed => return Err(Error::AfterEnd),
            Phase::Complete => self.header(input, 0)?,
            Phase::Header { got } => self.header(input, got)?,
            Phase::Payload(record) => self.payload(input, record)?,
        };
        match phase {
            // Includes an empty payload, which needs no input.
            Phase::Payload(record) if record.done == record.header.length => {
                self.record(input.sink, record)
            }
            phase => Ok(phase),
        }
    }

    fn header<S: Sink + ?Sized>(
        &mut self,
        input: &mut Input<'_, S>,
        got: usize,
    ) -> Result<Phase, Error> {
        let header = self.small.get_mut(..HEADER_SIZE).unwrap_or_default();
        let got = got.saturating_add(input.collect(header, got)?.len());
        if got < HEADER_SIZE {
            return Ok(Phase::Header { got });
        }
        let bytes = self.small.first_chunk().ok_or(Error::Overflow)?;
        let header = Header::decode::<S>(bytes, self.totals.records);
        if self.start.is_none() && !header.is_ok_and(|h| h.kind == Kind::Identity as u16) {
            return Err(Error::Foreign);
        }
        if self.ended && !header.is_ok_and(|h| begins_stream(&h)) {
            return Err(Error::AfterEnd);
        }
        self.accept(header?).map(Phase::Payload)
    }

    /// Checks all fields of a header.
    fn accept(&mut self, header: Header) -> Result<Record, Error> {
        let sequence = header.sequence;
        let flag = |flag: u16| header.flags & flag != 0;
        check_flags(&header)?;
        let expected = self.totals.records;
        let first_time = header.without_again();
        // Exactly the same record: the same number alone is not enough.
        let same = self.start.is_some_and(|(_, first)| first == first_time);
        let repeated = same && (flag(FLAG_AGAIN) || self.position_lost) && sequence != expected;
        if !begins_stream(&header) {
            match self.start {
                Some((start, _)) if repeated => self.totals = start,
                _ if sequence != expected => {
                    return Err(Error::Sequence {
                        expected,
                        found: sequence,
                    })
                }
                _ => {}
            }
        }
        let kind = match Kind::from_u16(header.kind) {
            Some(Kind::Part) if self.parts.index(header.position).is_none() => {
                if !flag(FLAG_OPTIONAL) && !self.any_parts {
                    return Err(Error::UnknownPart {
                        sequence,
                        number: header.position,
                    });
                }
                None
            }
            kind => kind,
        };
        match kind {
            Some(kind) => self.limits().check(&header, kind)?,
            None if flag(FLAG_OPTIONAL) || header.kind == Kind::Part as u16 => {}
            None => {
                let kind = header.kind;
                return Err(Error::UnknownKind { sequence, kind });
            }
        }
        // A second stream replaces the first only once its identity is accepted.
        if self.start.is_none() || (flag(FLAG_START) && !begins_stream(&header)) {
            self.start = Some((self.totals, first_time));
        }
        if repeated {
            self.stats.repeated = self.stats.repeated.saturating_add(1);
        }
        self.position_lost = false;
        Ok(Record {
            header,
            kind,
            done: 0,
            crc: (!flag(FLAG_UNCHECKED)).then_some(CRC_SEED),
        })
    }

    /// Returns what the fields of a record may be.
    fn limits(&self) -> Limits<'_> {
        Limits {
            identity: &self.identity,
            parts: self.parts,
            state_bytes: self.totals.state_bytes,
        }
    }

    /// Consumes as much of the payload as the input has.
    fn payload<S: Sink + ?Sized>(
        &mut self,
        input: &mut Input<'_, S>,
        record: Record,
    ) -> Result<Phase, Error> {
        let Record { header, kind, .. } = record;
        let missing = header.length.saturating_sub(record.done);
        let count = input.left().min(missing as usize).min(PIECE);
        let (count, crc) = match kind {
            Some(Kind::Memory) => {
                let position = header.position.saturating_add(u64::from(record.done));
                let crc = input
                    .sink
                    .copy_memory(input.buf, input.at, position, count, record.crc)
                    .map_err(|errno| Error::access("writing device memory", errno))?;
                input.at = input.at.saturating_add(count);
                self.stats.memory_bytes = self.stats.memory_bytes.saturating_add(count as u64);
                (count, crc)
            }
            Some(Kind::Device) => {
                let first = usize::try_from(header.position)
                    .ok()
                    .and_then(|at| at.checked_add(record.done as usize))
                    .ok_or(Error::Overflow)?;
                let end = first.checked_add(count).ok_or(Error::Overflow)?;
                let part = self.buffer.get_mut(first..end).ok_or(Error::Overflow)?;
                input.get(part)?;
                (count, crc_continue::<S>(record.crc, part))
            }
            Some(Kind::Part) => {
                let table = self.parts;
                let index = table.index(header.position).ok_or(Error::Overflow)?;
                let from = record.done as usize;
                let part = table.piece(self.part_buffer(), index, from, count)?;
                input.get(part)?;
                (count, crc_continue::<S>(record.crc, part))
            }
            Some(Kind::Identity | Kind::Zero | Kind::End) | None => {
                // Bytes that exceed `small` only count for the checksum.
                let known = kind.is_some();
                let at = if known { record.done as usize } else { 0 };
                let mut skip = [0; SMALL];
                let to = match self.small.get_mut(at..) {
                    Some(to) if !to.is_empty() => to,
                    _ => skip.as_mut_slice(),
                };
                let count = count.min(to.len());
                let part = to.get_mut(..count).unwrap_or_default();
                input.get(part)?;
                (count, crc_continue::<S>(record.crc, part))
            }
        };
        // `count` is at most `missing`, so neither sum overflows.
        let done = record.done.saturating_add(count as u32);
        Ok(Phase::Payload(Record {
            done,
            crc,
            ..record
        }))
    }

    /// Applies a record whose payload is complete.
    fn record<S: Sink + ?Sized>(&mut self, sink: &S, record: Record) -> Result<Phase, Error> {
        let Record { header, kind, .. } = record;
        let computed = record.crc.map_or(0, crc_finish);
        if header.payload_crc != computed {
            return Err(Error::PayloadChecksum {
                sequence: header.sequence,
                stored: header.payload_crc,
                computed,
            });
        }
        sink.admit()
            .map_err(|errno| Error::device("applying a record", errno))?;
        let length = u64::from(header.length);
        let small = self.small;
        let payload = small
            .get(..SMALL.min(header.length as usize))
            .unwrap_or_default();
        let mut extent = length;
        let mut next = Phase::Header { got: 0 };
        match kind {
            Some(Kind::Identity) => {
                let found = Identity::decode(payload, header.length)?;
                self.identity.accept_since(self.oldest, &found)?;
                if self.totals.records != 0 {
                    self.stats.restarted = self.stats.restarted.saturating_add(1);
                }
                self.version = found.device_version;
                // Forget the earlier stream first, so that it cannot continue if discarding fails.
                self.forget();
                sink.discard()
                    .map_err(|errno| Error::device("discarding device memory", errno))?;
                self.start = Some((self.totals, header.without_again()));
            }
            Some(Kind::Zero) => {
                extent = Reader::new(payload).get_u64()?;
                self.limits()
                    .check_memory(Kind::Zero, header.position, extent)?;
                sink.zero_memory(header.position, extent)
                    .map_err(|errno| Error::device("clearing device memory", errno))?;
            }
            Some(Kind::End) => {
                self.totals.accept(payload)?;
                sink.check_state(&self.state())
                    .map_err(|errno| Error::device("checking the device state", errno))?;
                self.ended = true;
                next = Phase::Complete;
            }
            Some(Kind::Memory | Kind::Device) => {}
            Some(Kind::Part) => {
                let table = self.parts;
                let index = table.index(header.position).ok_or(Error::Overflow)?;
                table.complete(self.part_buffer(), index, header.length)?;
            }
            None => self.stats.skipped = self.stats.skipped.saturating_add(1),
        }
        self.totals = self.totals.with::<S>(&header, extent)?;
        self.stats.records = self.stats.records.saturating_add(1);
        sink.loaded(&header, extent);
        Ok(next)
    }
}

/// Returns whether a record begins a stream, at any position.
fn begins_stream(header: &Header) -> bool {
    header.kind == Kind::Identity as u16 && header.sequence == 0 && header.flags & FLAG_START != 0
}
