// SPDX-License-Identifier: GPL-2.0

//! Copies to and from device memory.
//!
//! All hold references to pages and no lock. Guests and users may access the same bytes meanwhile, so only
//! C accesses pages, through raw pointers.

use super::DeviceMemory;
use kernel::{
    ffi::c_void,
    page::PAGE_SIZE,
    prelude::*,
    uaccess::UserPtr, //
};
use kernel_ext::sched::{
    cond_resched,
    not_killed, //
};
use vfio::dma::{
    self,
    Dma,
    RegisteredMemory, //
};
use vfio_bindings as bindings;

/// The contents of a hole.
pub(super) static ZEROES: [u8; PAGE_SIZE] = [0; PAGE_SIZE];

/// A piece of a range that lies in one page.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    /// The page.
    pub(super) page: usize,
    /// First byte in the page.
    pub(super) at: usize,
    /// Number of bytes.
    pub(super) len: usize,
    /// Bytes of the range before this piece.
    pub(super) done: usize,
}

/// Returns the pieces of `len` bytes at `offset`.
pub(super) fn pieces(offset: u64, len: usize) -> impl Iterator<Item = Piece> {
    let mut done = 0;
    core::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let offset = offset + done as u64;
        let at = (offset % PAGE_SIZE as u64) as usize;
        let piece = Piece {
            page: (offset / PAGE_SIZE as u64) as usize,
            at,
            len: (PAGE_SIZE - at).min(len - done),
            done,
        };
        done += piece.len;
        Some(piece)
    })
}

impl DeviceMemory {
    /// Calls `f` for each piece of a range, with a pointer valid for reads, the number of bytes, and the
    /// number of bytes before them.
    fn for_each(
        &self,
        offset: u64,
        len: usize,
        mut f: impl FnMut(*const u8, usize, usize) -> Result,
    ) -> Result {
        self.check(offset, len)?;
        for piece in pieces(offset, len) {
            let page = self.page(piece.page);
            let from = match &page {
                Some(page) => page.address().cast_const(),
                None => ZEROES.as_ptr(),
            };
            // A piece lies inside a page.
            f(from.wrapping_add(piece.at), piece.len, piece.done)?;
        }
        Ok(())
    }

    /// Calls `f` to write each piece of a range, with a pointer valid for reads and writes, the number of
    /// bytes, and the number of bytes before them. Marks the pages.
    fn for_each_mut(
        &self,
        offset: u64,
        len: usize,
        mut f: impl FnMut(*mut u8, usize, usize) -> Result,
    ) -> Result {
        self.check(offset, len)?;
        for piece in pieces(offset, len) {
            let page = self.page_or_new(piece.page)?;
            let writer = self.writers.begin();
            // A piece lies inside a page.
            let result = f(page.address().wrapping_add(piece.at), piece.len, piece.done);
            // Also after an error, because a part may have been written.
            self.wrote(piece.page);
            drop(writer);
            result?;
        }
        Ok(())
    }

    /// Copies to `data`. `ERANGE` for a range that is not inside the memory.
    pub fn read(&self, offset: u64, data: &mut [u8]) -> Result {
        // SAFETY: The slice is valid for writes of its length.
        unsafe { self.read_raw(offset, data.as_mut_ptr(), data.len()) }
    }

