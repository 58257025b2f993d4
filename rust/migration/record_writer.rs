// SPDX-License-Identifier: GPL-2.0

//! Writes records into a buffer and counts them.

use crate::checksum::crc_of;
use crate::error::Error;
use crate::format::{Kind, FLAG_START, FLAG_UNCHECKED, HEADER_SIZE};
use crate::record::Header;
use crate::source::Source;
use crate::totals::Totals;

/// The counts of one phase of a save.
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

/// The counts of a save session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Sent while the device was running.
    pub pre_copy: PhaseStats,
    /// Sent while the device was stopped.
    pub stop_copy: PhaseStats,
    /// Completed passes over device memory that sent something.
    pub passes: u64,
    /// Buffers offered again (P23).
    pub restaged: u64,
}

/// The buffer being filled.
pub(crate) struct Output<'a, S: Source + ?Sized> {
    pub(crate) src: &'a S,
    pub(crate) buf: &'a mut S::Out,
    /// Bytes used of `len`.
    pub(crate) at: usize,
    pub(crate) len: usize,
}

impl<S: Source + ?Sized> Output<'_, S> {
    /// Returns how many bytes of payload fit in one more record.
    pub(crate) fn room(&self) -> usize {
        self.len.saturating_sub(self.at).saturating_sub(HEADER_SIZE)
    }
}

/// Appends records to buffers and counts them.
#[derive(Debug)]
pub(crate) struct RecordWriter {
    page_size: u64,
    /// The device is stopped: records count as stop-and-copy.
    pub(crate) stopped: bool,
    pub(crate) totals: Totals,
    /// The first header of the last buffer.
    pub(crate) first: Option<Header>,
    pub(crate) stats: Stats,
}

impl RecordWriter {
    /// Creates a writer for a device with pages of `page_size` bytes.
    pub(crate) fn new(page_size: u32) -> Self {
        RecordWriter {
            page_size: u64::from(page_size),
            stopped: false,
            totals: Totals::new(),
            first: None,
            stats: Stats::default(),
        }
    }

    /// Appends a record with `payload`. Returns `false` if it does not fit.
    ///
    /// `extent` is the number of bytes the record sends, clears or restores.
    pub(crate) fn control<S: Source + ?Sized>(
        &mut self,
        out: &mut Output<'_, S>,
        kind: Kind,
        position: u64,
        extent: u64,
        payload: &[u8],
    ) -> Result<bool, Error> {
        self.flagged(out, kind, 0, position, extent, payload)
    }

    /// [`RecordWriter::control`] with flags.
    pub(crate) fn flagged<S: Source + ?Sized>(
        &mut self,
        out: &mut Output<'_, S>,
        kind: Kind,
        flags: u16,
        position: u64,
        extent: u64,
        payload: &[u8],
    ) -> Result<bool, Error> {
        if out.room() < payload.len() {
            return Ok(false);
        }
        let at = out.at.saturating_add(HEADER_SIZE);
        let length = u32::try_from(payload.len()).map_err(|_| Error::Overflow)?;
        out.src
            .put(out.buf, at, payload)
            .map_err(|errno| Error::access("writing a record", errno))?;
        let header = Header {
            kind: kind as u16,
            flags,
            length,
            sequence: self.totals.records,
            position,
            payload_crc: crc_of::<S>(payload),
        };
        self.append(out, kind, header, extent)?;
        Ok(true)
    }

    /// Writes the header of a record whose payload is already in place, and counts the record. `payload_crc` is
    /// `None` if the payload has no checksum.
    pub(crate) fn header<S: Source + ?Sized>(
        &mut self,
        out: &mut Output<'_, S>,
        kind: Kind,
        position: u64,
        length: u32,
        payload_crc: Option<u32>,
        extent: u64,
    ) -> Result<(), Error> {
        let header = Header {
            kind: kind as u16,
            flags: payload_crc.map_or(FLAG_UNCHECKED, |_| 0),
            length,
            sequence: self.totals.records,
            position,
            payload_crc: payload_crc.unwrap_or(0),
        };
        self.append(out, kind, header, extent)
    }

    /// Writes a header, and counts the record.
    fn append<S: Source + ?Sized>(
        &mut self,
        out: &mut Output<'_, S>,
        kind: Kind,
        mut header: Header,
        extent: u64,
    ) -> Result<(), Error> {
        if out.at == 0 {
            header.flags |= FLAG_START;
        }
        let totals = self.totals.with::<S>(&header, extent)?;
        out.src
            .put(out.buf, out.at, &header.encode::<S>())
            .and_then(|()| out.src.admit())
            .map_err(|errno| Error::access("writing a record", errno))?;

        // Nothing can fail from here on.
        if out.at == 0 {
            self.first = Some(header);
        }
        self.totals = totals;
        let bytes = (HEADER_SIZE as u64).saturating_add(u64::from(header.length));
        out.at = out
            .at
            .saturating_add(HEADER_SIZE)
            .saturating_add(header.length as usize);
        let pages = extent.checked_div(self.page_size).unwrap_or(0);
        let stats = if self.stopped {
            &mut self.stats.stop_copy
        } else {
            &mut self.stats.pre_copy
        };
        stats.bytes = stats.bytes.saturating_add(bytes);
        stats.records = stats.records.saturating_add(1);
        match kind {
            Kind::Memory => stats.pages = stats.pages.saturating_add(pages),
            Kind::Zero => stats.zero_pages = stats.zero_pages.saturating_add(pages),
            Kind::Identity | Kind::Device | Kind::End | Kind::Part => {}
        }
        out.src.saved(&header, extent);
        Ok(())
    }
}
