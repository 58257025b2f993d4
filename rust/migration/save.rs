// SPDX-License-Identifier: GPL-2.0

//! What to send next.
//!
//! ```text
//!   begin()   device running or stopped: marks every populated page dirty
//!     fill()    IDENTITY, PART ..., then dirty memory: MEMORY, ZERO ...    0 when nothing is dirty
//!   stop()    device stopped
//!     fill()    PART ..., the rest of dirty memory, DEVICE ..., END        0 after END
//! ```
//!
//! [`SaveSession::fill`] writes one buffer of whole records. It walks device memory upwards from page
//! 0; one walk is a *pass*. Only dirty pages cost anything. If the device is stopped from the start,
//! one pass sends everything.

use crate::checksum::{crc_finish, CRC_SEED};
use crate::dirty::{DirtyCount, Run};
use crate::error::Error;
use crate::format::{Kind, END_SIZE, FLAG_AGAIN, FLAG_OPTIONAL, HEADER_SIZE, IDENTITY_SIZE};
use crate::identity::Identity;
use crate::part::{Changes, PartTable};
use crate::pending_parts::PendingParts;
use crate::record_writer::{Output, RecordWriter};
use crate::size::{control_bytes, memory_bytes, state_bytes, unread_state};
use core::ops::DerefMut;

pub use crate::record_writer::{PhaseStats, Stats};
pub use crate::size::{estimate, min_output};
pub use crate::source::Source;

/// The largest DEVICE payload in bytes: the length must fit its field.
const RECORD_MAX: u64 = 1 << 30;
/// The largest MEMORY payload in bytes, unless a page is larger. If a copy fails, so much of it is repeated.
const MEMORY_MAX: u64 = 1 << 20;
/// The smallest piece of the device's state, in bytes, that a buffer with other records gets.
const PIECE_MIN: usize = 64;
/// Pages between two calls of [`Source::interrupted`] in [`SaveSession::begin`].
const STRIDE: u64 = 1 << 15;

/// What pre-copy still has to send: the fields of `struct vfio_precopy_info` (P45).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrecopyInfo {
    /// Bytes not yet sent for the first time.
    pub initial_bytes: u64,
    /// Bytes to send again.
    pub dirty_bytes: u64,
    /// Whether the initial bytes started over: `VFIO_PRECOPY_INFO_REINIT`.
    pub reinit: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DeviceState {
    /// [`Source::save_state`] was not called yet.
    Unread,
    /// Records hold `sent` of `len` bytes.
    Partly { len: usize, sent: usize },
    /// END was written.
    Ended,
}

/// The source's side of one migration.
///
/// `B` is memory for the device's own state: at least [`Identity::state_size_max`] bytes, and at least as
/// many as the largest part has.
#[derive(Debug)]
pub struct SaveSession<B> {
    identity: Identity,
    parts: PendingParts,
    buffer: B,
    /// The page at which the pass continues.
    cursor: u64,
    /// The pages that this pass has sent.
    moved: u64,
    /// Whether the device was told that this pass begins.
    announced: bool,
    /// Whether this is the first pass.
    initial: bool,
    state: DeviceState,
    writer: RecordWriter,
    /// Whether memory has a checksum.
    checked: bool,
}

/// Marks all populated pages dirty.
fn mark_populated<S: Source + ?Sized>(identity: &Identity, src: &S) -> Result<(), Error> {
    let pages = identity.pages();
    let mut from = 0;
    while from < pages {
        if src.interrupted() {
            return Err(Error::Interrupted);
        }
        let end = from.saturating_add(STRIDE).min(pages);
        while let Some(run) = within(from, end).and_then(|rest| src.populated(rest)) {
            // A run that does not advance would loop endlessly.
            if run.count == 0 || run.first < from {
                break;
            }
            src.dirty().mark_range(run.first, run.count);
            from = run.end();
        }
        from = end;
    }
    Ok(())
}