    /// Copies from `data`. `ERANGE` for a range that is not inside the memory. `ENOMEM` if a page cannot be
    /// allocated; the bytes before it were written.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result {
        // SAFETY: The slice is valid for reads of its length.
        unsafe { self.write_raw(offset, data.as_ptr(), data.len()) }
    }

    /// Sets a range to zero. Frees its whole pages, unless a migration has to send that they changed.
    ///
    /// `ERANGE` for a range that is not inside the memory, `EINTR` if the task is killed.
    ///
    /// # Context
    ///
    /// As for [`DeviceMemory::free`].
    pub fn zero(&self, offset: u64, len: usize) -> Result {
        self.check(offset, len)?;
        self.free_untracked(offset, len)?;
        let page_size = PAGE_SIZE as u64;
        let end = offset + len as u64;
        let first = (offset / page_size) as usize;
        // Block by block, because holes read 0 and a guest chooses the length.
        for block in self
            .pages
            .populated_blocks(first..end.div_ceil(page_size) as usize)
        {
            not_killed()?;
            cond_resched();
            let start = offset.max(block.start as u64 * page_size);
            let stop = end.min(block.end as u64 * page_size);
            for piece in pieces(start, (stop - start) as usize) {
                let Some(page) = self.page(piece.page) else {
                    continue;
                };
                let to = page.address().wrapping_add(piece.at);
                let _writer = self.writers.begin();
                // SAFETY: A piece lies inside a page, and `ZEROES` is as long as a page.
                unsafe {
                    bindings::memcpy(
                        to.cast::<c_void>(),
                        ZEROES.as_ptr().cast::<c_void>(),
                        piece.len,
                    )
                };
                self.wrote(piece.page);
            }
        }
        Ok(())
    }

    /// [`DeviceMemory::read`] to memory that others may access at the same time.
    ///
    /// # Safety
    ///
    /// `to` must be valid for writes of `len` bytes by C.
    pub(crate) unsafe fn read_raw(&self, offset: u64, to: *mut u8, len: usize) -> Result {
        self.for_each(offset, len, |from, n, done| {
            // SAFETY: `for_each` guarantees `from`, and the caller `to`, as `done + n <= len`.
            unsafe { bindings::memcpy(to.add(done).cast::<c_void>(), from.cast::<c_void>(), n) };
            Ok(())
        })
    }

    /// [`DeviceMemory::write`] from memory that others may access at the same time.
    ///
    /// # Safety
    ///
    /// `from` must be valid for reads of `len` bytes by C.
    pub(crate) unsafe fn write_raw(&self, offset: u64, from: *const u8, len: usize) -> Result {
        self.for_each_mut(offset, len, |to, n, done| {
            // SAFETY: `for_each_mut` guarantees `to`, and the caller `from`, as `done + n <= len`.
            unsafe { bindings::memcpy(to.cast::<c_void>(), from.add(done).cast::<c_void>(), n) };
            Ok(())
        })
    }

    /// Copies to guest memory, straight from the pages. Errors are those of [`Dma::write`] and
    /// `ERANGE`.
    pub fn to_guest(&self, dma: &Dma, offset: u64, iova: u64, len: usize) -> Result {
        dma::check(iova, len)?;
        self.for_each(offset, len, |from, n, done| {
            // SAFETY: `for_each` guarantees `from`.
            unsafe { dma.write_raw(iova + done as u64, from, n) }
        })
    }

    /// Copies to registered memory, straight from the pages. Errors are those of
    /// [`RegisteredMemory::write_at`] and `ERANGE`.
    pub fn to_registered(
        &self,
        memory: &RegisteredMemory,
        at: u64,
        offset: u64,
        len: usize,
    ) -> Result {
        let end = at.checked_add(len as u64).ok_or(EINVAL)?;
        if end > memory.len() {
            return Err(EINVAL);
        }
        self.for_each(offset, len, |from, n, done| {
            // SAFETY: `for_each` guarantees `from`.
            unsafe { memory.write_raw_at(at + done as u64, from, n) }
        })
    }

    /// Copies from registered memory, straight to the pages. Errors are those of
    /// [`RegisteredMemory::read_at`], `ERANGE` and `ENOMEM`. The bytes before an error were written.
    pub fn from_registered(
        &self,
        memory: &RegisteredMemory,
        at: u64,
        offset: u64,
        len: usize,
    ) -> Result {
        let end = at.checked_add(len as u64).ok_or(EINVAL)?;
        if end > memory.len() {
            return Err(EINVAL);
        }
        self.for_each_mut(offset, len, |to, n, done| {
            // SAFETY: `for_each_mut` guarantees `to`.
            unsafe { memory.read_raw_at(at + done as u64, to, n) }
        })
    }

    /// Copies from guest memory, straight to the pages. Errors are those of [`Dma::read`] and
    /// `ERANGE`. The bytes before an error were written.
    pub fn from_guest(&self, dma: &Dma, iova: u64, offset: u64, len: usize) -> Result {
        dma::check(iova, len)?;
        self.for_each_mut(offset, len, |to, n, done| {
            // SAFETY: `for_each_mut` guarantees `to`.
            unsafe { dma.read_raw(iova + done as u64, to, n) }
        })
    }

    /// Copies to a user, and returns how many bytes; fewer than `len` if the user's memory ends.
    pub(crate) fn read_user(&self, offset: u64, to: UserPtr, len: usize) -> Result<usize> {
        let mut copied = 0;
        let result = self.for_each(offset, len, |from, n, done| {
            // One page takes a bounded time.
            if done != 0 {
                not_killed()?;
            }
            let to = to.wrapping_byte_add(done).as_mut_ptr();
            // SAFETY: `for_each` guarantees `from`; no lock is held that a page fault takes.
            let left = unsafe { bindings::copy_to_user(to, from.cast::<c_void>(), n) };
            copied = done + (n - left);
            if left == 0 {
                Ok(())
            } else {
                Err(EFAULT)
            }
        });
        partial(copied, result)
    }

    /// Copies from a user, and returns how many bytes; fewer than `len` if the user's memory ends.
    pub(crate) fn write_user(&self, offset: u64, from: UserPtr, len: usize) -> Result<usize> {
        let mut copied = 0;
        let result = self.for_each_mut(offset, len, |to, n, done| {
            // One page takes a bounded time.
            if done != 0 {
                not_killed()?;
            }
            let from = from.wrapping_byte_add(done).as_const_ptr();
            // SAFETY: `for_each_mut` guarantees `to`; no lock is held that a page fault takes.
            let left = unsafe { bindings::copy_from_user(to.cast::<c_void>(), from, n) };
            copied = done + (n - left);
            if left == 0 {
                Ok(())
            } else {
                Err(EFAULT)
            }
        });
        partial(copied, result)
    }
}

/// Returns the result of `read()` or `write()` for a copy that may have stopped early.
fn partial(copied: usize, result: Result) -> Result<usize> {
    match result {
        Err(error) if copied == 0 => Err(error),
        _ => Ok(copied),
    }
}
