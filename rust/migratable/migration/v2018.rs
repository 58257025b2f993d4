// SPDX-License-Identifier: GPL-2.0

//! The region of 2018: registers and the data section.
//!
//! [`migration::v2018`] has the tables of registers and arcs. The effect of a read while a save is open:
//!
//! ```text
//!   pending      what is left; the buffer that `data` offered is consumed
//!   data         stages a buffer, unless one is staged; reads where it is and its length
//!   dirty_pfns   the next part of the bitmap; copied is 0 after the last
//! ```
//!
//! While resuming, a write of `data` loads what is in the mapped area if `offset` lies there. Otherwise it
//! announces data, which the user writes at `offset`, by `write()`, and which is loaded when it is
//! complete. So the same offset of the region can be in the data section twice: behind the structure, as
//! trapped data, and from the second page on, as the mapped area.

use super::{
    owner::{
        FrontEnd,
        Request, //
    },
    section_access::{
        get_values,
        put_values, //
    },
};
use crate::{
    device::Device,
    driver::Driver, //
};
use core::fmt::Display;
use kernel::{
    page::PAGE_SIZE,
    prelude::*,
    uaccess::UserPtr, //
};
use migration::{
    dirty_query,
    fields::{
        Direction,
        Hit, //
    },
    transition::Action,
    v2018::{
        arc,
        pending,
        Arc,
        Phase,
        Register,
        BLOCK,
        HEADER_SIZE,
        TRAPPED, //
    },
};

/// Returns whether an access covers a register.
fn covers(hit: &Hit<Register>, register: Register) -> bool {
    hit.fields.iter().any(|field| field.register == register)
}

impl<T: Driver> Device<T> {
    /// Reads from the region. Refusals are logged.
    pub(crate) fn v2018_read(&self, offset: u64, buf: UserPtr, len: usize) -> Result<usize> {
        let refuse =
            |reason: &dyn Display| self.refuse_access(Direction::Read, offset, len, reason);
        if offset >= TRAPPED {
            let start = if offset < PAGE_SIZE as u64 {
                TRAPPED
            } else {
                PAGE_SIZE as u64
            };
            let at = self.v2018_inside(offset - start, len as u64);
            return self.read_section(at.map_err(|r| refuse(&r))?, buf, len);
        }
        let hit = BLOCK.decode(offset, len, Direction::Read);
        let hit = hit.map_err(|r| refuse(&r))?;
        let pends = |f: &Register| {
            matches!(
                f,
                Register::PrecopyOnly | Register::Compatible | Register::PostcopyOnly
            )
        };

        // No lock is held over the copy: see `state_machine`.
        let (mut values, mut offered) = ([0; 4], None);
        let consumed = {
            let (mut data, mut bitmap) = (self.data_window()?, self.window()?);
            let mut inner = self.lock_state()?;
            hit.permits(inner.state).map_err(|r| refuse(&r))?;
            let (left, consumed) = self.read_pending(&inner);
            let registers = inner.v2018;
            // A buffer that is offered again waits outside of what is left in memory.
            let mut precopy = self.precopy_info(&mut inner);
            let again = left.saturating_sub(self.pending_bytes(&inner));
            precopy.initial_bytes = precopy.initial_bytes.saturating_add(again);
            let pending = pending(registers.phase, precopy, left, registers.threshold);
            if covers(&hit, Register::DataOffset) && registers.phase.has_data() {
                let room = self.data_section.size() - self.data_section.bitmap_size();
                offered = self.stage(&mut inner, &mut data, room)?;
            }
            if covers(&hit, Register::Copied) {
                inner.query.page_size = dirty_query::PAGE_SIZE;
                let start = Some(inner.query.start);
                self.answer(&mut inner, &mut bitmap, start)?;
            }
            for (value, field) in values.iter_mut().zip(hit.fields) {
                *value = match field.register {
                    Register::DeviceState => (registers.phase as u32).into(),
                    Register::PrecopyOnly => pending.precopy_only,
                    Register::Compatible => pending.compatible,
                    Register::PostcopyOnly => pending.postcopy_only,
                    Register::ThresholdSize => registers.threshold,
                    Register::DataOffset => self.data_part(),
                    Register::DataSize if offered.is_none() => inner.offered(),
                    Register::DataSize => inner.staged().map_or(0, |staged| staged.len as u64),
                    Register::StartAddr => inner.query.start,
                    Register::Total => inner.query.total,
                    Register::Copied => inner.query.answer.map_or(0, |answer| answer.pages),
                };
            }
            consumed.filter(|_| hit.fields.iter().any(|f| pends(&f.register)))
        };
        put_values(buf, len, values.get(..hit.fields.len()).unwrap_or_default())?;

        // A failed read offers and consumes nothing (P3).
        let mut inner = self.lock_state()?;
        offered.into_iter().for_each(|number| inner.offer(number));
        consumed
            .into_iter()
            .for_each(|number| inner.consume(number));
        if covers(&hit, Register::Copied) {
            inner.answered();
        }
        Ok(len)
    }