/// Returns the run `[first, end)`, or `None` if it is empty.
fn within(first: u64, end: u64) -> Option<Run> {
    match end.checked_sub(first) {
        None | Some(0) => None,
        Some(count) => Some(Run { first, count }),
    }
}

impl<B: DerefMut<Target = [u8]>> SaveSession<B> {
    /// Opens a session and marks every populated page dirty.
    ///
    /// The caller has cleared the dirty map, and writes already mark pages. `buffer` receives the
    /// device's state. [`Error::Geometry`] if `identity` is invalid or does not match the dirty map,
    /// [`Error::Space`] if `buffer` is too small, [`Error::Interrupted`] if the task is being killed.
    pub fn begin<S: Source + ?Sized>(
        identity: Identity,
        buffer: B,
        src: &S,
    ) -> Result<Self, Error> {
        identity.validate()?;
        if buffer.len() < identity.state_size_max as usize {
            return Err(Error::Space {
                needed: u64::from(identity.state_size_max),
                available: buffer.len() as u64,
            });
        }
        if src.dirty().pages() != identity.pages() {
            return Err(Error::Geometry {
                field: "pages of the dirty map",
                expected: identity.pages(),
                found: src.dirty().pages(),
            });
        }
        mark_populated(&identity, src)?;
        // What changed before is in what is sent first.
        let _ = src.take_changes();
        Ok(SaveSession {
            identity,
            parts: PendingParts::new(PartTable::EMPTY),
            buffer,
            cursor: 0,
            moved: 0,
            announced: false,
            initial: true,
            state: DeviceState::Unread,
            writer: RecordWriter::new(identity.page_size),
            checked: true,
        })
    }

    /// Sends these parts too. [`Error::Space`] if the buffer is smaller than one of them.
    pub fn with_parts(mut self, parts: PartTable) -> Result<Self, Error> {
        let needed = parts.largest();
        if (self.buffer.len() as u64) < needed {
            return Err(Error::Space {
                needed,
                available: self.buffer.len() as u64,
            });
        }
        self.parts = PendingParts::new(parts);
        Ok(self)
    }

    /// Sends memory without checksums unless `checked`. All else keeps its checksum.
    #[must_use]
    pub fn with_checksums(mut self, checked: bool) -> Self {
        self.checked = checked;
        self
    }

    /// Tells the session that the device is stopped and marks no more pages.
    pub fn stop(&mut self) {
        self.writer.stopped = true;
        self.parts.stop();
    }

    /// Returns whether END was written.
    pub fn is_complete(&self) -> bool {
        self.state == DeviceState::Ended
    }

    /// Returns what was sent so far.
    pub fn stats(&self) -> Stats {
        self.writer.stats
    }

    /// Returns the value of `pending_bytes` (P22): the bytes that an immediate stop would still have
    /// to send, or 0 if [`SaveSession::fill`] would write nothing now. A user who iterates until
    /// nothing is pending therefore finishes even while the device runs.
    ///
    /// Does not include a staged, unconsumed buffer: the front end adds its length.
    pub fn pending<S: Source + ?Sized>(&self, src: &S) -> u64 {
        let (dirty, changes) = (src.dirty().count_all(), src.changes());
        match self.has_any(dirty, changes) {
            true => self.rest(src, dirty, changes),
            false => 0,
        }
    }

    /// Returns how many bytes an immediate stop would still have to send (P47); 0 after END.
    pub fn remaining<S: Source + ?Sized>(&self, src: &S) -> u64 {
        self.rest(src, src.dirty().count_all(), src.changes())
    }

    /// [`SaveSession::remaining`], with these pages dirty and these changes. Users read it often, so it looks at
    /// each counter once.
    #[inline]
    fn rest<S: Source + ?Sized>(&self, src: &S, dirty: DirtyCount, changes: Changes) -> u64 {
        let state = match self.state {
            DeviceState::Unread => unread_state(&self.identity, src),
            DeviceState::Partly { len, sent } => len.saturating_sub(sent) as u64,
            DeviceState::Ended => return 0,
        };
        let parts = match self.state {
            DeviceState::Unread => self
                .parts
                .remaining(self.writer.stopped, changes, |part| src.part_bytes(part)),
            DeviceState::Partly { .. } | DeviceState::Ended => 0,
        };
        self.identity_bytes()
            .saturating_add(parts)
            .saturating_add(memory_bytes(&self.identity, dirty.pages, dirty.runs))
            .saturating_add(state_bytes(state))
            .saturating_add(control_bytes(END_SIZE))
    }

