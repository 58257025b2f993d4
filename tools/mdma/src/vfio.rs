// SPDX-License-Identifier: GPL-2.0

//! The transport by VFIO.

use mdma_model::regs::{self, BAR_MEMORY, BAR_REGISTERS};

use crate::device::Mdma;
use crate::error::{Error, Result};
use crate::submit::Queue;
use crate::transport::{Bar, Buffer};
use std::io;
use std::sync::atomic::Ordering;
use vfio_client::{Container, Device, DmaBuffer, Mapping, Region};

impl From<vfio_client::Error> for Error {
    fn from(error: vfio_client::Error) -> Self {
        Error::Transport(Box::new(error))
    }
}

/// Returns the kernel's error, without the client's text.
fn io_error(error: vfio_client::Error) -> io::Error {
    error.source
}

impl Bar for Region {
    fn read32(&self, offset: u64) -> io::Result<u32> {
        self.read_u32(offset).map(u32::from_le).map_err(io_error)
    }

    fn write32(&self, offset: u64, value: u32) -> io::Result<()> {
        self.write_u32(offset, value.to_le()).map_err(io_error)
    }

    fn read64(&self, offset: u64) -> io::Result<u64> {
        self.read_u64(offset).map(u64::from_le).map_err(io_error)
    }

    fn write64(&self, offset: u64, value: u64) -> io::Result<()> {
        self.write_u64(offset, value.to_le()).map_err(io_error)
    }
}

impl Buffer for DmaBuffer {
    fn iova(&self) -> u64 {
        self.iova()
    }

    fn size(&self) -> usize {
        self.memory().len()
    }

    fn read(&self, offset: usize, out: &mut [u8]) {
        self.memory().read(offset, out);
    }

    fn write(&self, offset: usize, data: &[u8]) {
        self.memory().write(offset, data);
    }

    fn load_acquire(&self, offset: usize) -> u64 {
        self.memory().load_u64(offset, Ordering::Acquire)
    }
}

impl Mdma<Region> {
    /// Takes over an open device: checks its identity and enables memory decoding and DMA.
    ///
    /// The queue does not change, so that a loaded state can continue. It is enabled from an earlier user only if root
    /// set `keep_state`, and then waits for the next doorbell.
    pub fn open(device: &Device) -> Result<Self> {
        let config = device.config()?;
        let (vendor, id) = config.ids()?;
        for (name, found, expected) in [
            ("PCI vendor id", vendor, regs::PCI_VENDOR),
            ("PCI device id", id, regs::PCI_DEVICE),
        ] {
            if found != expected {
                return Err(Error::Foreign {
                    name,
                    found: found.into(),
                    expected: expected.into(),
                });
            }
        }
        config.enable()?;
        Mdma::new(device.region(BAR_REGISTERS)?)
    }

    /// Returns the region of the device memory.
    pub fn memory(&self) -> Result<Region> {
        Ok(self.bar().device().region(BAR_MEMORY)?)
    }

    /// Maps the device memory.
    pub fn map_memory(&self) -> Result<Mapping> {
        Ok(self.memory()?.map_all()?)
    }
}

impl Queue<Region, DmaBuffer> {
    /// Enables a queue of `1 << order` entries in new memory, mapped at `iova`.
    pub fn create(device: &Device, container: &Container, iova: u64, order: u32) -> Result<Self> {
        let memory = DmaBuffer::new(container, iova, Self::size(order))?;
        Queue::new(Mdma::open(device)?, memory, order)
    }
}