    /// Writes to the region. Refusals are logged.
    pub(crate) fn v2018_write(&self, offset: u64, buf: UserPtr, len: usize) -> Result<usize> {
        let refuse =
            |reason: &dyn Display| self.refuse_access(Direction::Write, offset, len, reason);
        if offset >= HEADER_SIZE {
            return self.v2018_write_data(offset, buf, len, &refuse);
        }
        let hit = BLOCK.decode(offset, len, Direction::Write);
        let hit = hit.map_err(|r| refuse(&r))?;

        // Copy before the lock is taken: see `state_machine`.
        let mut values = [0; 4];
        get_values(
            buf,
            len,
            values.get_mut(..hit.fields.len()).unwrap_or_default(),
        )?;

        let mut inner = self.lock_state()?;
        hit.permits(inner.state).map_err(|r| refuse(&r))?;
        for (value, field) in values.into_iter().zip(hit.fields) {
            match field.register {
                Register::DeviceState => {
                    let to = Phase::from_number(value as u32).map_err(|r| refuse(&r))?;
                    let change = arc(inner.v2018.phase, inner.state, to).map_err(|r| refuse(&r))?;
                    match change {
                        Arc::Reset => self.reset_locked(&mut inner)?,
                        Arc::Change(transition) => {
                            if transition.actions.contains(&Action::CommitLoad) {
                                self.check_incoming(&inner)?;
                            }
                            let mut window = self.data_window()?;
                            let request = Request::Region(FrontEnd::V2018, &mut window);
                            self.change(&mut inner, &transition, request)?;
                        }
                    }
                    inner.v2018.phase = to;
                }
                Register::ThresholdSize => inner.v2018.threshold = value,
                Register::DataOffset => {
                    self.check_incoming(&inner)?;
                    inner.v2018.offset = value;
                }
                Register::DataSize => {
                    self.check_incoming(&inner)?;
                    let at = inner.v2018.offset;
                    let mapped = at >= PAGE_SIZE as u64 && self.data_section.is_mappable();
                    let start = if mapped { at - PAGE_SIZE as u64 } else { 0 };
                    let start = self.v2018_inside(start, value).map_err(|r| refuse(&r))?;
                    if value == 0 || at < HEADER_SIZE || at.checked_add(value).is_none() {
                        return Err(refuse(&"data is empty or in the registers"));
                    }
                    let complete = match inner.owner.incoming_mut() {
                        Some(incoming) if !mapped => incoming.announce(value),
                        _ => Some(value),
                    };
                    let window = self.window()?.tail(start as usize)?;
                    self.feed_section(&mut inner, &window, complete)?;
                }
                Register::StartAddr => inner.query.ask(|query| query.start = value),
                Register::Total => inner.query.ask(|query| query.total = value),
                _ => {}
            }
        }
        Ok(len)
    }

    /// Writes data: that of the announced section, or else to the mapped area.
    fn v2018_write_data(
        &self,
        offset: u64,
        buf: UserPtr,
        len: usize,
        refuse: &dyn Fn(&dyn Display) -> Error,
    ) -> Result<usize> {
        let (announced, start) = {
            let mut inner = self.lock_state()?;
            let incoming = inner.owner.incoming_mut();
            let announced = incoming.and_then(|incoming| incoming.announced());
            (announced, inner.v2018.offset)
        };
        let start = match announced {
            Some(_) => start,
            None if self.data_section.is_mappable() => PAGE_SIZE as u64,
            None => return Err(refuse(&"no data was announced")),
        };
        let at = offset
            .checked_sub(start)
            .ok_or("the access is before the data");
        let at = at.and_then(|at| self.v2018_inside(at, len as u64));
        let at = at.map_err(|r| refuse(&r))?;
        if announced.is_some_and(|size| at + len as u64 > size) {
            return Err(refuse(&"the access ends behind the announced data"));
        }
        let done = self.write_section(at, buf, len)?;
        if announced.is_some() {
            let window = self.window()?;
            let mut inner = self.lock_state()?;
            let incoming = inner.owner.incoming_mut();
            let complete = incoming.and_then(|incoming| incoming.arrive(at, done as u64));
            self.feed_section(&mut inner, &window, complete)?;
        }
        Ok(done)
    }

    /// Checks that a range is inside the data section. Returns its start.
    fn v2018_inside(&self, at: u64, len: u64) -> Result<u64, &'static str> {
        match at.checked_add(len) {
            Some(end) if end <= self.data_section.size() as u64 => Ok(at),
            _ => Err("the range ends outside the data section"),
        }
    }
}
