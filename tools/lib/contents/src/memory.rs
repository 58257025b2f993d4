// SPDX-License-Identifier: GPL-2.0

//! Memory of a device: in a BAR that can be mapped, or the storage of an NVMe controller.

use mnvme::Disk;
use vfio_client::pci::offset;
use vfio_client::{Device, Error, Mapping, Result};

use crate::register::BARS;

/// Size of a page of device memory, the unit in which it is tracked.
pub const PAGE: u64 = 4096;

/// PCI class of an NVMe controller.
const NVME: u32 = 0x01_0802;

/// Device memory in a BAR that a user can map as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mappable {
    /// Its BAR.
    pub bar: u32,
    /// Its size.
    pub size: u64,
}

impl Mappable {
    /// Searches the BARs.
    ///
    /// # Errors
    ///
    /// Those of the system call.
    pub fn find(device: &Device) -> Result<Option<Self>> {
        for bar in 0..BARS {
            let region = device.region(bar)?;
            let info = region.info();
            if info.areas().iter().any(|area| area.size == info.size) {
                return Ok(Some(Mappable {
                    bar,
                    size: info.size,
                }));
            }
        }
        Ok(None)
    }
}

/// Where a device has memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a BAR.
    Bar(Mappable),
    /// In the namespace of an NVMe controller.
    Storage,
}

impl Place {
    /// Returns where a device has memory, if it has any.
    ///
    /// # Errors
    ///
    /// Those of the system calls.
    pub fn find(device: &Device) -> Result<Option<Self>> {
        if let Some(bar) = Mappable::find(device)? {
            return Ok(Some(Place::Bar(bar)));
        }
        let class = u32::from_le(device.config()?.region().read_u32(offset::REVISION)?) >> 8;
        Ok((class == NVME).then_some(Place::Storage))
    }

    /// Returns what it is called.
    pub fn name(self) -> &'static str {
        match self {
            Place::Bar(_) => "device memory",
            Place::Storage => "storage",
        }
    }

    /// Opens the memory of a device. An NVMe controller is reset and enabled for this.
    ///
    /// # Errors
    ///
    /// Those of the system calls and of the controller.
    pub fn open(self, device: &Device) -> Result<Memory> {
        Ok(match self {
            Place::Bar(memory) => Memory::Mapped(device.region(memory.bar)?.map_all()?),
            Place::Storage => Memory::Disk(Disk::open(device).map_err(storage)?),
        })
    }
}

/// Opened memory of a device.
#[derive(Debug)]
pub enum Memory {
    /// A mapping of a BAR.
    Mapped(Mapping),
    /// The disk of a controller, which nobody else uses meanwhile.
    Disk(Disk),
}

impl Memory {
    /// Returns its size in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Memory::Mapped(mapping) => mapping.len() as u64,
            Memory::Disk(disk) => disk.size(),
        }
    }

    /// Writes whole pages.
    ///
    /// # Errors
    ///
    /// Those of the controller.
    pub fn write(&mut self, at: u64, data: &[u8]) -> Result<()> {
        match self {
            Memory::Mapped(mapping) => mapping.write(at as usize, data),
            Memory::Disk(disk) => {
                for (at, data) in pieces(at).zip(data.chunks(Disk::TRANSFER_MAX)) {
                    disk.write(at, data).map_err(storage)?;
                }
            }
        }
        Ok(())
    }

    /// Reads whole pages.
    ///
    /// # Errors
    ///
    /// Those of the controller.
    pub fn read(&mut self, at: u64, data: &mut [u8]) -> Result<()> {
        match self {
            Memory::Mapped(mapping) => mapping.read(at as usize, data),
            Memory::Disk(disk) => {
                for (at, data) in pieces(at).zip(data.chunks_mut(Disk::TRANSFER_MAX)) {
                    disk.read(at, data).map_err(storage)?;
                }
            }
        }
        Ok(())
    }

    /// Closes it. A controller is disabled, so that its registers can be written again.
    ///
    /// # Errors
    ///
    /// Those of the controller.
    pub fn close(self) -> Result<()> {
        match self {
            Memory::Mapped(_) => Ok(()),
            Memory::Disk(disk) => disk.close().map_err(storage),
        }
    }
}

/// Returns where transfers begin.
fn pieces(at: u64) -> impl Iterator<Item = u64> {
    (at..).step_by(Disk::TRANSFER_MAX)
}

fn storage(error: mnvme::Error) -> Error {
    match error {
        mnvme::Error::Vfio(error) => error,
        error => Error::other("storage", error.to_string()),
    }
}
