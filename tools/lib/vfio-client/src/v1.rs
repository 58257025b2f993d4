// SPDX-License-Identifier: GPL-2.0

//! Migration protocol v1: the register block of the migration region, as QEMU 7.2 drives it.
//!
//! ```text
//! save one buffer           load one buffer
//!   read8  pending_bytes      read8  data_offset
//!   read8  data_offset        data   copied to data_offset
//!   read8  data_size          write8 data_size
//!   data   copied from data_offset
//! ```

use std::fmt;
use std::ops::Deref;

use vfio_bindings::bindings::vfio::{
    vfio_device_migration_info, VFIO_DEVICE_STATE_V1_RESUMING, VFIO_DEVICE_STATE_V1_RUNNING,
    VFIO_DEVICE_STATE_V1_SAVING, VFIO_REGION_SUBTYPE_MIGRATION_DEPRECATED,
    VFIO_REGION_TYPE_MIGRATION_DEPRECATED,
};

use crate::device::Device;
use crate::error::{Error, Result};
pub use crate::section::Access;
use crate::section::Section;

/// Offsets of the register block (P2).
pub mod offset {
    use super::vfio_device_migration_info as info;
    use std::mem::offset_of;

    /// u32, read and write.
    pub const DEVICE_STATE: u64 = offset_of!(info, device_state) as u64;
    /// u32, reads 0.
    pub const RESERVED: u64 = offset_of!(info, reserved) as u64;
    /// u64, read only.
    pub const PENDING_BYTES: u64 = offset_of!(info, pending_bytes) as u64;
    /// u64, read only.
    pub const DATA_OFFSET: u64 = offset_of!(info, data_offset) as u64;
    /// u64, read and write.
    pub const DATA_SIZE: u64 = offset_of!(info, data_size) as u64;
}

/// The value of `device_state` (P7).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct State(pub u32);

impl State {
    /// 000.
    pub const STOP: State = State(0);
    /// 001, the default.
    pub const RUNNING: State = State(VFIO_DEVICE_STATE_V1_RUNNING);
    /// 010.
    pub const STOP_AND_COPY: State = State(VFIO_DEVICE_STATE_V1_SAVING);
    /// 011.
    pub const PRE_COPY: State = State(VFIO_DEVICE_STATE_V1_SAVING | VFIO_DEVICE_STATE_V1_RUNNING);
    /// 100.
    pub const RESUMING: State = State(VFIO_DEVICE_STATE_V1_RESUMING);
    /// 110: only a reset leaves it.
    pub const ERROR: State = State(VFIO_DEVICE_STATE_V1_SAVING | VFIO_DEVICE_STATE_V1_RESUMING);

    /// Returns the name of a valid state.
    pub fn name(self) -> Option<&'static str> {
        Some(match self {
            State::STOP => "stop",
            State::RUNNING => "running",
            State::STOP_AND_COPY => "stop-and-copy",
            State::PRE_COPY => "pre-copy",
            State::RESUMING => "resuming",
            State::ERROR => "error",
            _ => return None,
        })
    }

    /// Returns whether the device runs in it.
    pub fn is_running(self) -> bool {
        self.0 & VFIO_DEVICE_STATE_V1_RUNNING != 0
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#05b}", self.0),
        }
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{:#05b} ({name})", self.0),
            None => write!(f, "{:#05b}", self.0),
        }
    }
}

/// The migration region of an opened device.
#[derive(Debug)]
pub struct Migration {
    section: Section,
}

impl Deref for Migration {
    type Target = Section;

    fn deref(&self) -> &Section {
        &self.section
    }
}

impl Device {
    /// Returns the migration region of protocol v1, if the device has it.
    pub fn migration_v1(&self) -> Result<Option<Migration>> {
        Migration::find(self)
    }
}

impl Migration {
    /// Finds the region by its type capability (P1), and maps its data section if possible.
    pub fn find(device: &Device) -> Result<Option<Self>> {
        let region = device.region_of_type(
            VFIO_REGION_TYPE_MIGRATION_DEPRECATED,
            VFIO_REGION_SUBTYPE_MIGRATION_DEPRECATED,
        )?;
        let Some(region) = region else {
            return Ok(None);
        };
        let section = Section::new(region)?;
        Ok(Some(Migration { section }))
    }

