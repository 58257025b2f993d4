// SPDX-License-Identifier: GPL-2.0

//! The memory that the bytes of a stream go to or come from.
//!
//! It is memory of the kernel, a [`Window`], or memory of the user who reads or writes a data file. The
//! second saves a copy of each byte.

use super::data_section::Window;
use crate::memory::{
    Bounce,
    DeviceMemory, //
};
use core::cell::Cell;
use kernel::{
    page::PAGE_SIZE,
    prelude::*,
    uaccess::UserPtr, //
};
use kernel_ext::uaccess::{
    copy_from_user_nofault,
    copy_to_user_nofault,
    fault_in_readable,
    fault_in_writeable, //
};

/// The most bytes that are made present before a copy is tried again: a record of memory, not aligned.
const FAULT_IN_MAX: usize = (1 << 20) + 2 * PAGE_SIZE;

/// The memory that the bytes of a stream go to or come from. Positions that it does not have are `ERANGE`.
pub(super) trait StreamBuffer {
    /// Copies `bytes` to byte `at` on.
    fn put(&mut self, at: usize, bytes: &[u8]) -> Result;

    /// Copies to `buf` from byte `at` on.
    fn get(&self, at: usize, buf: &mut [u8]) -> Result;

    /// Copies whole pages of device memory to byte `at` on. Returns `crc` continued over the bytes that it
    /// has stored.
    fn put_memory(
        &mut self,
        at: usize,
        memory: &DeviceMemory,
        position: u64,
        len: usize,
        crc: Option<u32>,
    ) -> Result<Option<u32>>;

    /// Copies to device memory from byte `at` on. Returns `crc` continued over the bytes that it has stored.
    fn get_memory(
        &self,
        at: usize,
        memory: &DeviceMemory,
        position: u64,
        len: usize,
        crc: Option<u32>,
    ) -> Result<Option<u32>>;
}

/// Either of them.
pub(super) type DynBuffer = dyn StreamBuffer;

impl StreamBuffer for Window {
    fn put(&mut self, at: usize, bytes: &[u8]) -> Result {
        Window::put(self, at, bytes)
    }

    fn get(&self, at: usize, buf: &mut [u8]) -> Result {
        Window::get(self, at, buf)
    }

    fn put_memory(
        &mut self,
        at: usize,
        memory: &DeviceMemory,
        position: u64,
        len: usize,
        crc: Option<u32>,
    ) -> Result<Option<u32>> {
        let to = self.bytes(at, len)?;
        // SAFETY: `bytes` guarantees `len` bytes at `to`, which is not in device memory.
        unsafe { memory.save_raw(position, to, len, crc) }
    }

    fn get_memory(
        &self,
        at: usize,
        memory: &DeviceMemory,
        position: u64,
        len: usize,
        crc: Option<u32>,
    ) -> Result<Option<u32>> {
        let from = self.bytes(at, len)?;
        // SAFETY: `bytes` guarantees `len` bytes at `from`, which is not in device memory.
        unsafe { memory.load_raw(position, from, len, crc) }
    }
}

/// Memory of the user. Copies do not wait for a page of it, because the state is locked: they fail with
/// `EFAULT`.
pub(super) struct UserBuffer {
    start: UserPtr,
    len: usize,
    bounce: Bounce,
    /// The offset of the copy that failed.
    faulted: Cell<Option<usize>>,
}

impl UserBuffer {
    /// Returns the `len` bytes at `start`.
    pub(super) fn new(start: UserPtr, len: usize) -> Self {
        Self {
            start,
            len,
            bounce: Bounce::new(),
            faulted: Cell::new(None),
        }
    }

    /// Returns the address of `len` bytes from byte `at` on.
    fn bytes(&self, at: usize, len: usize) -> Result<UserPtr> {
        match at.checked_add(len) {
            Some(end) if end <= self.len => Ok(self.start.wrapping_byte_add(at)),
            _ => Err(ERANGE),
        }
    }

    /// Remembers that a copy at byte `at` failed because of a page that was not present.
    fn note<R>(&self, at: usize, result: Result<R>) -> Result<R> {
        if matches!(result, Err(error) if error == EFAULT) {
            self.faulted.set(Some(at));
        }
        result
    }

    /// Returns whether a copy failed because of a page that was not present.
    pub(super) fn has_faulted(&self) -> bool {
        self.faulted.get().is_some()
    }

    /// Returns the bytes that the next try needs, from the copy that failed on.
    fn missing(&self) -> (UserPtr, usize) {
        let at = self.faulted.take().unwrap_or(0).min(self.len);
        let len = (self.len - at).min(FAULT_IN_MAX);
        (self.start.wrapping_byte_add(at), len)
    }

    /// Makes the pages present that a copy to them did not find. `EFAULT` if the first cannot be written.
    /// The caller holds no lock that a page fault takes, and may wait long.
    pub(super) fn fault_in_writeable(&self) -> Result {
        let (start, len) = self.missing();
        fault_in_writeable(start, len)
    }

    /// [`UserBuffer::fault_in_writeable`], for a copy from them.
    pub(super) fn fault_in_readable(&self) -> Result {
        let (start, len) = self.missing();
        fault_in_readable(start, len)
    }
}

impl StreamBuffer for UserBuffer {
    fn put(&mut self, at: usize, bytes: &[u8]) -> Result {
        let to = self.bytes(at, bytes.len())?;
        // SAFETY: The slice is valid for reads of its length.
        self.note(at, unsafe {
            copy_to_user_nofault(to, bytes.as_ptr(), bytes.len())
        })
    }

    fn get(&self, at: usize, buf: &mut [u8]) -> Result {
        let from = self.bytes(at, buf.len())?;
        // SAFETY: The slice is valid for writes of its length.
        self.note(at, unsafe {
            copy_from_user_nofault(buf.as_mut_ptr(), from, buf.len())
        })
    }

    fn put_memory(
        &mut self,
        at: usize,
        memory: &DeviceMemory,
        position: u64,
        len: usize,
        crc: Option<u32>,
    ) -> Result<Option<u32>> {
        let to = self.bytes(at, len)?;
        let result = memory.save_user(position, to, len, crc, &mut self.bounce);
        self.note(at, result)
    }

    fn get_memory(
        &self,
        at: usize,
        memory: &DeviceMemory,
        position: u64,
        len: usize,
        crc: Option<u32>,
    ) -> Result<Option<u32>> {
        let from = self.bytes(at, len)?;
        self.note(at, memory.load_user(position, from, len, crc))
    }
}
