// SPDX-License-Identifier: GPL-2.0

//! Features: the table, and their values.

use crate::command::{Command, ALL_NAMESPACES, NAMESPACE};
use crate::status::Status;
use crate::{IO_QUEUES, QUEUES};

/// How many features have a value that is one number.
pub const COUNT: usize = 8;

/// Index of Volatile Write Cache in [`FEATURES`].
pub const VWC: usize = 3;
/// Index of Asynchronous Event Configuration in [`FEATURES`].
pub const EVENTS: usize = 6;
/// Index of Temperature Threshold in [`FEATURES`].
pub const TEMPERATURE: usize = 7;

/// Error Recovery, the only feature of a namespace.
const ERROR_RECOVERY: u8 = 0x05;
/// Number of Queues.
pub const QUEUE_COUNT: u8 = 0x07;
/// Interrupt Vector Configuration.
pub const VECTOR: u8 = 0x09;

/// The composite temperature, in kelvins. It never changes.
pub const COMPOSITE: u16 = 310;
/// The temperature from which on software should be warned.
pub const WARNING: u16 = 343;
/// The critical temperature.
pub const CRITICAL: u16 = 373;

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Feature {
    /// Feature identifier.
    pub id: u8,
    /// Its name.
    pub name: &'static str,
    /// The bits of dword 11 that are kept.
    pub mask: u32,
    /// The value after a reset of the controller.
    pub default: u32,
    /// What it does.
    pub meaning: &'static str,
}

/// The features whose value is one number.
#[rustfmt::skip]
pub const FEATURES: [Feature; COUNT] = [
    Feature { id: 0x01, name: "Arbitration", mask: 0xffff_ff07, default: 0, meaning: "No effect: arbitration is round robin." },
    Feature { id: 0x02, name: "Power Management", mask: 0xe0, default: 0, meaning: "The power state must be 0." },
    Feature { id: ERROR_RECOVERY, name: "Error Recovery", mask: 0xffff, default: 0, meaning: "No effect." },
    Feature { id: 0x06, name: "Volatile Write Cache", mask: 0x1, default: 1, meaning: "No effect: a completed write is in the storage." },
    Feature { id: 0x08, name: "Interrupt Coalescing", mask: 0xffff, default: 0, meaning: "No effect: each completion interrupts." },
    Feature { id: 0x0a, name: "Write Atomicity Normal", mask: 0x1, default: 0, meaning: "No effect: a command is atomic." },
    Feature { id: 0x0b, name: "Asynchronous Event Configuration", mask: 0xff, default: 0, meaning: "Bit 1: the temperature threshold causes an event." },
    Feature { id: 0x04, name: "Temperature Threshold", mask: 0xffff, default: WARNING as u32, meaning: "Over temperature of the composite temperature, which is 310 K. The other sensors do not exist." },
];

/// The values of the features.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// The values of [`FEATURES`].
    pub values: [u32; COUNT],
    /// The under temperature threshold.
    pub under: u16,
    /// The vectors with coalescing disabled.
    pub uncoalesced: u16,
}

impl Default for Features {
    fn default() -> Self {
        Self {
            values: FEATURES.map(|feature| feature.default),
            under: 0,
            uncoalesced: 0,
        }
    }
}

impl Features {
    /// Returns whether the composite temperature is outside its thresholds.
    pub fn is_hot(&self) -> bool {
        u32::from(COMPOSITE) >= self.values[TEMPERATURE] || COMPOSITE <= self.under
    }

    /// Get Features. Returns dword 0 of the completion.
    pub(crate) fn get_command(&self, command: &Command) -> Result<u32, Status> {
        let (id, dw11) = (command.dw10() as u8, command.dw11());
        match (command.dw10() >> 8) & 7 {
            // Nothing can be saved, so the saved value is the default.
            0 => self.get(id, dw11),
            1 | 2 => Features::default().get(id, dw11),
            3 => {
                Features::default().get(id, dw11)?;
                // Changeable.
                Ok(1 << 2)
            }
            _ => Err(Status::InvalidField),
        }
    }