    /// Returns what pre-copy still has to send (P45).
    pub fn precopy_info<S: Source + ?Sized>(&mut self, src: &S) -> PrecopyInfo {
        self.update(src);
        let all = src.dirty().count_all();
        // The first pass has already sent the pages before the cursor.
        let again = match self.initial {
            true => src.dirty().count_range(0, self.cursor),
            false => all,
        };
        let initial = all.without(again);
        let parts = self.parts.pre_copy(|part| src.part_bytes(part));
        PrecopyInfo {
            initial_bytes: self
                .identity_bytes()
                .saturating_add(parts.0)
                .saturating_add(memory_bytes(&self.identity, initial.pages, initial.runs)),
            dirty_bytes: memory_bytes(&self.identity, again.pages, again.runs)
                .saturating_add(parts.1),
            reinit: self.parts.reinit,
        }
    }

    /// The user knows that the initial bytes started over, and has read them.
    pub fn forget_reinit(&mut self) {
        self.parts.reinit = false;
    }

    /// Takes the changes of the device into account. If all that was sent is obsolete, the first pass starts
    /// over.
    fn update<S: Source + ?Sized>(&mut self, src: &S) {
        let changes = src.take_changes();
        self.parts.update(changes);
        if changes.reinit && !self.writer.stopped {
            self.cursor = 0;
            self.initial = true;
        }
    }

    /// Returns whether [`SaveSession::fill`] would write something.
    pub fn has_data<S: Source + ?Sized>(&self, src: &S) -> bool {
        self.has_any(src.dirty().count_all(), src.changes())
    }

    /// [`SaveSession::has_data`], with these pages dirty and these changes.
    #[inline]
    fn has_any(&self, dirty: DirtyCount, changes: Changes) -> bool {
        let left = match self.writer.stopped {
            true => !self.is_complete(),
            false => dirty.pages != 0 || !self.parts.is_empty(changes),
        };
        left || self.writer.totals.records == 0
    }

    fn identity_bytes(&self) -> u64 {
        match self.writer.totals.records {
            0 => control_bytes(IDENTITY_SIZE),
            _ => 0,
        }
    }

    /// Fills `out`, which has `len` bytes, with whole records. Returns the number of bytes used; 0 if
    /// there is nothing to send now.
    ///
    /// An error loses nothing: the session marks the pages again that it took from the dirty map.
    /// If there are complete records, this call returns them and the next call returns the error.
    /// [`Error::Space`] if `len` is below [`min_output`] or the device's state exceeds its bound,
    /// [`Error::Interrupted`] if the task is being killed, [`Error::Device`] if the device failed.
    pub fn fill<S: Source + ?Sized>(
        &mut self,
        src: &S,
        out: &mut S::Out,
        len: usize,
    ) -> Result<usize, Error> {
        let needed = min_output(&self.identity);
        if (len as u64) < needed {
            return Err(Error::Space {
                needed,
                available: len as u64,
            });
        }
        self.update(src);
        let mut out = Output {
            src,
            buf: out,
            at: 0,
            len,
        };
        loop {
            let done = match src.interrupted() {
                true => Err(Error::Interrupted),
                false => self.record(&mut out),
            };
            match done {
                Ok(true) => {}
                Ok(false) => return Ok(out.at),
                Err(_) if out.at > 0 => return Ok(out.at),
                Err(error) => return Err(error),
            }
        }
    }

