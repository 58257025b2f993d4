// SPDX-License-Identifier: GPL-2.0

//! Puts records one behind the other into a buffer, and counts them.

use crate::save::{Source, Stats};
use crate::stream::{crc_of, Error, Header, Kind, Totals, FLAG_START, HEADER_SIZE};

/// The buffer being filled.
pub(crate) struct Out<'a, S: Source + ?Sized> {
    pub(crate) src: &'a S,
    pub(crate) buf: &'a mut S::Out,
    /// Bytes used.
    pub(crate) at: usize,
    pub(crate) len: usize,
}

impl<S: Source + ?Sized> Out<'_, S> {
    /// Bytes a record's payload may have.
    pub(crate) fn room(&self) -> usize {
        self.len.saturating_sub(self.at).saturating_sub(HEADER_SIZE)
    }
}

/// Puts records one behind the other and counts them.
#[derive(Debug)]
pub(crate) struct Framer {
    pub(crate) page_size: u64,
    pub(crate) stopped: bool,
    pub(crate) totals: Totals,
    /// First header of the buffer filled last.
    pub(crate) first: Option<Header>,
    pub(crate) stats: Stats,
}

impl Framer {
    /// Appends a record whose payload is at hand, if there is room.
    pub(crate) fn control<S: Source + ?Sized>(
        &mut self,
        out: &mut Out<'_, S>,
        kind: Kind,
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
            .map_err(|errno| Error::device("staging a record", errno))?;
        self.header(out, kind, position, length, crc_of::<S>(payload), extent)?;
        Ok(true)
    }

    /// Writes the header before a payload that is in place, and counts the record.
    pub(crate) fn header<S: Source + ?Sized>(
        &mut self,
        out: &mut Out<'_, S>,
        kind: Kind,
        position: u64,
        length: u32,
        payload_crc: u32,
        extent: u64,
    ) -> Result<(), Error> {
        let header = Header {
            kind: kind as u16,
            flags: if out.at == 0 { FLAG_START } else { 0 },
            length,
            sequence: self.totals.records,
            position,
            payload_crc,
        };
        let totals = self.totals.with::<S>(&header, extent)?;
        out.src
            .put(out.buf, out.at, &header.encode::<S>())
            .map_err(|errno| Error::device("staging a record", errno))?;

        // Nothing fails from here on.
        if out.at == 0 {
            self.first = Some(header);
        }
        self.totals = totals;
        let bytes = (HEADER_SIZE as u64).saturating_add(u64::from(length));
        out.at = out
            .at
            .saturating_add(HEADER_SIZE)
            .saturating_add(length as usize);
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
            Kind::Identity | Kind::Device | Kind::End => {}
        }
        Ok(())
    }
}
