// SPDX-License-Identifier: GPL-2.0

//! Copies between device memory and a stream, with the checksum of what was copied, if anybody wants it.
//!
//! As in `copy`, others may access the same bytes meanwhile, so only C accesses pages.

use super::{
    bounce::Bounce,
    copy::{
        pieces,
        ZEROES, //
    },
    pages::Spare,
    DeviceMemory, //
};
use kernel::{
    ffi::c_void,
    page::PAGE_SIZE,
    prelude::*,
    uaccess::UserPtr, //
};
use kernel_ext::{
    sched::cond_resched,
    uaccess::{
        copy_from_user_nofault,
        copy_to_user_nofault, //
    },
};
use vfio_bindings as bindings;

/// The number of pages between two reschedules.
const CHUNK: usize = 64;

/// Continues a CRC-32C over bytes; `None` if nobody wants it.
///
/// # Safety
///
/// `bytes` must be valid for reads of `len` bytes by C.
unsafe fn crc32c(crc: Option<u32>, bytes: *const u8, len: usize) -> Option<u32> {
    // SAFETY: By the requirement of this function.
    crc.map(|crc| unsafe { bindings::crc32c(crc, bytes.cast::<c_void>(), len) })
}

impl DeviceMemory {
    /// Copies a range to `to`, and returns `crc` continued over the bytes at `to`.
    ///
    /// # Safety
    ///
    /// `to` must be valid for reads and writes of `len` bytes by C.
    pub(crate) unsafe fn save_raw(
        &self,
        offset: u64,
        to: *mut u8,
        len: usize,
        crc: Option<u32>,
    ) -> Result<Option<u32>> {
        // SAFETY: By the requirement of this function.
        unsafe {
            self.read_raw(offset, to, len)?;
            Ok(crc32c(crc, to, len))
        }
    }

    /// Copies a range to a user, and returns `crc` continued over the bytes that were copied.
    ///
    /// The caller has cleared the dirty bits of the pages and has called [`DeviceMemory::protect`]. `EFAULT` if
    /// the user's memory is not present: this waits for no page of it.
    pub(crate) fn save_user(
        &self,
        offset: u64,
        to: UserPtr,
        len: usize,
        mut crc: Option<u32>,
        bounce: &mut Bounce,
    ) -> Result<Option<u32>> {
        self.check(offset, len)?;
        let copy = bounce.address()?;
        let mut lock = self.lock.read();
        for (number, piece) in pieces(offset, len).enumerate() {
            if number % CHUNK == CHUNK - 1 {
                drop(lock);
                cond_resched();
                lock = self.lock.read();
            }
            let from = match self.pages.address(piece.page, &lock) {
                Some(page) => page.cast_const(),
                None => ZEROES.as_ptr(),
            };
            let from = from.wrapping_add(piece.at);
            let to = to.wrapping_byte_add(piece.done);

            if let Some(number) = self.writers.quiet() {
                // SAFETY: A piece lies inside the page, which stays while the lock is held. The copy causes no
                // page fault, which would take the lock.
                let next = unsafe {
                    copy_to_user_nofault(to, from, piece.len)?;
                    crc32c(crc, from, piece.len)
                };
                // See `writers`. Without tracking no fault would mark the page. Without a checksum nothing has to
                // be the same: what was written meanwhile is sent again.
                let is_same = next.is_none()
                    || (self.writers.is_still(number)
                        && self.is_tracking()
                        && !self.dirty.test(piece.page as u64));
                if is_same {
                    crc = next;
                    continue;
                }
            }
            // SAFETY: As above. `copy` has a page, and a piece is not longer than that.
            unsafe {
                bindings::memcpy(copy.cast::<c_void>(), from.cast::<c_void>(), piece.len);
                copy_to_user_nofault(to, copy, piece.len)?;
                crc = crc32c(crc, copy, piece.len);
            }
        }
        Ok(crc)
    }

    /// Copies to a range from `from`, and returns `crc` continued over the bytes as they were stored. The
    /// bytes before an error were written.
    ///
    /// # Safety
    ///
    /// `from` must be valid for reads of `len` bytes by C.
    pub(crate) unsafe fn load_raw(
        &self,
        offset: u64,
        from: *const u8,
        len: usize,
        crc: Option<u32>,
    ) -> Result<Option<u32>> {
        self.load(offset, len, crc, |to, n, done| {
            // SAFETY: `load` guarantees `to`, and the caller `from`, as `done + n <= len`.
            unsafe { bindings::memcpy(to.cast::<c_void>(), from.add(done).cast::<c_void>(), n) };
            Ok(())
        })
    }

    /// [`DeviceMemory::load_raw`] from a user. `EFAULT` if the user's memory is not present: this waits for no
    /// page of it.
    pub(crate) fn load_user(
        &self,
        offset: u64,
        from: UserPtr,
        len: usize,
        crc: Option<u32>,
    ) -> Result<Option<u32>> {
        self.load(offset, len, crc, |to, n, done| {
            // SAFETY: `load` guarantees `to`.
            unsafe { copy_from_user_nofault(to, from.wrapping_byte_add(done), n) }
        })
    }

    /// Calls `copy` to write each piece of a range, with a pointer valid for writes, the number of bytes, and
    /// the number of bytes before them. It may be called twice for a piece.
    fn load(
        &self,
        offset: u64,
        len: usize,
        mut crc: Option<u32>,
        mut copy: impl FnMut(*mut u8, usize, usize) -> Result,
    ) -> Result<Option<u32>> {
        self.check(offset, len)?;
        let mut spare = Spare::new();
        for (number, piece) in pieces(offset, len).enumerate() {
            if number % CHUNK == CHUNK - 1 {
                cond_resched();
            }
            let page = match self.page(piece.page) {
                Some(page) => page,
                // Nobody sees the page before it is complete, so it is not zeroed.
                None if piece.len == PAGE_SIZE => {
                    let new = spare.take((len - piece.done) / PAGE_SIZE)?;
                    copy(new.address(), PAGE_SIZE, piece.done)?;
                    // SAFETY: A page is valid for reads of its length.
                    let next = unsafe { crc32c(crc, new.address(), PAGE_SIZE) };
                    match self.insert(piece.page, new)? {
                        None => {
                            self.wrote(piece.page);
                            crc = next;
                            continue;
                        }
                        // A guest has touched the hole meanwhile.
                        Some(page) => page,
                    }
                }
                None => self.page_or_new(piece.page)?,
            };
            let to = page.address().wrapping_add(piece.at);
            let writer = self.writers.begin();
            let result = copy(to, piece.len, piece.done);
            // Also after an error, because a part may have been written.
            self.wrote(piece.page);
            drop(writer);
            result?;
            // SAFETY: A piece lies inside the page.
            crc = unsafe { crc32c(crc, to, piece.len) };
        }
        Ok(crc)
    }
}