    /// Set Features. Returns dword 0 of the completion.
    pub(crate) fn set_command(&mut self, command: &Command) -> Result<u32, Status> {
        if command.dw10() >> 31 != 0 {
            return Err(Status::FeatureNotSaveable);
        }
        let (id, dw11) = (command.dw10() as u8, command.dw11());
        // An unknown feature is an invalid field, whatever the namespace.
        self.get(id, dw11)?;
        match command.nsid {
            0 | ALL_NAMESPACES => {}
            NAMESPACE if id == ERROR_RECOVERY => {}
            NAMESPACE => return Err(Status::FeatureNotOfNamespace),
            _ => return Err(Status::InvalidNamespace),
        }
        self.set(id, dw11)
    }

    /// Returns the value of a feature.
    fn get(&self, id: u8, dw11: u32) -> Result<u32, Status> {
        match (id, index(id)) {
            (QUEUE_COUNT, _) => Ok(queue_count()),
            (VECTOR, _) => {
                let vector = vector(dw11)?;
                Ok(vector | (u32::from((self.uncoalesced >> vector) & 1) << 16))
            }
            (_, Some(TEMPERATURE)) => match threshold(dw11)? {
                Threshold::Over => Ok(self.values[TEMPERATURE]),
                Threshold::Under => Ok(self.under.into()),
                Threshold::None => Ok(0),
            },
            (_, Some(index)) => Ok(self.values[index]),
            (_, None) => Err(Status::InvalidField),
        }
    }

    /// Sets the value of a feature.
    fn set(&mut self, id: u8, dw11: u32) -> Result<u32, Status> {
        match (id, index(id)) {
            (QUEUE_COUNT, _) => {
                if dw11 & 0xffff == 0xffff || dw11 >> 16 == 0xffff {
                    return Err(Status::InvalidField);
                }
                return Ok(queue_count());
            }
            (VECTOR, _) => {
                let bit = 1 << vector(dw11)?;
                let on = (dw11 >> 16) & 1 != 0;
                self.uncoalesced = self.uncoalesced & !bit | if on { bit } else { 0 };
            }
            (_, Some(TEMPERATURE)) => match threshold(dw11)? {
                Threshold::Over => self.values[TEMPERATURE] = dw11 & 0xffff,
                Threshold::Under => self.under = dw11 as u16,
                Threshold::None => {}
            },
            // A power state above NPSS.
            (0x02, _) if dw11 & 0x1f != 0 => return Err(Status::InvalidField),
            (_, Some(index)) => self.values[index] = dw11 & FEATURES[index].mask,
            (_, None) => return Err(Status::InvalidField),
        }
        Ok(0)
    }
}

/// Returns the index of a feature in the table.
fn index(id: u8) -> Option<usize> {
    FEATURES.iter().position(|feature| feature.id == id)
}

/// Returns the value of Number of Queues: all of them, whatever software asks for.
fn queue_count() -> u32 {
    let count = IO_QUEUES as u32 - 1;
    count | (count << 16)
}

/// Returns the vector in dword 11.
fn vector(dw11: u32) -> Result<u32, Status> {
    let vector = dw11 & 0xffff;
    (vector < QUEUES as u32)
        .then_some(vector)
        .ok_or(Status::InvalidField)
}

/// A temperature threshold.
enum Threshold {
    Over,
    Under,
    /// That of a sensor that does not exist.
    None,
}

/// Returns the threshold that dword 11 selects.
fn threshold(dw11: u32) -> Result<Threshold, Status> {
    let over = match (dw11 >> 20) & 3 {
        0 => Threshold::Over,
        1 => Threshold::Under,
        _ => return Err(Status::InvalidField),
    };
    match (dw11 >> 16) & 0xf {
        // The composite temperature, or all sensors.
        0 | 0xf => Ok(over),
        1..=8 => Ok(Threshold::None),
        _ => Err(Status::InvalidField),
    }
}
