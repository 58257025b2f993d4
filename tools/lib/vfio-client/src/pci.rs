// SPDX-License-Identifier: GPL-2.0

//! PCI configuration space, as a VMM uses it.

use vfio_bindings::bindings::vfio::VFIO_PCI_CONFIG_REGION_INDEX;

use crate::device::Device;
use crate::error::{Error, Result};
use crate::region::Region;

/// Offsets in the header.
pub mod offset {
    /// Vendor id.
    pub const VENDOR: u64 = 0x00;
    /// Device id.
    pub const DEVICE: u64 = 0x02;
    /// Command.
    pub const COMMAND: u64 = 0x04;
    /// Status.
    pub const STATUS: u64 = 0x06;
    /// Revision, then class.
    pub const REVISION: u64 = 0x08;
    /// First base address register.
    pub const BAR0: u64 = 0x10;
    /// Subsystem vendor id.
    pub const SUBSYSTEM_VENDOR: u64 = 0x2c;
    /// Start of the capability list.
    pub const CAPABILITIES: u64 = 0x34;
    /// Interrupt line.
    pub const INTERRUPT_LINE: u64 = 0x3c;
    /// Interrupt pin.
    pub const INTERRUPT_PIN: u64 = 0x3d;
}

/// I/O decoding, in the command register. It stays 0 in a device without I/O BARs.
pub const COMMAND_IO: u16 = 1 << 0;
/// Memory decoding, in the command register.
pub const COMMAND_MEMORY: u16 = 1 << 1;
/// Bus mastering, in the command register: the device may do DMA.
pub const COMMAND_MASTER: u16 = 1 << 2;
/// INTx disable, in the command register.
pub const COMMAND_INTX_DISABLE: u16 = 1 << 10;

/// Capability IDs.
pub mod capability {
    /// Message signalled interrupts.
    pub const MSI: u8 = 0x05;
    /// Extended message signalled interrupts.
    pub const MSIX: u8 = 0x11;
}

/// Size of conventional configuration space, the part that is copied.
pub const SIZE: usize = 256;
/// Size of its header. A device may offer less than all of the space, but at least this.
pub const HEADER_SIZE: usize = 64;

/// Configuration space of an opened device.
#[derive(Clone, Debug)]
pub struct Config(Region);

/// A copy of configuration space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot(Vec<u8>);

impl Device {
    /// Returns PCI configuration space.
    pub fn config(&self) -> Result<Config> {
        Config::new(self)
    }
}

impl Config {
    fn new(device: &Device) -> Result<Self> {
        let region = device.region(VFIO_PCI_CONFIG_REGION_INDEX)?;
        if region.info().size < HEADER_SIZE as u64 {
            return Err(Error::not_found("configuration space", "not a PCI device"));
        }
        Ok(Config(region))
    }

    /// Returns the region, for other accesses.
    pub fn region(&self) -> &Region {
        &self.0
    }

    /// Reads the command register.
    pub fn command(&self) -> Result<u16> {
        self.0.read_u16(offset::COMMAND)
    }

    /// Writes the command register.
    pub fn set_command(&self, command: u16) -> Result<()> {
        self.0.write_u16(offset::COMMAND, command)
    }

    /// Sets I/O and memory decoding and bus mastering, as far as the device has them: the first step of a driver.
    pub fn enable(&self) -> Result<()> {
        self.set_command(self.command()? | COMMAND_IO | COMMAND_MEMORY | COMMAND_MASTER)
    }

    /// Sets or clears bus mastering.
    pub fn set_bus_master(&self, on: bool) -> Result<()> {
        let command = self.command()? & !COMMAND_MASTER;
        self.set_command(command | if on { COMMAND_MASTER } else { 0 })
    }

    /// Returns vendor and device ID.
    pub fn ids(&self) -> Result<(u16, u16)> {
        Ok((
            self.0.read_u16(offset::VENDOR)?,
            self.0.read_u16(offset::DEVICE)?,
        ))
    }