    /// Sets how data moves. `Mapped` needs a mappable region.
    pub fn set_access(&mut self, access: Access) -> Result<()> {
        self.section.set_access(access)
    }

    /// Reads `device_state`.
    pub fn state(&self) -> Result<State> {
        self.region()
            .read_u32(offset::DEVICE_STATE)
            .map(State)
            .map_err(|e| Error::new("device_state", e.source))
    }

    /// Writes `device_state` once.
    pub fn write_state(&self, state: State) -> Result<()> {
        self.region()
            .write_u32(offset::DEVICE_STATE, state.0)
            .map_err(|e| Error::new(format!("device_state ← {:#05b}", state.0), e.source))
    }

    /// Changes the state, and reads it back if the write failed.
    ///
    /// The error names the state that the device is left in, unless the state did not change.
    pub fn set_state(&self, state: State) -> Result<()> {
        let before = self.state()?;
        self.write_state(state).map_err(|mut e| {
            match self.state() {
                Ok(after) if after == before => {}
                Ok(after) => e.field = format!("{}, left in state {after}", e.field).into(),
                Err(_) => e.field = format!("{}, state unreadable", e.field).into(),
            }
            e
        })
    }

    /// Reads `pending_bytes`. This marks a staged buffer as consumed (P19).
    pub fn pending_bytes(&self) -> Result<u64> {
        self.register("pending_bytes", offset::PENDING_BYTES)
    }

    /// Reads `data_offset`. While saving, this stages the next buffer (P17).
    pub fn data_offset(&self) -> Result<u64> {
        self.register("data_offset", offset::DATA_OFFSET)
    }

    /// Reads `data_size`.
    pub fn data_size(&self) -> Result<u64> {
        self.register("data_size", offset::DATA_SIZE)
    }

    /// Writes `data_size`, which applies the bytes written to the data section (P24).
    pub fn write_data_size(&self, size: u64) -> Result<()> {
        self.region()
            .write_u64(offset::DATA_SIZE, size)
            .map_err(|e| Error::new(format!("data_size ← {size}"), e.source))
    }

    fn register(&self, name: &'static str, at: u64) -> Result<u64> {
        self.region()
            .read_u64(at)
            .map_err(|e| Error::new(name, e.source))
    }

    /// Stages the next buffer and replaces `out` with it. An empty buffer means that the device has no data now.
    ///
    /// Call it after [`pending_bytes`](Self::pending_bytes) returned a value other than 0.
    pub fn save_buffer(&self, out: &mut Vec<u8>) -> Result<()> {
        let at = self.data_offset()?;
        let size = self.data_size()?;
        let size = self.check_range("data_size", at, size)?;
        out.resize(size, 0);
        self.read_data(at, out)
    }

    /// Saves until nothing is pending, and passes each buffer to `sink`. Returns the number of bytes.
    pub fn save_all(&self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<u64> {
        let mut buffer = Vec::new();
        let mut bytes = 0;
        while self.pending_bytes()? > 0 {
            self.save_buffer(&mut buffer)?;
            if buffer.is_empty() {
                break;
            }
            bytes += buffer.len() as u64;
            sink(&buffer)?;
        }
        Ok(bytes)
    }

    /// Loads one saved buffer, in pieces if the data section is smaller.
    pub fn load_buffer(&self, mut data: &[u8]) -> Result<()> {
        while !data.is_empty() {
            let at = self.data_offset()?;
            let room = self.region().info().size.saturating_sub(at);
            if at == 0 || room == 0 {
                return Err(Error::other(
                    "data_offset",
                    format!("{at:#x} is not in the data section"),
                ));
            }
            let (piece, rest) = data.split_at(data.len().min(room as usize));
            self.write_data(at, piece)?;
            self.write_data_size(piece.len() as u64)?;
            data = rest;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_print_by_name_and_bits() {
        assert_eq!(State::PRE_COPY.to_string(), "pre-copy");
        assert_eq!(State(5).to_string(), "0b101");
        assert_eq!(format!("{:?}", State::ERROR), "0b110 (error)");
        assert!(State::PRE_COPY.is_running() && !State::STOP_AND_COPY.is_running());
    }

    #[test]
    fn offsets_are_the_kernels() {
        assert_eq!(offset::PENDING_BYTES, 8);
        assert_eq!(offset::DATA_OFFSET, 16);
        assert_eq!(offset::DATA_SIZE, 24);
    }
}
