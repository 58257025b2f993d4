// SPDX-License-Identifier: GPL-2.0

//! Registers that keep what is written, and that migrate.

use vfio_client::{Device, Error, Region, Result};
use vfio_migrate::{Destination, Protocol, Source};

/// BARs are the first regions.
pub(crate) const BARS: u32 = 6;
/// The part of a BAR that is searched for registers.
const SEARCHED: u64 = 4096;
/// Widths of registers, the widest first.
const WIDTHS: [usize; 3] = [4, 2, 1];
/// Values that a register must keep.
const TRIED: [u32; 2] = [0x5a5a_5a5a, 0x2581_4365];

/// A register that keeps what is written, and that migrates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register {
    /// Its BAR.
    pub bar: u32,
    /// Its offset there.
    pub offset: u64,
    /// Its size: 1, 2 or 4 bytes.
    pub width: usize,
    /// Its value at power-on.
    pub power_on: u32,
}

impl Register {
    /// Returns the first of the widest registers of an enabled device. The device is reset for this.
    ///
    /// # Errors
    ///
    /// There is none, or the device does not migrate.
    pub fn find(device: &Device) -> Result<Self> {
        match Self::search(device, true)?[..] {
            [first, ..] => Ok(first),
            [] => Err(Error::not_found(
                format!("device {}", device.name()),
                "no register keeps what is written, is reset and migrates",
            )),
        }
    }

    /// Returns the widest registers of an enabled device, all of one width; none if there is none. The device is reset
    /// for this.
    ///
    /// # Errors
    ///
    /// The device does not migrate.
    pub fn all(device: &Device) -> Result<Vec<Self>> {
        Self::search(device, false)
    }

    /// Returns its region of a device.
    ///
    /// # Errors
    ///
    /// Those of the system call.
    pub fn region(&self, device: &Device) -> Result<Region> {
        device.region(self.bar)
    }

    /// Returns what the register keeps of a value.
    pub fn kept(&self, value: u32) -> u32 {
        match self.width {
            4 => value,
            width => value & ((1 << (8 * width)) - 1),
        }
    }

    /// Reads the register.
    ///
    /// # Errors
    ///
    /// Those of the system call.
    pub fn read(&self, region: &Region) -> Result<u32> {
        let mut bytes = [0; 4];
        region.read(self.offset, &mut bytes[..self.width])?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Writes the register.
    ///
    /// # Errors
    ///
    /// Those of the system call.
    pub fn write(&self, region: &Region, value: u32) -> Result<()> {
        region.write(self.offset, &value.to_le_bytes()[..self.width])
    }

    /// Searches the BARs that cannot be mapped.
    fn search(device: &Device, one: bool) -> Result<Vec<Self>> {
        let mut found = Vec::new();
        for width in WIDTHS {
            for bar in 0..BARS {
                let region = device.region(bar)?;
                let info = region.info();
                if !info.areas().is_empty() || !info.readable() || !info.writable() {
                    continue;
                }
                for offset in (0..info.size.min(SEARCHED)).step_by(width) {
                    let register = Register {
                        bar,
                        offset,
                        width,
                        power_on: 0,
                    };
                    found.extend(register.tried(&region)?);
                    if one && !found.is_empty() {
                        return Ok(found);
                    }
                }
            }
            if !found.is_empty() {
                break;
            }
        }
        Ok(found)
    }

    /// Returns the register with its value at power-on, if it can be used.
    fn tried(mut self, region: &Region) -> Result<Option<Self>> {
        let device = region.device();
        self.power_on = self.read(region)?;
        for value in TRIED {
            self.write(region, value)?;
            if self.read(region)? != self.kept(value) {
                device.reset()?;
                return Ok(None);
            }
        }
        let value = self.read(region)?;
        let stream = save(device)?;
        device.reset()?;
        if self.read(region)? != self.power_on {
            return Ok(None);
        }
        load(device, &stream)?;
        let loaded = self.read(region)?;
        device.reset()?;
        Ok((loaded == value).then_some(self))
    }
}

/// Saves a device, and leaves it stopped.
fn save(device: &Device) -> Result<Vec<Vec<u8>>> {
    let mut buffers = Vec::new();
    let mut save = || {
        let mut source = Source::new(device, Protocol::Auto, None)?;
        source.stop_and_copy()?;
        let mut buffer = Vec::new();
        while source.next(&mut buffer)? {
            buffers.push(std::mem::take(&mut buffer));
        }
        source.end()
    };
    save().map_err(|failure| failure.error)?;
    Ok(buffers)
}

/// Loads a device and runs it.
fn load(device: &Device, stream: &[Vec<u8>]) -> Result<()> {
    let load = || {
        let mut destination = Destination::new(device, Protocol::Auto, None)?;
        destination.resume()?;
        stream
            .iter()
            .try_for_each(|buffer| destination.load(buffer))?;
        destination.run()
    };
    load().map_err(|failure| failure.error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_register_keeps_what_fits() {
        let kept = |width, value| {
            let register = Register {
                bar: 0,
                offset: 0,
                width,
                power_on: 0,
            };
            register.kept(value)
        };
        assert_eq!(kept(4, 0x8765_4321), 0x8765_4321);
        assert_eq!(kept(2, 0x8765_4321), 0x4321);
        assert_eq!(kept(1, 0x8765_4321), 0x21);
        // One value must not be what is left of the other.
        for width in WIDTHS {
            assert_ne!(kept(width, TRIED[0]), kept(width, TRIED[1]));
        }
    }
}