    /// Reads all of it in words, at most [`SIZE`] bytes.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let size = self.0.info().size.min(SIZE as u64) as usize & !3;
        let mut bytes = vec![0; size];
        for at in (0..size).step_by(4) {
            self.0.read(at as u64, &mut bytes[at..at + 4])?;
        }
        Ok(Snapshot(bytes))
    }

    /// Writes a snapshot of a device of the same kind, as far as registers are writable, and returns the number of
    /// words changed.
    ///
    /// A VMM does this on the destination of a migration. Base addresses and capabilities come first and the command
    /// register last, so that the device does not run half configured. Read-only bits do not change. Identity words
    /// that differ are an error, because this is then another device.
    pub fn restore(&self, snapshot: &Snapshot) -> Result<usize> {
        let step = "restore configuration space";
        let word = |at: usize| u32::from_le_bytes(snapshot.0[at..at + 4].try_into().unwrap());
        for at in [offset::VENDOR, offset::REVISION, offset::SUBSYSTEM_VENDOR] {
            let here = self.0.read_u32(at)?;
            let there = word(at as usize);
            if u32::from_le(here) != there {
                return Err(Error::other(
                    format!("configuration word {at:#x}"),
                    format!("is {here:#x} here and {there:#x} at the source: not the same device"),
                )
                .during(step));
            }
        }
        let mut changed = 0;
        let command = offset::COMMAND as usize;
        for at in (0..snapshot.0.len()).step_by(4).filter(|at| *at != command) {
            if self.0.read_u32(at as u64).map(u32::from_le)? != word(at) {
                self.0
                    .write_u32(at as u64, word(at).to_le())
                    .map_err(|e| e.during(step))?;
                changed += 1;
            }
        }
        let command = snapshot.command();
        if self.command()? != command {
            self.set_command(command).map_err(|e| e.during(step))?;
            changed += 1;
        }
        Ok(changed)
    }

    /// Finds a capability and returns its offset.
    pub fn find_capability(&self, id: u8) -> Result<Option<u64>> {
        Ok(self.snapshot()?.find_capability(id).map(u64::from))
    }
}

impl Snapshot {
    /// Takes stored bytes. Returns `None` unless they are whole words from [`HEADER_SIZE`] to [`SIZE`] bytes.
    pub fn from_bytes(bytes: Vec<u8>) -> Option<Self> {
        let len = bytes.len();
        ((HEADER_SIZE..=SIZE).contains(&len) && len % 4 == 0).then_some(Snapshot(bytes))
    }

    /// Returns the bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the command register.
    pub fn command(&self) -> u16 {
        u16::from_le_bytes([self.0[4], self.0[5]])
    }

    /// Finds a capability and returns its offset. A loop ends the search.
    pub fn find_capability(&self, id: u8) -> Option<u8> {
        const STATUS_LIST: u8 = 1 << 4;
        if self.0.get(offset::STATUS as usize)? & STATUS_LIST == 0 {
            return None;
        }
        let mut at = self.0.get(offset::CAPABILITIES as usize)? & !3;
        for _ in 0..SIZE / 4 {
            if at < 0x40 {
                return None;
            }
            if *self.0.get(usize::from(at))? == id {
                return Some(at);
            }
            at = self.0.get(usize::from(at) + 1)? & !3;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_bytes_are_checked() {
        for (len, right) in [
            (60, false),
            (64, true),
            (252, true),
            (255, false),
            (256, true),
            (260, false),
        ] {
            assert_eq!(Snapshot::from_bytes(vec![0; len]).is_some(), right, "{len}");
        }
    }

    #[test]
    fn capability_list() {
        let mut b = vec![0; SIZE];
        b[0x06] = 0x10;
        b[0x34] = 0x40;
        b[0x40] = 0x05;
        b[0x41] = 0x60;
        b[0x60] = 0x11;
        let s = Snapshot(b.clone());
        assert_eq!(s.find_capability(capability::MSI), Some(0x40));
        assert_eq!(s.find_capability(capability::MSIX), Some(0x60));
        assert_eq!(s.find_capability(0x10), None);
        b[0x61] = 0x40;
        assert_eq!(Snapshot(b.clone()).find_capability(0x10), None);
        b[0x06] = 0;
        assert_eq!(Snapshot(b).find_capability(0x05), None);
    }
}
