// SPDX-License-Identifier: GPL-2.0

//! The namespace as a disk.

use mnvme_model::{BLOCK, PAGE, TRANSFER_MAX};
use vfio_client::Device;

use crate::command::{Command, IDENTIFY, READ, WRITE, WRITE_ZEROES};
use crate::driver::{Driver, DATA, MEMORY};
use crate::error::Result;

/// IOVA of the PRP list, behind the data of a transfer.
const LIST: u64 = DATA + TRANSFER_MAX as u64;

/// The disk of a controller that nobody else uses.
#[derive(Debug)]
pub struct Disk {
    driver: Driver,
    blocks: u64,
}

impl Disk {
    /// The most bytes of a transfer.
    pub const TRANSFER_MAX: usize = TRANSFER_MAX;
    /// The most bytes that are set to zero at once.
    pub const ZERO_MAX: usize = BLOCK << 16;

    /// Resets and enables the controller of a device.
    pub fn open(device: &Device) -> Result<Self> {
        let mut driver = Driver::new(device)?;
        driver.enable(1)?;
        // The same list serves all transfers.
        for page in 1..TRANSFER_MAX / PAGE {
            let at = (LIST - MEMORY) as usize + 8 * (page - 1);
            let iova = DATA + (page * PAGE) as u64;
            driver.memory().write(at, &iova.to_le_bytes());
        }
        let mut disk = Disk { driver, blocks: 0 };
        let mut identify = Command::admin(IDENTIFY, 0, 0, DATA);
        identify.nsid = 1;
        disk.driver
            .succeed("identify the namespace", 0, &identify)?;
        let mut size = [0; 8];
        disk.driver
            .memory()
            .read((DATA - MEMORY) as usize, &mut size);
        disk.blocks = u64::from_le_bytes(size);
        Ok(disk)
    }

    /// Returns the size in bytes.
    pub fn size(&self) -> u64 {
        self.blocks * BLOCK as u64
    }

    /// Does an I/O command on a range of bytes, which are whole blocks.
    fn transfer(&mut self, what: &'static str, opcode: u8, at: u64, len: usize) -> Result {
        let prp2 = match len.div_ceil(PAGE) {
            0 | 1 => 0,
            2 => DATA + PAGE as u64,
            _ => LIST,
        };
        let (slba, blocks) = (at / BLOCK as u64, (len / BLOCK) as u32);
        let command = Command::blocks(opcode, slba, blocks, DATA, prp2);
        self.driver.succeed(what, 1, &command).map(drop)
    }

    /// Reads whole blocks, at most [`Disk::TRANSFER_MAX`] bytes.
    pub fn read(&mut self, at: u64, data: &mut [u8]) -> Result {
        self.transfer("read", READ, at, data.len())?;
        self.driver.memory().read((DATA - MEMORY) as usize, data);
        Ok(())
    }

    /// Writes whole blocks, at most [`Disk::TRANSFER_MAX`] bytes.
    pub fn write(&mut self, at: u64, data: &[u8]) -> Result {
        self.driver.memory().write((DATA - MEMORY) as usize, data);
        self.transfer("write", WRITE, at, data.len())
    }

    /// Sets whole blocks to zero, at most [`Disk::ZERO_MAX`] bytes.
    pub fn zero(&mut self, at: u64, len: usize) -> Result {
        self.transfer("write zeroes", WRITE_ZEROES, at, len)
    }

    /// Resets the controller.
    pub fn close(self) -> Result {
        self.driver.disable()
    }
}
