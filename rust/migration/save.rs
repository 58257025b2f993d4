// SPDX-License-Identifier: GPL-2.0

//! What to send next.
//!
//! ```text
//!   begin()   while running or stopped: marks every populated page dirty
//!     fill()    IDENTITY, then dirty memory: MEMORY, ZERO ...    0 when nothing is dirty
//!   stop()    the device is stopped
//!     fill()    the rest of dirty memory, DEVICE ..., END       0 after END
//! ```
//!
//! [`SaveSession::fill`] writes one buffer of whole records. Memory is walked from page 0 upwards
//! and around again, a *pass* at a time; only what is dirty costs anything. A device that is
//! stopped from the start goes the same way in one pass.

use crate::dirty::{DirtyMap, Run};
use crate::frame::{Framer, Out};
use crate::stream::{
    crc_finish, Checksum, Error, Identity, Kind, Totals, CRC_SEED, END_SIZE, FLAG_AGAIN,
    HEADER_SIZE, IDENTITY_SIZE,
};
use core::ops::{Deref, DerefMut};
use core::sync::atomic::AtomicU64;

/// Upper bound of a MEMORY payload in bytes, so that a record's length fits its field.
const RECORD_MAX: u64 = 1 << 30;
/// Smallest piece of the device's state that is worth a record in a buffer that has others, in
/// bytes.
const PIECE_MIN: usize = 64;
/// Pages that [`SaveSession::begin`] looks at before it asks again whether it is interrupted.
const STRIDE: u64 = 1 << 15;

/// The device a save reads. Errors are errnos of either sign.
pub trait Source: Checksum {
    /// The buffer that is filled: raw memory in the kernel.
    type Out: ?Sized;
    /// The words of the dirty map.
    type Words: Deref<Target = [AtomicU64]>;

    /// The dirty map of device memory; one of 0 pages if it has none.
    fn dirty(&self) -> &DirtyMap<Self::Words>;

    /// The first run of pages within `run` that are populated, that is, were ever touched. All
    /// others read 0 and are not sent.
    fn populated(&self, run: Run) -> Option<Run>;

    /// The number of populated pages, from a counter.
    fn populated_pages(&self) -> u64;

    /// Whether the caller is being killed. Asked once a record, and once a [`STRIDE`] of pages.
    fn interrupted(&self) -> bool;

    /// Copies `bytes` to `out`, from its byte `at` on.
    fn put(&self, out: &mut Self::Out, at: usize, bytes: &[u8]) -> Result<(), i32>;

    /// Copies `len` bytes of device memory from byte `position` on to `out`, from its byte `at` on,
    /// and continues `crc` ([`Checksum`]) over the bytes as they are in `out`. All of them are
    /// whole pages.
    ///
    /// Their dirty bits were cleared just before. If the device runs and guests may map them,
    /// write-protect them first, then read ([`crate::dirty`]).
    fn copy_memory(
        &self,
        out: &mut Self::Out,
        at: usize,
        position: u64,
        len: usize,
        crc: u32,
    ) -> Result<u32, i32>;

    /// Writes the device's own state to `buf` and gives its length. Called once, after
    /// [`SaveSession::stop`]; `buf` has [`Identity::state_size_max`] bytes.
    fn save_state(&self, buf: &mut [u8]) -> Result<usize, i32>;
}

/// What was sent in one phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PhaseStats {
    /// Bytes of stream.
    pub bytes: u64,
    /// Records.
    pub records: u64,
    /// Pages sent as MEMORY.
    pub pages: u64,
    /// Pages sent as ZERO.
    pub zero_pages: u64,
}

/// What a session has sent so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Sent while the device ran.
    pub pre_copy: PhaseStats,
    /// Sent while it was stopped.
    pub stop_copy: PhaseStats,
    /// Complete passes over device memory.
    pub passes: u64,
    /// Buffers offered again (P23).
    pub restaged: u64,
}

