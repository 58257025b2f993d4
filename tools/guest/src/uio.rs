// SPDX-License-Identifier: GPL-2.0

//! Devices by UIO, from the driver `uio_mdma`.
//!
//! A device can access any memory, so this file uses only DMA addresses that the driver allocated.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::Ordering;

use mdma::{regs, Bar, Buffer};
use vfio_client::{Mapping, Protection};

use crate::parts::{Parts, Window};

const PAGE: u64 = 4096;
/// Bytes at the end of a device's memory that are lent to another device.
const LENT: usize = 1 << 20;

/// A device bound to the driver.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// Its PCI address.
    pub pci: String,
    /// Its directory in `/sys/class/uio`.
    sysfs: PathBuf,
}

/// Finds the devices, in the order of their PCI addresses.
pub fn find() -> io::Result<Vec<Found>> {
    let Ok(entries) = fs::read_dir("/sys/class/uio") else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for entry in entries {
        let sysfs = entry?.path();
        let id = |name: &str| -> io::Result<u64> { number(&sysfs.join("device").join(name)) };
        if id("vendor")? == u64::from(regs::PCI_VENDOR)
            && id("device")? == u64::from(regs::PCI_DEVICE)
        {
            let device = fs::canonicalize(sysfs.join("device"))?;
            let pci = device
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            found.push(Found { pci, sysfs });
        }
    }
    found.sort();
    Ok(found)
}

/// Reads a number from a sysfs file.
fn number(path: &Path) -> io::Result<u64> {
    let text = fs::read_to_string(path)?;
    let digits = text.trim().trim_start_matches("0x");
    u64::from_str_radix(digits, 16)
        .map_err(|_| io::Error::other(format!("{}: {text:?} is not a number", path.display())))
}

/// Returns whether a BAR has an address. `resource` is the text of the PCI device's file of that name: start, end and
/// flags of one BAR per line.
fn has_address(resources: &str, bar: usize) -> bool {
    let line = resources.lines().nth(bar).unwrap_or_default();
    let start = line.split(' ').next().unwrap_or_default();
    u64::from_str_radix(start.trim_start_matches("0x"), 16).is_ok_and(|start| start != 0)
}

/// BAR 0.
#[derive(Debug)]
pub struct Registers(Mapping);

impl Bar for Registers {
    fn read32(&self, offset: u64) -> io::Result<u32> {
        Ok(u32::from_le(
            self.0.load_u32(offset as usize, Ordering::Acquire),
        ))
    }

    fn write32(&self, offset: u64, value: u32) -> io::Result<()> {
        self.0
            .store_u32(offset as usize, value.to_le(), Ordering::Release);
        Ok(())
    }

    fn read64(&self, offset: u64) -> io::Result<u64> {
        Ok(u64::from_le(
            self.0.load_u64(offset as usize, Ordering::Acquire),
        ))
    }

    fn write64(&self, offset: u64, value: u64) -> io::Result<()> {
        self.0
            .store_u64(offset as usize, value.to_le(), Ordering::Release);
        Ok(())
    }
}

/// BAR 2.
#[derive(Debug)]
pub struct DeviceMemory(Mapping);

impl Window for DeviceMemory {
    fn read(&self, offset: u64, out: &mut [u8]) {
        self.0.read(offset as usize, out);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.0.write(offset as usize, data);
    }
}

/// A block of the driver's DMA memory.
#[derive(Debug)]
pub struct Block {
    /// Its number in the driver's table.
    index: usize,
    memory: Rc<Mapping>,
    offset: usize,
    size: usize,
    iova: u64,
}

impl Buffer for Block {
    fn iova(&self) -> u64 {
        self.iova
    }

    fn size(&self) -> usize {
        self.size
    }

    fn read(&self, offset: usize, out: &mut [u8]) {
        assert!(offset + out.len() <= self.size);
        self.memory.read(self.offset + offset, out);
    }

    fn write(&self, offset: usize, data: &[u8]) {
        assert!(offset + data.len() <= self.size);
        self.memory.write(self.offset + offset, data);
    }

    fn load_acquire(&self, offset: usize) -> u64 {
        assert!(offset + 8 <= self.size);
        self.memory
            .load_u64(self.offset + offset, Ordering::Acquire)
    }
}

/// The interrupts of a device.
#[derive(Debug)]
pub struct Interrupts {
    file: File,
    seen: u32,
}

