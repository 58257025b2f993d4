// SPDX-License-Identifier: GPL-2.0

//! The traits of a transport.

use std::io;

/// The registers of a device: BAR 0.
pub trait Bar {
    /// Reads four bytes.
    fn read32(&self, offset: u64) -> io::Result<u32>;
    /// Writes four bytes.
    fn write32(&self, offset: u64, value: u32) -> io::Result<()>;
    /// Reads eight bytes in one access.
    fn read64(&self, offset: u64) -> io::Result<u64>;
    /// Writes eight bytes in one access.
    fn write64(&self, offset: u64, value: u64) -> io::Result<()>;
}

impl<T: Bar + ?Sized> Bar for &T {
    fn read32(&self, offset: u64) -> io::Result<u32> {
        (**self).read32(offset)
    }
    fn write32(&self, offset: u64, value: u32) -> io::Result<()> {
        (**self).write32(offset, value)
    }
    fn read64(&self, offset: u64) -> io::Result<u64> {
        (**self).read64(offset)
    }
    fn write64(&self, offset: u64, value: u64) -> io::Result<()> {
        (**self).write64(offset, value)
    }
}

/// Memory that driver and device share.
pub trait Buffer {
    /// Returns the IOVA.
    fn iova(&self) -> u64;

    /// Returns the size in bytes.
    fn size(&self) -> usize;

    /// Copies bytes out.
    fn read(&self, offset: usize, out: &mut [u8]);

    /// Copies bytes in.
    fn write(&self, offset: usize, data: &[u8]);

    /// Reads eight aligned bytes in one access, before any later read.
    fn load_acquire(&self, offset: usize) -> u64;
}

impl<T: Buffer + ?Sized> Buffer for &T {
    fn iova(&self) -> u64 {
        (**self).iova()
    }
    fn size(&self) -> usize {
        (**self).size()
    }
    fn read(&self, offset: usize, out: &mut [u8]) {
        (**self).read(offset, out);
    }
    fn write(&self, offset: usize, data: &[u8]) {
        (**self).write(offset, data);
    }
    fn load_acquire(&self, offset: usize) -> u64 {
        (**self).load_acquire(offset)
    }
}
