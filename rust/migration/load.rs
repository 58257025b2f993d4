// SPDX-License-Identifier: GPL-2.0

//! Parse, validate, then apply.
//!
//! ```text
//!   new()      the device is stopped, its memory reads 0
//!   feed()     bytes of the stream, in any pieces; memory is written as it arrives
//!   finish()   END was verified: the device's own state takes effect
//! ```
//!
//! Records may be cut anywhere. A header is looked at when it is complete; what it says is checked
//! before a byte of its payload is used. The payload of MEMORY goes straight to the device, all
//! others are gathered.
//!
//! # Errors
//!
//! The first error is final: every later call gives the same one (P26), until
//! [`LoadSession::restart`]. The exceptions are errors that say nothing about the stream
//! ([`Error::is_passing`]): no memory, or a caller who is being killed. Such a call has taken the
//! first so many bytes of its buffer, by which [`Stats::bytes`] has grown, and not the others. It can
//! be repeated with the others. A caller who cannot tell his user how many bytes were taken calls
//! [`LoadSession::lose_place`].
//!
//! # A stream may begin anew
//!
//! A source that is reset, or whose save is given up and begun again, sends another stream from its
//! beginning. Its first record is an IDENTITY with number 0 and START. Where a record may begin, it
//! ends the stream before it, be that complete or not, and the load begins afresh: device memory is
//! discarded and nothing of the earlier stream counts. This happens when the payload of the IDENTITY
//! is accepted.

use crate::stream::{
    crc_finish, Checksum, Error, Header, Identity, Kind, Totals, CRC_SEED, END_SIZE, FLAGS,
    FLAG_AGAIN, FLAG_OPTIONAL, FLAG_START, HEADER_SIZE, IDENTITY_SIZE, ZERO_SIZE,
};
use core::ops::DerefMut;

/// The device a load writes. Errors are errnos of either sign.
pub trait Sink: Checksum {
    /// The buffer the stream arrives in. Its owner may change it at any time, so each byte of it is
    /// read once.
    type In: ?Sized;

    /// Copies bytes from `input`, from its byte `at` on.
    fn get(&self, input: &Self::In, at: usize, buf: &mut [u8]) -> Result<(), i32>;

    /// Copies `len` bytes from `input`, from its byte `at` on, to device memory from byte
    /// `position` on, and continues `crc` ([`Checksum`]) over the bytes as they were stored.
    /// Neither `position` nor `len` is aligned; the range lies in device memory.
    fn copy_memory(
        &self,
        input: &Self::In,
        at: usize,
        position: u64,
        len: usize,
        crc: u32,
    ) -> Result<u32, i32>;

    /// Makes `len` bytes of device memory from byte `position` on read 0. Both are whole pages.
    ///
    /// A record of 40 bytes asks for this, so what it costs must not depend on `len`: only pages that
    /// were written before may cost something, and each of them once.
    fn zero_memory(&self, position: u64, len: u64) -> Result<(), i32>;

    /// Makes all of device memory read 0. The rule of [`Sink::zero_memory`] is this one's, too.
    fn discard(&self) -> Result<(), i32>;

    /// Whether the caller is being killed. Asked once a record, and once a [`PIECE`] of payload.
    fn interrupted(&self) -> bool;

    /// Checks the device's own state, all of it, and changes nothing.
    fn check_state(&self, state: &[u8]) -> Result<(), i32>;

    /// Makes a state that [`Sink::check_state`] accepted the state of the device.
    fn commit_state(&self, state: &[u8]) -> Result<(), i32>;
}

/// What a session has received so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes of stream.
    pub bytes: u64,
    /// Complete records.
    pub records: u64,
    /// Bytes of device memory written.
    pub memory_bytes: u64,
    /// Records skipped, as this version does not know them (P51).
    pub skipped: u64,
    /// Buffers received a second time (P23).
    pub repeated: u64,
    /// Streams that began after another (P50).
    pub restarted: u64,
}

