// SPDX-License-Identifier: GPL-2.0

//! How the driver of the guest reaches the device and memory: by `vfio-ioctls` and `vm-memory`.

use std::io;
use std::sync::Arc;

use crate::ram::Ram;
use mdma::regs::BAR_REGISTERS;
use mdma::{Bar, Buffer};
use vfio_ioctls::VfioDevice;

/// The registers: accesses that a VMM traps and passes on.
#[derive(Clone)]
pub(crate) struct Registers(pub(crate) Arc<VfioDevice>);

impl Registers {
    /// Reads; all ones if that fails, which `vfio-ioctls` does not report.
    fn read<const N: usize>(&self, offset: u64) -> [u8; N] {
        let mut bytes = [0xff; N];
        self.0.region_read(BAR_REGISTERS, &mut bytes, offset);
        bytes
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        self.0.region_write(BAR_REGISTERS, bytes, offset);
    }
}

impl Bar for Registers {
    fn read32(&self, offset: u64) -> io::Result<u32> {
        Ok(u32::from_le_bytes(self.read(offset)))
    }

    fn write32(&self, offset: u64, value: u32) -> io::Result<()> {
        self.write(offset, &value.to_le_bytes());
        Ok(())
    }

    fn read64(&self, offset: u64) -> io::Result<u64> {
        Ok(u64::from_le_bytes(self.read(offset)))
    }

    fn write64(&self, offset: u64, value: u64) -> io::Result<()> {
        self.write(offset, &value.to_le_bytes());
        Ok(())
    }
}

/// A part of guest memory.
#[derive(Clone)]
pub(crate) struct Slice {
    pub(crate) ram: Arc<Ram>,
    pub(crate) at: u64,
    pub(crate) size: usize,
}

impl Buffer for Slice {
    fn iova(&self) -> u64 {
        self.at
    }

    fn size(&self) -> usize {
        self.size
    }

    fn read(&self, offset: usize, out: &mut [u8]) {
        self.ram.read(self.at + offset as u64, out);
    }

    fn write(&self, offset: usize, data: &[u8]) {
        self.ram.write(self.at + offset as u64, data);
    }

    fn load_acquire(&self, offset: usize) -> u64 {
        self.ram.load_acquire(self.at + offset as u64)
    }
}
