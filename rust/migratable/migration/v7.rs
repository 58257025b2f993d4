// SPDX-License-Identifier: GPL-2.0

//! The region of v7: registers and the data section.
//!
//! [`migration::v7`] has the table of registers. The states, and the effect of a read while a save is open,
//! are those of v1. In addition:
//!
//! ```text
//!   start_pfn, page_size, total_pfns   ask for the dirty pages of a range
//!   copied_pfns     takes the answer, once for each question; after a bitmap
//!     data_offset   reads where the bitmap is, until pending_bytes is read
//! ```
//!
//! The bitmap has a place of its own, so it disturbs no staged buffer. A load takes `data_size` as the
//! signal, as in v1. Of a section that cannot be mapped the text writes the data after `data_size`; both
//! orders work then.

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
    dirty_query::check_page_size,
    fields::Direction,
    transition::{
        v1_write,
        Action, //
    },
    v7::{
        copied_pfns,
        has_bitmap,
        Register,
        BLOCK, //
    },
};

impl<T: Driver> Device<T> {
    /// Reads from the region. Refusals are logged.
    pub(crate) fn v7_read(&self, offset: u64, buf: UserPtr, len: usize) -> Result<usize> {
        let refuse =
            |reason: &dyn Display| self.refuse_access(Direction::Read, offset, len, reason);
        if let Some(at) = self.v7_data(offset, len).map_err(|r| refuse(&r))? {
            return self.read_section(at, buf, len);
        }
        let hit = BLOCK.decode(offset, len, Direction::Read);
        let hit = hit.map_err(|r| refuse(&r))?;
        let register = hit.register().map_err(|r| refuse(&r))?;

        // No lock is held over the copy: see `state_machine`.
        let (mut consumed, mut offered) = (None, None);
        let value = {
            let (mut data, mut bitmap) = (self.data_window()?, self.window()?);
            let mut inner = self.lock_state()?;
            hit.permits(inner.state).map_err(|r| refuse(&r))?;
            match register {
                Register::DeviceState => inner.state.to_v1().into(),
                Register::PendingBytes => {
                    let (pending, number) = self.read_pending(&inner);
                    consumed = number;
                    pending
                }
                Register::DataOffset if has_bitmap(&inner.query) => PAGE_SIZE as u64,
                Register::DataOffset => {
                    let room = self.data_section.size() - self.data_section.bitmap_size();
                    offered = self.stage(&mut inner, &mut data, room)?;
                    self.data_part()
                }
                Register::DataSize => inner.offered(),
                Register::CopiedPfns => {
                    let start = inner.query.start_of_pfn();
                    self.answer(&mut inner, &mut bitmap, start)?;
                    copied_pfns(&inner.query)
                }
                Register::Reserved
                | Register::StartPfn
                | Register::PageSize
                | Register::TotalPfns => 0,
            }
        };
        put_values(buf, len, &[value])?;

        // A failed read offers and consumes nothing (P3).
        if let Some(number) = offered {
            self.lock_state()?.offer(number);
        }
        if register == Register::PendingBytes {
            let mut inner = self.lock_state()?;
            inner.query.answer = None;
            if let Some(number) = consumed {
                inner.consume(number);
            }
        }
        Ok(len)
    }

    /// Writes to the region. Refusals are logged.
    pub(crate) fn v7_write(&self, offset: u64, buf: UserPtr, len: usize) -> Result<usize> {
        let refuse =
            |reason: &dyn Display| self.refuse_access(Direction::Write, offset, len, reason);
        if let Some(at) = self.v7_data(offset, len).map_err(|r| refuse(&r))? {
            let done = self.write_section(at, buf, len)?;
            self.v7_arrived(at, done)?;
            return Ok(done);
        }
        let hit = BLOCK.decode(offset, len, Direction::Write);
        let hit = hit.map_err(|r| refuse(&r))?;

        // Copy before the lock is taken: see `state_machine`.
        let mut value = [0];
        get_values(buf, len, &mut value)?;
        let [value] = value;

        let mut window = self.data_window()?;
        let mut inner = self.lock_state()?;
        hit.permits(inner.state).map_err(|r| refuse(&r))?;
        match hit.register().map_err(|r| refuse(&r))? {
            Register::DeviceState => {
                let transition = v1_write(inner.state, value as u32).map_err(|r| refuse(&r))?;
                if transition.actions.contains(&Action::CommitLoad) {
                    self.check_incoming(&inner)?;
                }
                let request = Request::Region(FrontEnd::V7, &mut window);
                self.change(&mut inner, &transition, request)?;
            }
            Register::DataSize => {
                let room = self.data_section.size() - self.data_section.bitmap_size();
                if value == 0 || value > room as u64 {
                    return Err(refuse(&"data_size is 0 or beyond the data section"));
                }
                self.check_incoming(&inner)?;
                let mapped = self.data_section.is_mappable();
                let complete = match inner.owner.incoming_mut() {
                    Some(incoming) if !mapped => incoming.announce(value),
                    _ => Some(value),
                };
                self.feed_section(&mut inner, &window, complete)?;
            }
            Register::StartPfn => inner.query.ask(|query| query.start = value),
            Register::PageSize => {
                check_page_size(value).map_err(|r| refuse(&r))?;
                inner.query.ask(|query| query.page_size = value);
            }
            Register::TotalPfns => inner.query.ask(|query| query.total = value),
            Register::Reserved
            | Register::PendingBytes
            | Register::DataOffset
            | Register::CopiedPfns => {}
        }
        Ok(len)
    }

    /// Returns the place in the data section of an access behind the registers.
    fn v7_data(&self, offset: u64, len: usize) -> Result<Option<u64>, &'static str> {
        match offset.checked_add(len as u64) {
            Some(end) if end <= self.migration_size() => Ok(offset.checked_sub(PAGE_SIZE as u64)),
            _ => Err("the access ends outside the region"),
        }
    }

    /// `len` bytes at byte `at` of a section that cannot be mapped were written.
    fn v7_arrived(&self, at: u64, len: usize) -> Result {
        let at = at.checked_sub(self.data_section.bitmap_size() as u64);
        let (Some(at), false) = (at, self.data_section.is_mappable()) else {
            return Ok(());
        };
        let window = self.data_window()?;
        let mut inner = self.lock_state()?;
        let incoming = inner.owner.incoming_mut();
        let complete = incoming.and_then(|incoming| incoming.arrive(at, len as u64));
        self.feed_section(&mut inner, &window, complete)
    }
}