    /// Prepares the last buffer to be offered again, in the same memory, because the user may or may
    /// not have read it (P23). Rewrites only its first header, which gets AGAIN. [`Error::Device`] if
    /// the write failed. Does nothing if no buffer was filled.
    pub fn restage<S: Source + ?Sized>(&mut self, src: &S, out: &mut S::Out) -> Result<(), Error> {
        let Some(first) = &mut self.writer.first else {
            return Ok(());
        };
        first.flags |= FLAG_AGAIN;
        src.put(out, 0, &first.encode::<S>())
            .map_err(|errno| Error::access("offering a buffer again", errno))?;
        self.writer.stats.restaged = self.writer.stats.restaged.saturating_add(1);
        Ok(())
    }

    /// Appends one record. Returns `false` if there is none or it does not fit.
    fn record<S: Source + ?Sized>(&mut self, out: &mut Output<'_, S>) -> Result<bool, Error> {
        if self.writer.totals.records == 0 {
            let payload = self.identity.encode();
            return self.writer.control(out, Kind::Identity, 0, 0, &payload);
        }
        if self.is_complete() {
            return Ok(false);
        }
        if self.state == DeviceState::Unread {
            if let Some(done) = self.part(out)? {
                return Ok(done);
            }
        }
        match self.memory(out)? {
            Progress::Record => return Ok(true),
            Progress::NoRoom => return Ok(false),
            Progress::Clean if !self.writer.stopped => return Ok(false),
            Progress::Clean => {}
        }
        self.device(out)
    }

    /// Appends the next part. Returns `false` if it does not fit, `None` if there is none.
    fn part<S: Source + ?Sized>(&mut self, out: &mut Output<'_, S>) -> Result<Option<bool>, Error> {
        while let Some((index, part)) = self.parts.next() {
            let max = part.size_max as usize;
            if out.room() < max {
                return Ok(Some(false));
            }
            let buf = self.buffer.get_mut(..max).ok_or(Error::Overflow)?;
            let len = out
                .src
                .save_part(part, buf)
                .map_err(|errno| Error::device("saving a part of the device state", errno))?;
            let payload = self.buffer.get(..len).filter(|_| len <= max);
            let payload = payload.ok_or(Error::Space {
                needed: len as u64,
                available: max as u64,
            })?;
            let flags = if part.optional { FLAG_OPTIONAL } else { 0 };
            let number = u64::from(part.number);
            let sent = len != 0
                && self
                    .writer
                    .flagged(out, Kind::Part, flags, number, 0, payload)?;
            self.parts.done(index);
            if sent {
                return Ok(Some(true));
            }
        }
        Ok(None)
    }

    fn memory<S: Source + ?Sized>(&mut self, out: &mut Output<'_, S>) -> Result<Progress, Error> {
        let page_size = u64::from(self.identity.page_size);
        let max_pages = (out.room() as u64)
            .min(MEMORY_MAX.max(page_size))
            .checked_div(page_size)
            .unwrap_or(0);
        if max_pages == 0 {
            if out.src.dirty().is_clean() {
                self.end_pass(out.src);
                return Ok(Progress::Clean);
            }
            return Ok(Progress::NoRoom);
        }
        let dirty = out.src.dirty();
        let run = match dirty.take_run(self.cursor, max_pages) {
            Some(run) => run,
            None => {
                self.end_pass(out.src);
                match dirty.take_run(0, max_pages) {
                    Some(run) => run,
                    None => return Ok(Progress::Clean),
                }
            }
        };
        if !self.announced {
            self.announced = true;
            out.src.pass_starts(self.writer.stats.passes, run.count);
        }
        let (head, populated) = match out.src.populated(run) {
            Some(part) if part.first > run.first => (
                within(run.first, part.first.min(run.end())).unwrap_or(run),
                false,
            ),
            Some(part) => (
                within(run.first, part.end().min(run.end())).unwrap_or(run),
                true,
            ),
            None => (run, false),
        };
        // The rest of the run needs a record of the other kind.
        dirty.mark_range(head.end(), run.end().saturating_sub(head.end()));
        let done = if populated {
            self.pages(out, head)
        } else {
            let bytes = head.count.saturating_mul(page_size);
            let position = head.first.saturating_mul(page_size);
            self.writer
                .control(out, Kind::Zero, position, bytes, &bytes.to_le_bytes())
        };
        match done {
            Ok(true) => {
                self.cursor = head.end();
                self.moved = self.moved.saturating_add(head.count);
                Ok(Progress::Record)
            }
            Ok(false) => {
                dirty.mark_range(head.first, head.count);
                Ok(Progress::NoRoom)
            }
            Err(error) => {
                dirty.mark_range(head.first, head.count);
                Err(error)
            }
        }
    }

