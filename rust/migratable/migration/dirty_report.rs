// SPDX-License-Identifier: GPL-2.0

//! Dirty pages of guest memory, reported through the region: v7 and 2018.
//!
//! The device's own log of written pages, the one behind DMA logging, feeds the bitmaps. It runs while a save
//! is open. It has all pages, and a page that was reported is in it again only if it is written again, also
//! if it is pinned.

use super::{
    data_section::Window,
    state_machine::{
        Inner,
        Locked, //
    },
};
use crate::{
    device::Device,
    driver::Driver, //
};
use kernel::prelude::*;
use migration::dirty_query::{
    bitmap_bytes,
    max_pages,
    Answer,
    Bitmap, //
};
use vfio::refuse;

impl<T: Driver> Device<T> {
    /// Begins to log all writes to guest memory.
    pub(super) fn log_all(&self) -> Result {
        let mut ranges = KVec::with_capacity(1, GFP_KERNEL_ACCOUNT)?;
        ranges.push((0, u64::MAX), GFP_KERNEL_ACCOUNT)?;
        self.dma.start_logging(ranges)
    }

    /// Answers the user's question, unless an answer is there that was not read yet. `start` is the
    /// address of the first page of its range; `None` if there is no such address.
    ///
    /// The bitmap is at the start of the window. An error, also `ENOMEM`, has taken nothing from the log.
    pub(super) fn answer(
        &self,
        inner: &mut Locked<'_>,
        window: &mut Window,
        start: Option<u64>,
    ) -> Result {
        let query = inner.query;
        if query.answer.is_some_and(|answer| !answer.read) {
            return Ok(());
        }
        let room = self.data_section.bitmap_size() as u64;
        let part = query.part(start, max_pages(room)).map_err(|error| {
            refuse!(self, "migration region: dirty pages: {error}");
            EINVAL
        })?;
        let mut answer = Answer {
            pages: 0,
            dirty: 0,
            read: false,
        };
        if let Some(part) = part {
            let bytes = bitmap_bytes(part.pages) as usize;
            let bytes = KVVec::from_elem(0u8, bytes, GFP_KERNEL_ACCOUNT)?;
            let mut bitmap = Bitmap::new(part, bytes);
            self.dma
                .report_written(part.first, part.last, |first, last| {
                    bitmap.mark(first, last)
                })?;
            let (bytes, dirty) = bitmap.finish();
            // The bitmap of the largest part fits.
            window.put(0, &bytes)?;
            answer = Answer {
                pages: part.pages,
                dirty,
                read: false,
            };
        }
        inner.query.answer = Some(answer);
        Ok(())
    }
}

impl Inner {
    /// The user has read the answer. The next one continues behind it.
    pub(super) fn answered(&mut self) {
        if let Some(answer) = &mut self.query.answer {
            if !answer.read {
                answer.read = true;
                self.query.done = self.query.done.saturating_add(answer.pages);
            }
        }
    }
}
