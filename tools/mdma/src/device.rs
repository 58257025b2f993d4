// SPDX-License-Identifier: GPL-2.0

//! A device: its registers by name.

use mdma_model::regs::{self, Reg, REGISTERS};

use crate::error::{Error, Result};
use crate::transport::Bar;
use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

/// Timeout of the last unit of a queue that was disabled.
const DISABLE_TIMEOUT: Duration = Duration::from_secs(10);

/// An `mdma` device.
#[derive(Clone, Debug)]
pub struct Mdma<B> {
    bar: B,
    memory_size: u64,
}

impl<B: Bar> Mdma<B> {
    /// Takes over a device after checking its identity.
    pub fn new(bar: B) -> Result<Self> {
        let mut mdma = Mdma {
            bar,
            memory_size: 0,
        };
        for (reg, expected) in [(Reg::Id, regs::ID), (Reg::Version, regs::VERSION)] {
            let found = mdma.get(reg)?;
            let expected = u64::from(expected);
            if found != expected {
                return Err(Error::Foreign {
                    name: reg.row().name,
                    found,
                    expected,
                });
            }
        }
        mdma.memory_size = mdma.get(Reg::MemSize)?;
        Ok(mdma)
    }

    /// Returns the transport of the registers.
    pub fn bar(&self) -> &B {
        &self.bar
    }

    /// Returns the size of device memory in bytes.
    pub fn memory_size(&self) -> u64 {
        self.memory_size
    }

    /// Reads a register.
    pub fn get(&self, reg: Reg) -> Result<u64> {
        let row = reg.row();
        match row.width {
            8 => self.bar.read64(row.offset),
            _ => self.bar.read32(row.offset).map(u64::from),
        }
        .map_err(|source| Error::Register {
            name: row.name,
            value: None,
            source,
        })
    }

    /// Writes a register.
    ///
    /// # Panics
    ///
    /// If the register has 32 bits and `value` needs more.
    pub fn set(&self, reg: Reg, value: u64) -> Result<()> {
        let row = reg.row();
        match row.width {
            8 => self.bar.write64(row.offset, value),
            _ => {
                let value = u32::try_from(value).expect("a register of 32 bits");
                self.bar.write32(row.offset, value)
            }
        }
        .map_err(|source| Error::Register {
            name: row.name,
            value: Some(value),
            source,
        })
    }

    /// Reads all registers.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let mut values = [0; regs::COUNT];
        for (value, row) in values.iter_mut().zip(&REGISTERS) {
            *value = self.get(row.reg)?;
        }
        Ok(Snapshot { values })
    }

    /// Returns whether the queue has a job or a unit is in flight.
    pub fn busy(&self) -> Result<bool> {
        Ok(self.get(Reg::Status)? & u64::from(regs::STATUS_BUSY) != 0)
    }

    /// Returns an error if the queue has halted.
    pub fn check_halted(&self) -> Result<()> {
        if self.get(Reg::Status)? & u64::from(regs::STATUS_HALTED) == 0 {
            return Ok(());
        }
        Err(Error::Halted {
            error: self.get(Reg::Error)?,
            index: self.get(Reg::ErrorIndex)?,
        })
    }

    /// Disables the queue and waits until the device no longer accesses guest memory.
    ///
    /// Registers that are not about the queue keep their values.
    pub fn disable(&self) -> Result<()> {
        self.set(Reg::Control, 0)?;
        let start = Instant::now();
        while self.busy()? {
            if start.elapsed() > DISABLE_TIMEOUT {
                return Err(Error::Timeout {
                    what: "end of the unit in flight",
                    after: DISABLE_TIMEOUT,
                });
            }
            thread::sleep(Duration::from_micros(100));
        }
        Ok(())
    }

    /// Selects the causes that interrupt: [`regs::INT_COMPLETION`], [`regs::INT_HALT`].
    pub fn set_interrupts(&self, mask: u32) -> Result<()> {
        self.set(Reg::IntMask, mask.into())
    }

    /// Clears the pending causes of interrupts and returns them.
    pub fn acknowledge(&self) -> Result<u32> {
        let cause = self.get(Reg::IntCause)?;
        if cause != 0 {
            self.set(Reg::IntCause, cause)?;
        }
        Ok(cause as u32)
    }

    /// Sets the device's wait after each unit, in microseconds.
    pub fn set_throttle(&self, us: u32) -> Result<()> {
        self.set(Reg::Throttle, us.into())
    }
}

/// The values of all registers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    values: [u64; regs::COUNT],
}

impl Snapshot {
    /// Returns the value of one register.
    pub fn get(&self, reg: Reg) -> u64 {
        self.values[reg as usize]
    }

    /// Returns names and values, in the order of the table.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        REGISTERS
            .iter()
            .map(|row| row.name)
            .zip(self.values.iter().copied())
    }

    /// Returns the registers that differ: name, value here, value there.
    pub fn diff(&self, other: &Snapshot) -> Vec<(&'static str, u64, u64)> {
        self.iter()
            .zip(other.values)
            .filter(|((_, here), there)| here != there)
            .map(|((name, here), there)| (name, here, there))
            .collect()
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in self.iter() {
            writeln!(f, "{name:<16} {value:#x}")?;
        }
        Ok(())
    }
}