    fn end_pass<S: Source + ?Sized>(&mut self, src: &S) {
        if self.moved != 0 {
            src.pass_ended(self.writer.stats.passes, self.moved);
            self.writer.stats.passes = self.writer.stats.passes.saturating_add(1);
            self.announced = false;
        }
        self.cursor = 0;
        self.moved = 0;
        self.initial = false;
    }

    /// Appends a MEMORY record with the pages of `run`.
    fn pages<S: Source + ?Sized>(
        &mut self,
        out: &mut Output<'_, S>,
        run: Run,
    ) -> Result<bool, Error> {
        let page_size = u64::from(self.identity.page_size);
        let length = run.count.checked_mul(page_size).ok_or(Error::Overflow)?;
        let position = run.first.checked_mul(page_size).ok_or(Error::Overflow)?;
        let at = out.at.checked_add(HEADER_SIZE).ok_or(Error::Overflow)?;
        let len = usize::try_from(length).map_err(|_| Error::Overflow)?;
        let crc = out
            .src
            .copy_memory(out.buf, at, position, len, self.checked.then_some(CRC_SEED))
            .map_err(|errno| Error::access("reading device memory", errno))?;
        let length = u32::try_from(length).map_err(|_| Error::Overflow)?;
        self.writer.header(
            out,
            Kind::Memory,
            position,
            length,
            crc.map(crc_finish),
            u64::from(length),
        )?;
        Ok(true)
    }

    /// Appends a piece of the device's state, or END after the last piece.
    fn device<S: Source + ?Sized>(&mut self, out: &mut Output<'_, S>) -> Result<bool, Error> {
        let max = self.identity.state_size_max as usize;
        let (len, sent) = match self.state {
            DeviceState::Unread => {
                let buf = self.buffer.get_mut(..max).unwrap_or_default();
                let len = out
                    .src
                    .save_state(buf)
                    .map_err(|errno| Error::device("saving the device state", errno))?;
                if len > max {
                    return Err(Error::Space {
                        needed: len as u64,
                        available: max as u64,
                    });
                }
                self.state = DeviceState::Partly { len, sent: 0 };
                (len, 0)
            }
            DeviceState::Partly { len, sent } => (len, sent),
            DeviceState::Ended => return Ok(false),
        };
        let left = len.saturating_sub(sent);
        if left == 0 {
            let payload = self.writer.totals.encode();
            let done = self.writer.control(out, Kind::End, 0, 0, &payload)?;
            if done {
                self.state = DeviceState::Ended;
            }
            return Ok(done);
        }
        // Send what fits, but leave a tiny piece to the next buffer.
        let room = out.room().min(RECORD_MAX as usize);
        let piece = left.min(room);
        if out.at > 0 && piece < left.min(PIECE_MIN) {
            return Ok(false);
        }
        let end = sent.saturating_add(piece);
        let payload = self.buffer.get(sent..end).ok_or(Error::Overflow)?;
        let done = self
            .writer
            .control(out, Kind::Device, sent as u64, piece as u64, payload)?;
        if done {
            self.state = DeviceState::Partly { len, sent: end };
        }
        Ok(done)
    }
}

enum Progress {
    /// A record was appended.
    Record,
    /// Something is dirty, but does not fit in the buffer.
    NoRoom,
    /// Nothing is dirty.
    Clean,
}