/// What pre-copy still has to send, as `struct vfio_precopy_info` wants it (P45).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrecopyInfo {
    /// Bytes not yet sent for the first time.
    pub initial_bytes: u64,
    /// Bytes to be sent again.
    pub dirty_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DeviceState {
    /// Not yet asked for.
    Unread,
    /// `sent` of `len` bytes are in records.
    Partly { len: usize, sent: usize },
    /// END is in a record.
    Ended,
}

/// The source's side of one migration.
///
/// `B` is memory for the device's own state, at least [`Identity::state_size_max`] bytes.
#[derive(Debug)]
pub struct SaveSession<B> {
    identity: Identity,
    buffer: B,
    /// Where the pass continues.
    cursor: u64,
    /// Whether the pass has sent something.
    moved: bool,
    /// Whether the first pass goes on.
    initial: bool,
    state: DeviceState,
    framer: Framer,
}

/// The smallest buffer that [`SaveSession::fill`] can work with, in bytes.
pub fn min_output(identity: &Identity) -> u64 {
    u64::from(identity.page_size)
        .max(IDENTITY_SIZE as u64)
        .saturating_add(HEADER_SIZE as u64)
}

/// Everything a save of the stopped device would send now, in bytes, without a session (P47).
///
/// An upper bound but for the headers of additional buffers. It costs the same whatever the size of
/// device memory: how the populated pages lie is not looked at, so a header is counted for each of
/// them, or for each gap between holes if those are fewer.
pub fn estimate<S: Source + ?Sized>(identity: &Identity, src: &S) -> u64 {
    let populated = src.populated_pages();
    let holes = identity.pages().saturating_sub(populated);
    let runs = populated.min(holes.saturating_add(1));
    control_bytes(IDENTITY_SIZE)
        .saturating_add(state_bytes(u64::from(identity.state_size_max)))
        .saturating_add(control_bytes(END_SIZE))
        .saturating_add(memory_bytes(identity, populated, runs))
}

fn control_bytes(payload: usize) -> u64 {
    (payload as u64).saturating_add(HEADER_SIZE as u64)
}

/// The records of `left` bytes of the device's state; none of none.
fn state_bytes(left: u64) -> u64 {
    match left {
        0 => 0,
        left => left.saturating_add(HEADER_SIZE as u64),
    }
}

fn memory_bytes(identity: &Identity, pages: u64, runs: u64) -> u64 {
    pages
        .saturating_mul(u64::from(identity.page_size))
        .saturating_add(runs.saturating_mul(HEADER_SIZE as u64))
}