impl Interrupts {
    /// Returns the number of interrupts since the last call; waits if there was none.
    pub fn wait(&mut self) -> io::Result<u64> {
        let mut bytes = [0; 4];
        self.file.read_exact(&mut bytes)?;
        let count = u32::from_ne_bytes(bytes);
        let new = count.wrapping_sub(self.seen);
        self.seen = count;
        Ok(new.into())
    }
}

impl AsFd for Interrupts {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A device by UIO.
pub type UioParts = Parts<Registers, Block, DeviceMemory>;

impl Found {
    /// Opens the device, and the memory of its peer. With `remap`, its blocks can move.
    ///
    /// # Errors
    ///
    /// `AddrNotAvailable`, with a remedy, if a BAR has no address.
    pub fn open(&self, peer: Option<&Found>, remap: bool) -> io::Result<(UioParts, Interrupts)> {
        let resources = fs::read_to_string(self.sysfs.join("device/resource"))?;
        for (bar, what) in [(0, "registers"), (2, "device memory")] {
            if !has_address(&resources, bar) {
                return Err(io::Error::new(
                    io::ErrorKind::AddrNotAvailable,
                    format!(
                        "BAR {bar} ({what}) has no address in the guest: there was no room below its bridge. \
                         For a device that is plugged in later, give QEMU's pcie-root-port the property \
                         pref64-reserve, at least as large as the BAR"
                    ),
                ));
            }
        }
        let file = self.file()?;
        let map = |i| self.map(&file, i);
        let (registers, window, memory, table) = (map(0)?, map(1)?, Rc::new(map(2)?), map(3)?);
        let addresses: Vec<u64> = (0..table.len())
            .step_by(8)
            .map(|at| table.load_u64(at, Ordering::Relaxed))
            .take_while(|address| *address != 0)
            .collect();
        let size = memory.len() / addresses.len().max(1);
        let blocks = addresses.iter().enumerate().map(|(i, iova)| Block {
            index: i,
            memory: memory.clone(),
            offset: i * size,
            size,
            iova: *iova,
        });
        let mut parts = Parts {
            registers: Registers(registers),
            window: DeviceMemory(window),
            blocks: blocks.collect(),
            remap: None,
            peer: peer.map(Found::lend).transpose()?,
            lent: if peer.is_some() { LENT as u64 } else { 0 },
        };
        if remap {
            let attribute = self.sysfs.join("device/remap");
            parts.remap = Some(Box::new(move |mut block: Block| {
                fs::write(&attribute, block.index.to_string())?;
                block.iova = table.load_u64(block.index * 8, Ordering::Relaxed);
                Ok(block)
            }));
        }
        Ok((parts, Interrupts { file, seen: 0 }))
    }

    fn file(&self) -> io::Result<File> {
        let name = self.sysfs.file_name().unwrap_or_default();
        let path = Path::new("/dev").join(name);
        File::options().read(true).write(true).open(path)
    }

    fn map(&self, file: &File, i: u64) -> io::Result<Mapping> {
        let size = number(&self.sysfs.join(format!("maps/map{i}/size")))?;
        Mapping::of_file(file, i * PAGE, size as usize, Protection::READ_WRITE)
    }

    /// Returns the end of its device memory, for the DMA of another device. The address of the BAR is that on the bus,
    /// because this guest's devices have no IOMMU.
    fn lend(&self) -> io::Result<Block> {
        let memory = self.map(&self.file()?, 1)?;
        let bar = number(&self.sysfs.join("maps/map1/addr"))?;
        let Some(offset) = memory.len().checked_sub(LENT) else {
            return Err(io::Error::other(format!(
                "{}: too little memory to lend",
                self.pci
            )));
        };
        Ok(Block {
            index: usize::MAX,
            memory: Rc::new(memory),
            offset,
            size: LENT,
            iova: bar + offset as u64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESOURCES: &str = "\
0x00000000fea00000 0x00000000fea00fff 0x0000000000040200
0x0000000000000000 0x0000000000000000 0x0000000000000000
0x0000000000000000 0x0000000000000000 0x0000000000000000
";

    #[test]
    fn a_bar_without_an_address_is_told() {
        assert!(has_address(RESOURCES, 0));
        assert!(!has_address(RESOURCES, 2));
        assert!(!has_address(RESOURCES, 9));
        assert!(!has_address("", 0));
    }
}