/// The record being received.
#[derive(Clone, Copy, Debug)]
struct Record {
    header: Header,
    /// `None`: an optional record of an unknown kind.
    kind: Option<Kind>,
    /// Bytes of payload received.
    done: u32,
    /// Running checksum of them.
    crc: u32,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Gathering a header.
    Header { got: usize },
    /// Receiving a payload.
    Payload(Record),
    /// END was verified, and nothing came after it.
    Complete,
    /// The state took effect.
    Committed,
    /// Refused.
    Failed(Error),
}

/// Bytes of payload taken before [`Sink::interrupted`] is asked again.
pub const PIECE: usize = 1 << 20;
/// Size of the largest payload that is gathered outside the session's buffer.
const SMALL: usize = IDENTITY_SIZE;
const _: () = assert!(END_SIZE <= SMALL && ZERO_SIZE <= SMALL && HEADER_SIZE <= SMALL);

/// The destination's side of one migration.
///
/// `B` is memory for the device's own state, at least [`Identity::state_size_max`] bytes.
#[derive(Debug)]
pub struct LoadSession<B> {
    identity: Identity,
    buffer: B,
    phase: Phase,
    /// Headers and small payloads, while they are incomplete.
    small: [u8; SMALL],
    totals: Totals,
    /// The totals when the last START record arrived, and its header without AGAIN.
    start: Option<(Totals, Header)>,
    /// END was verified. What comes after it begins another stream.
    ended: bool,
    /// Part of a buffer is lost: what comes next begins a buffer.
    adrift: bool,
    stats: Stats,
}

/// The part of a caller's buffer that is not yet used.
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
            .map_err(|errno| Error::device("reading the stream", errno))?;
        self.at = self.at.saturating_add(buf.len());
        Ok(())
    }

    /// Fills `to` from its byte `got` on, as far as the input goes. Gives the bytes that are new.
    fn gather<'b>(&mut self, to: &'b mut [u8], got: usize) -> Result<&'b [u8], Error> {
        let rest = to.get_mut(got..).unwrap_or_default();
        let count = rest.len().min(self.left());
        let part = rest.get_mut(..count).unwrap_or_default();
        self.get(part)?;
        Ok(part)
    }
}

