// SPDX-License-Identifier: GPL-2.0

//! What the tests find out about the device under test before they run.

use std::sync::OnceLock;

use migration::stream::Identity;
use records::Stream;
use vfio_client::v1::State;
use vfio_client::{v2, Region};

use crate::env::Guest;
use crate::fail;
use crate::harness::result::{Ended, Result};

/// BARs are the first regions.
const BARS: u32 = 6;
/// The part of a BAR that is searched for a register.
const SEARCHED: u64 = 4096;

/// A register that keeps what is written, and that migrates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Its BAR.
    pub(crate) bar: u32,
    /// Its offset there.
    pub(crate) offset: u64,
    /// Its size: 1, 2 or 4 bytes.
    pub(crate) width: usize,
    /// Its value at power-on.
    pub(crate) power_on: u32,
}

/// Device memory that a user can map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Its BAR.
    pub(crate) bar: u32,
    /// Its size.
    pub(crate) size: u64,
}

/// The facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// A register that keeps what is written.
    pub(crate) mark: Mark,
    /// The most bytes that the driver's state has.
    pub(crate) state_size_max: u64,
    /// Device memory, if the device has any in a BAR.
    pub(crate) memory: Option<Memory>,
}

static FACTS: OnceLock<Facts> = OnceLock::new();

/// Returns the facts, once they have been found out.
pub(crate) fn known() -> Result<&'static Facts> {
    FACTS
        .get()
        .ok_or_else(|| Ended::failed("nothing is known about the device yet"))
}

/// Finds out the facts with this device, which is reset, and keeps them for [`known`].
pub(crate) fn find(guest: &Guest) -> Result {
    guest.device.config()?.enable()?;
    let facts = Facts {
        mark: Mark::find(guest)?,
        state_size_max: identity(guest)?.state_size_max.into(),
        memory: Memory::find(guest)?,
    };
    crate::note!("{facts:?}");
    FACTS.get_or_init(|| facts);
    Ok(())
}

impl Memory {
    /// Searches the BARs.
    pub(crate) fn find(guest: &Guest) -> Result<Option<Self>> {
        for bar in 0..BARS {
            let region = guest.region(bar)?;
            let info = region.info();
            if info.areas().iter().any(|area| area.size == info.size) {
                return Ok(Some(Memory {
                    bar,
                    size: info.size,
                }));
            }
        }
        Ok(None)
    }
}

impl Mark {
    /// Returns what the register keeps of a value.
    pub(crate) fn kept(&self, value: u32) -> u32 {
        match self.width {
            4 => value,
            width => value & ((1 << (8 * width)) - 1),
        }
    }

    /// Reads the register.
    pub(crate) fn read(&self, region: &Region) -> Result<u32> {
        let mut bytes = [0; 4];
        region.read(self.offset, &mut bytes[..self.width])?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Writes the register.
    pub(crate) fn write(&self, region: &Region, value: u32) -> Result {
        Ok(region.write(self.offset, &value.to_le_bytes()[..self.width])?)
    }

    /// Searches the BARs that cannot be mapped for the widest such register.
    fn find(guest: &Guest) -> Result<Self> {
        for width in [4, 2, 1] {
            for bar in 0..BARS {
                let region = guest.region(bar)?;
                let info = region.info();
                if !info.areas().is_empty() || !info.readable() || !info.writable() {
                    continue;
                }
                for offset in (0..info.size.min(SEARCHED)).step_by(width) {
                    let mark = Mark {
                        bar,
                        offset,
                        width,
                        power_on: 0,
                    };
                    if let Some(mark) = mark.tried(guest, &region)? {
                        return Ok(mark);
                    }
                }
            }
        }
        fail!("no register of the device keeps what is written, is reset and migrates")
    }

    /// Returns the register with its value at power-on, if it can be used.
    fn tried(mut self, guest: &Guest, region: &Region) -> Result<Option<Self>> {
        self.power_on = self.read(region)?;
        for value in [0x5a5a_5a5a, 0x2581_4365] {
            self.write(region, value)?;
            if self.read(region)? != self.kept(value) {
                guest.device.reset()?;
                return Ok(None);
            }
        }
        let value = self.read(region)?;
        let stream = save(guest)?;
        guest.device.reset()?;
        if self.read(region)? != self.power_on {
            return Ok(None);
        }
        load(guest, &stream)?;
        let loaded = self.read(region)?;
        guest.device.reset()?;
        Ok((loaded == value).then_some(self))
    }
}

/// Returns the identity at the begin of the device's stream.
fn identity(guest: &Guest) -> Result<Identity> {
    let stream = Stream::parse(&save(guest)?).map_err(Ended::failed)?;
    guest.device.reset()?;
    stream.identity().map_err(Ended::failed)
}

/// Saves the device by the protocol that it has.
fn save(guest: &Guest) -> Result<Vec<u8>> {
    let mut stream = Vec::new();
    if let Some(migration) = guest.device.migration_v1()? {
        migration.set_state(State::STOP_AND_COPY)?;
        migration.save_all(&mut |buffer| {
            stream.extend_from_slice(buffer);
            Ok(())
        })?;
    } else if let Some(migration) = guest.device.migration_v2()? {
        if let Some(file) = migration.set_state(v2::State::STOP_COPY)? {
            file.read_available(&mut stream)?;
        }
    } else {
        fail!("the device does not migrate");
    }
    Ok(stream)
}

/// Loads the device by the protocol that it has, and runs it.
fn load(guest: &Guest, stream: &[u8]) -> Result {
    if let Some(migration) = guest.device.migration_v1()? {
        migration.set_state(State::RESUMING)?;
        for piece in stream.chunks(4096) {
            migration.load_buffer(piece)?;
        }
        migration.set_state(State::RUNNING)?;
    } else if let Some(migration) = guest.device.migration_v2()? {
        if let Some(file) = migration.set_state(v2::State::RESUMING)? {
            file.write_all(stream)?;
        }
        migration.set_state(v2::State::RUNNING)?;
    }
    Ok(())
}