/// Marks all populated pages.
fn mark_populated<S: Source + ?Sized>(identity: &Identity, src: &S) -> Result<(), Error> {
    let pages = identity.pages();
    let mut from = 0;
    while from < pages {
        if src.interrupted() {
            return Err(Error::Interrupted);
        }
        let end = from.saturating_add(STRIDE).min(pages);
        while let Some(run) = within(from, end).and_then(|rest| src.populated(rest)) {
            // A run that does not advance would never end.
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

/// The run `[first, end)`, unless it is empty.
fn within(first: u64, end: u64) -> Option<Run> {
    match end.checked_sub(first) {
        None | Some(0) => None,
        Some(count) => Some(Run { first, count }),
    }
}

impl<B: DerefMut<Target = [u8]>> SaveSession<B> {
    /// Opens a session: marks every populated page.
    ///
    /// The dirty map was cleared and writes mark pages from now on. `buffer` takes the device's
    /// state.
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
        Ok(SaveSession {
            identity,
            buffer,
            cursor: 0,
            moved: false,
            initial: true,
            state: DeviceState::Unread,
            framer: Framer {
                page_size: u64::from(identity.page_size),
                stopped: false,
                totals: Totals::new(),
                first: None,
                stats: Stats::default(),
            },
        })
    }

    /// The device is stopped now: from here on, what is dirty stays as it is.
    pub fn stop(&mut self) {
        self.framer.stopped = true;
    }

    /// Whether END was produced.
    pub fn is_complete(&self) -> bool {
        self.state == DeviceState::Ended
    }

    /// What was sent so far.
    pub fn stats(&self) -> Stats {
        self.framer.stats
    }

    /// What v1 reads from `pending_bytes`, in bytes (P22): everything an immediate stop would still
    /// have to send, but 0 if [`SaveSession::fill`] would produce nothing now. So a user who iterates
    /// until nothing is pending comes to an end while the device runs, too.
    ///
    /// A staged, unconsumed buffer is not in it: the front end adds its length.
    pub fn pending<S: Source + ?Sized>(&self, src: &S) -> u64 {
        if self.has_data(src) {
            self.remaining(src)
        } else {
            0
        }
    }

    /// Everything an immediate stop would still have to send, in bytes (P47); 0 once END was
    /// produced.
    pub fn remaining<S: Source + ?Sized>(&self, src: &S) -> u64 {
        let state = match self.state {
            DeviceState::Unread => u64::from(self.identity.state_size_max),
            DeviceState::Partly { len, sent } => len.saturating_sub(sent) as u64,
            DeviceState::Ended => return 0,
        };
        let dirty = src.dirty().census(0, self.identity.pages());
        self.identity_bytes()
            .saturating_add(memory_bytes(&self.identity, dirty.pages, dirty.runs))
            .saturating_add(state_bytes(state))
            .saturating_add(control_bytes(END_SIZE))
    }

    /// What pre-copy still has to send (P45).
    pub fn precopy_info<S: Source + ?Sized>(&self, src: &S) -> PrecopyInfo {
        let pages = self.identity.pages();
        // In the first pass, what lies before the cursor was sent already.
        let split = if self.initial { self.cursor } else { pages };
        let again = src.dirty().census(0, split);
        let initial = src.dirty().census(split, pages);
        PrecopyInfo {
            initial_bytes: self.identity_bytes().saturating_add(memory_bytes(
                &self.identity,
                initial.pages,
                initial.runs,
            )),
            dirty_bytes: memory_bytes(&self.identity, again.pages, again.runs),
        }
    }

    /// Whether [`SaveSession::fill`] would produce something.
    pub fn has_data<S: Source + ?Sized>(&self, src: &S) -> bool {
        self.framer.totals.records == 0
            || (self.framer.stopped && !self.is_complete())
            || (!self.framer.stopped && !src.dirty().is_clean())
    }

    fn identity_bytes(&self) -> u64 {
        match self.framer.totals.records {
            0 => control_bytes(IDENTITY_SIZE),
            _ => 0,
        }
    }

    /// Fills a buffer of `len` bytes with whole records and gives the number of bytes used; 0 if
    /// there is nothing to send now.
    ///
    /// After an error nothing is lost: what was taken from the dirty map is marked again, records
    /// that were complete are given to the caller first, and the error comes back with the next
    /// call. [`Error::Interrupted`] if [`Source::interrupted`] says so.
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
        let mut out = Out {
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

    /// Offers the buffer filled last once more, from the same memory: it may have been read or not
    /// (P23). Rewrites its first header; nothing else of it has changed.
    pub fn restage<S: Source + ?Sized>(&mut self, src: &S, out: &mut S::Out) -> Result<(), Error> {
        let Some(first) = &mut self.framer.first else {
            return Ok(());
        };
        first.flags |= FLAG_AGAIN;
        src.put(out, 0, &first.encode::<S>())
            .map_err(|errno| Error::device("staging a buffer again", errno))?;
        self.framer.stats.restaged = self.framer.stats.restaged.saturating_add(1);
        Ok(())
    }

    /// Appends one record. `false`: there is none, or no room for it.
    fn record<S: Source + ?Sized>(&mut self, out: &mut Out<'_, S>) -> Result<bool, Error> {
        if self.framer.totals.records == 0 {
            let payload = self.identity.encode();
            return self.framer.control(out, Kind::Identity, 0, 0, &payload);
        }
        if self.is_complete() {
            return Ok(false);
        }
        match self.memory(out)? {
            Progress::Record => return Ok(true),
            Progress::NoRoom => return Ok(false),
            Progress::Clean if !self.framer.stopped => return Ok(false),
            Progress::Clean => {}
        }
        self.device(out)
    }

    fn memory<S: Source + ?Sized>(&mut self, out: &mut Out<'_, S>) -> Result<Progress, Error> {
        let page_size = u64::from(self.identity.page_size);
        let max_pages = (out.room() as u64)
            .min(RECORD_MAX)
            .checked_div(page_size)
            .unwrap_or(0);
        if max_pages == 0 {
            if out.src.dirty().is_clean() {
                self.end_pass();
                return Ok(Progress::Clean);
            }
            return Ok(Progress::NoRoom);
        }
        let dirty = out.src.dirty();
        let run = match dirty.take_run(self.cursor, max_pages) {
            Some(run) => run,
            None => {
                self.end_pass();
                match dirty.take_run(0, max_pages) {
                    Some(run) => run,
                    None => return Ok(Progress::Clean),
                }
            }
        };
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
        // The rest of the run is of the other sort: a record of its own.
        dirty.mark_range(head.end(), run.end().saturating_sub(head.end()));
        let done = if populated {
            self.pages(out, head)
        } else {
            let bytes = head.count.saturating_mul(page_size);
            let position = head.first.saturating_mul(page_size);
            self.framer
                .control(out, Kind::Zero, position, bytes, &bytes.to_le_bytes())
        };
        match done {
            Ok(true) => {
                self.cursor = head.end();
                self.moved = true;
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

    fn end_pass(&mut self) {
        if self.moved {
            self.framer.stats.passes = self.framer.stats.passes.saturating_add(1);
        }
        self.cursor = 0;
        self.moved = false;
        self.initial = false;
    }

    /// Appends a MEMORY record of `run`.
    fn pages<S: Source + ?Sized>(&mut self, out: &mut Out<'_, S>, run: Run) -> Result<bool, Error> {
        let page_size = u64::from(self.identity.page_size);
        let length = run.count.checked_mul(page_size).ok_or(Error::Overflow)?;
        let position = run.first.checked_mul(page_size).ok_or(Error::Overflow)?;
        let at = out.at.checked_add(HEADER_SIZE).ok_or(Error::Overflow)?;
        let len = usize::try_from(length).map_err(|_| Error::Overflow)?;
        let crc = out
            .src
            .copy_memory(out.buf, at, position, len, CRC_SEED)
            .map_err(|errno| Error::device("reading device memory", errno))?;
        let length = u32::try_from(length).map_err(|_| Error::Overflow)?;
        self.framer.header(
            out,
            Kind::Memory,
            position,
            length,
            crc_finish(crc),
            u64::from(length),
        )?;
        Ok(true)
    }

    /// Appends a piece of the device's state, or END after the last.
    fn device<S: Source + ?Sized>(&mut self, out: &mut Out<'_, S>) -> Result<bool, Error> {
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
            let payload = self.framer.totals.encode();
            let done = self.framer.control(out, Kind::End, 0, 0, &payload)?;
            if done {
                self.state = DeviceState::Ended;
            }
            return Ok(done);
        }
        // A piece is what fits, but no crumbs: the rest goes to the next buffer.
        let room = out.room().min(RECORD_MAX as usize);
        let piece = left.min(room);
        if out.at > 0 && piece < left.min(PIECE_MIN) {
            return Ok(false);
        }
        let end = sent.saturating_add(piece);
        let payload = self.buffer.get(sent..end).ok_or(Error::Overflow)?;
        let done = self
            .framer
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
    /// Something is dirty, but the buffer has no room for it.
    NoRoom,
    /// Nothing is dirty.
    Clean,
}