impl<B: DerefMut<Target = [u8]>> LoadSession<B> {
    /// Opens a session for a device of this identity. `buffer` takes the device's state.
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
            buffer,
            phase: Phase::Header { got: 0 },
            small: [0; SMALL],
            totals: Totals::new(),
            start: None,
            ended: false,
            adrift: false,
            stats: Stats::default(),
        })
    }

    /// Begins afresh, whatever came before. The caller discards device memory.
    pub fn restart(&mut self) {
        self.begin();
        self.phase = Phase::Header { got: 0 };
    }

    /// Forgets the stream that was being received.
    fn begin(&mut self) {
        self.totals = Totals::new();
        self.start = None;
        self.ended = false;
        self.adrift = false;
    }

    /// The user does not know how much of the buffer was taken that [`LoadSession::feed`] refused with
    /// a passing error. The record that is incomplete is forgotten, and what comes next must be the
    /// beginning of a buffer: of the same one again, or of the first one of a stream.
    pub fn lose_place(&mut self) {
        if matches!(self.phase, Phase::Header { .. } | Phase::Payload(_)) {
            self.phase = Phase::Header { got: 0 };
            self.adrift = true;
        }
    }

    /// Whether [`LoadSession::restart`] drops nothing of use: the stream was refused, or part of a
    /// buffer is lost.
    pub fn is_broken(&self) -> bool {
        self.adrift || self.error().is_some()
    }

    /// Whether END was verified, so that [`LoadSession::finish`] may succeed.
    pub fn is_complete(&self) -> bool {
        matches!(self.phase, Phase::Complete)
    }

    /// The error that ended the session, if one did.
    pub fn error(&self) -> Option<Error> {
        match self.phase {
            Phase::Failed(error) => Some(error),
            _ => None,
        }
    }

    /// What was received so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Takes the next `len` bytes of the stream.
    ///
    /// After a passing error ([`Error::is_passing`]) the call may be repeated with the bytes that were
    /// not taken. [`Stats::bytes`] has grown by the number of those that were.
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

    /// Makes the loaded state take effect. Refused unless END was verified.
    pub fn finish<S: Sink + ?Sized>(&mut self, sink: &S) -> Result<(), Error> {
        let result = self.commit(sink);
        self.keep(result)
    }

    /// Remembers an error, unless it passes.
    fn keep(&mut self, result: Result<(), Error>) -> Result<(), Error> {
        match result {
            Err(error) if !error.is_passing() => self.phase = Phase::Failed(error),
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
        sink.commit_state(self.state())
            .map_err(|errno| Error::device("restoring the device state", errno))?;
        self.phase = Phase::Committed;
        Ok(())
    }

    /// The device's state, as far as it has arrived.
    fn state(&self) -> &[u8] {
        let len = usize::try_from(self.totals.state_bytes).unwrap_or(usize::MAX);
        self.buffer.get(..len).unwrap_or_default()
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
                    // What a step took is taken again when it is repeated.
                    if error.is_passing() {
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

    /// Takes a part of the input that is not empty. Gives the phase after it; if it fails, the phase is
    /// what it was.
    fn step<S: Sink + ?Sized>(&mut self, input: &mut Input<'_, S>) -> Result<Phase, Error> {
        let phase = match self.phase {
            Phase::Failed(error) => return Err(error),
            Phase::Committed => return Err(Error::AfterEnd),
            Phase::Complete => self.header(input, 0)?,
            Phase::Header { got } => self.header(input, got)?,
            Phase::Payload(record) => self.payload(input, record)?,
        };
        match phase {
            // Also if the payload has no bytes: then it needs no input.
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
        let got = got.saturating_add(input.gather(header, got)?.len());
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

    /// Checks everything a header says.
    fn accept(&mut self, header: Header) -> Result<Record, Error> {
        let sequence = header.sequence;
        let flag = |flag: u16| header.flags & flag != 0;
        if flag(!FLAGS) || (flag(FLAG_AGAIN) && !flag(FLAG_START)) {
            return Err(Error::Flags {
                sequence,
                found: header.flags,
            });
        }
        let expected = self.totals.records;
        let first_time = Header {
            flags: header.flags & !FLAG_AGAIN,
            ..header
        };
        // The same record and no other: one that only has its number is out of place.
        let same = self.start.is_some_and(|(_, first)| first == first_time);
        let repeated = same && (flag(FLAG_AGAIN) || self.adrift) && sequence != expected;
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
        let kind = Kind::from_u16(header.kind);
        match kind {
            Some(kind) => self.accept_known(&header, kind)?,
            None if flag(FLAG_OPTIONAL) => {}
            None => {
                return Err(Error::UnknownKind {
                    sequence,
                    kind: header.kind,
                })
            }
        }
        // A stream that begins anew takes the place of the other when its identity was accepted.
        if self.start.is_none() || (flag(FLAG_START) && !begins_stream(&header)) {
            self.start = Some((self.totals, first_time));
        }
        if repeated {
            self.stats.repeated = self.stats.repeated.saturating_add(1);
        }
        self.adrift = false;
        Ok(Record {
            header,
            kind,
            done: 0,
            crc: CRC_SEED,
        })
    }

    fn accept_known(&self, header: &Header, kind: Kind) -> Result<(), Error> {
        let position = header.position;
        let length = u64::from(header.length);
        match kind {
            Kind::Identity if header.sequence != 0 => {
                return Err(Error::DuplicateIdentity {
                    sequence: header.sequence,
                })
            }
            // IDENTITY of another version may have another length: the version is told apart first.
            Kind::Identity => {}
            Kind::Memory => self.accept_memory(kind, position, length)?,
            Kind::Zero if length != ZERO_SIZE as u64 => {
                return Err(Error::Length {
                    kind,
                    found: length,
                })
            }
            Kind::Zero => {}
            Kind::Device => self.accept_device(position, length)?,
            Kind::End if length != END_SIZE as u64 => {
                return Err(Error::Length {
                    kind,
                    found: length,
                })
            }
            Kind::End => {}
        }
        if matches!(kind, Kind::Identity | Kind::End) && position != 0 {
            return Err(Error::Reserved {
                kind,
                found: position,
            });
        }
        Ok(())
    }

    fn accept_memory(&self, kind: Kind, position: u64, length: u64) -> Result<(), Error> {
        if length == 0 {
            return Err(Error::Length {
                kind,
                found: length,
            });
        }
        let below_page = u64::from(self.identity.page_size).saturating_sub(1);
        if (position | length) & below_page != 0 {
            return Err(Error::Misaligned { position, length });
        }
        in_range(kind, position, length, self.identity.memory_size)
    }

    fn accept_device(&self, position: u64, length: u64) -> Result<(), Error> {
        let kind = Kind::Device;
        if length == 0 {
            return Err(Error::Length {
                kind,
                found: length,
            });
        }
        if position != self.totals.state_bytes {
            return Err(Error::StateOrder {
                expected: self.totals.state_bytes,
                found: position,
            });
        }
        let limit = u64::from(self.identity.state_size_max);
        in_range(kind, position, length, limit)
    }

    /// Takes as much of a payload as the input has.
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
                    .map_err(|errno| Error::device("writing device memory", errno))?;
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
                (count, S::crc32c(record.crc, part))
            }
            Some(Kind::Identity | Kind::Zero | Kind::End) | None => {
                // What goes beyond `small` is not looked at, but its checksum is.
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
                (count, S::crc32c(record.crc, part))
            }
        };
        // At most `missing`, so neither is too large.
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
        let computed = crc_finish(record.crc);
        if header.payload_crc != computed {
            return Err(Error::PayloadChecksum {
                sequence: header.sequence,
                stored: header.payload_crc,
                computed,
            });
        }
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
                self.identity.accept(&found)?;
                if self.totals.records != 0 {
                    self.stats.restarted = self.stats.restarted.saturating_add(1);
                }
                // First of all, so that nobody goes on with the earlier stream if discarding fails.
                self.begin();
                sink.discard()
                    .map_err(|errno| Error::device("discarding device memory", errno))?;
                let first_time = Header {
                    flags: header.flags & !FLAG_AGAIN,
                    ..header
                };
                self.start = Some((self.totals, first_time));
            }
            Some(Kind::Zero) => {
                extent = crate::stream::Reader::new(payload).get_u64()?;
                self.accept_memory(Kind::Zero, header.position, extent)?;
                sink.zero_memory(header.position, extent)
                    .map_err(|errno| Error::device("clearing device memory", errno))?;
            }
            Some(Kind::End) => {
                self.totals.accept(payload)?;
                sink.check_state(self.state())
                    .map_err(|errno| Error::device("checking the device state", errno))?;
                self.ended = true;
                next = Phase::Complete;
            }
            Some(Kind::Memory | Kind::Device) => {}
            None => self.stats.skipped = self.stats.skipped.saturating_add(1),
        }
        self.totals = self.totals.with::<S>(&header, extent)?;
        self.stats.records = self.stats.records.saturating_add(1);
        Ok(next)
    }
}

/// Whether a record begins a stream, wherever it comes.
fn begins_stream(header: &Header) -> bool {
    header.kind == Kind::Identity as u16 && header.sequence == 0 && header.flags & FLAG_START != 0
}

fn in_range(kind: Kind, position: u64, length: u64, limit: u64) -> Result<(), Error> {
    match position.checked_add(length) {
        Some(end) if end <= limit => Ok(()),
        _ => Err(Error::Range {
            kind,
            position,
            length,
            limit,
        }),
    }
}
