// SPDX-License-Identifier: GPL-2.0

//! The migration region of November 2018, driven like the user that was posted with it.
//!
//! ```text
//! save one buffer                 load one buffer                 dirty pages
//!   write8  threshold_size          data    copied to an area       write24 dirty_pfns
//!   read32  pending                 write16 data                    read24  dirty_pfns
//!   read16  data                  or, without an area               data    from an area, or
//!   data    from data.offset        write16 data                            from byte 77 on
//!                                   data    written at byte 77
//! ```

use std::fmt;
use std::ops::Deref;

use crate::bitmap::DirtyBitmap;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::section::{Access, Section};

/// The region's type.
pub const TYPE: u32 = 1 << 30;
/// The region's subtype.
pub const SUBTYPE: u32 = 1;

/// The bytes of a page in `dirty_pfns`.
pub const PAGE_SIZE: u64 = 4096;

/// Offsets of the packed register block.
pub mod offset {
    /// u32, read and write.
    pub const DEVICE_STATE: u64 = 0;
    /// 32 bytes: [`PRECOPY_ONLY`] to [`THRESHOLD_SIZE`].
    pub const PENDING: u64 = 4;
    /// u64, read only.
    pub const PRECOPY_ONLY: u64 = 4;
    /// u64, read only.
    pub const COMPATIBLE: u64 = 12;
    /// u64, read only.
    pub const POSTCOPY_ONLY: u64 = 20;
    /// u64, read and write.
    pub const THRESHOLD_SIZE: u64 = 28;
    /// 16 bytes: offset and size.
    pub const DATA: u64 = 36;
    /// 24 bytes: `start_addr`, `total` and `copied`.
    pub const DIRTY_PFNS: u64 = 52;
    /// Where trapped data goes: a byte behind the structure.
    pub const TRAPPED: u64 = 77;
}

/// A value of `device_state`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct State(pub u32);

impl State {
    /// Initialised, not running.
    pub const NONE: State = State(0);
    /// Running.
    pub const RUNNING: State = State(1);
    /// Running, a save is prepared.
    pub const SETUP: State = State(2);
    /// Running, being saved.
    pub const PRECOPY: State = State(3);
    /// Stopped, being saved.
    pub const STOPNCOPY: State = State(4);
    /// Stopped, all was saved.
    pub const SAVE_COMPLETED: State = State(5);
    /// Stopped, being loaded.
    pub const RESUME: State = State(6);
    /// Stopped, all was loaded.
    pub const RESUME_COMPLETED: State = State(7);
    /// Running after a migration that failed.
    pub const FAILED: State = State(8);
    /// Running after a migration that was cancelled.
    pub const CANCELLED: State = State(9);

    /// Returns the name of a state.
    pub fn name(self) -> Option<&'static str> {
        const NAMES: [&str; 10] = [
            "none",
            "running",
            "setup",
            "pre-copy",
            "stop-and-copy",
            "save-completed",
            "resume",
            "resume-completed",
            "failed",
            "cancelled",
        ];
        NAMES.get(self.0 as usize).copied()
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({self})", self.0)
    }
}

/// The group `pending`, without the threshold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// What has to go before the guest stops.
    pub precopy_only: u64,
    /// What may go at any time.
    pub compatible: u64,
    /// What can go only once the guest has stopped.
    pub postcopy_only: u64,
}

impl Pending {
    /// Returns all of it.
    pub fn sum(&self) -> u64 {
        self.precopy_only + self.compatible + self.postcopy_only
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
    /// Returns the migration region of 2018, if the device has it.
    pub fn migration_2018(&self) -> Result<Option<Migration>> {
        let region = self.region_of_type(TYPE, SUBTYPE)?;
        region
            .map(|region| {
                Ok(Migration {
                    section: Section::new(region)?,
                })
            })
            .transpose()
    }
}

impl Migration {
    /// Sets how data moves. `Mapped` needs a mappable region.
    pub fn set_access(&mut self, access: Access) -> Result<()> {
        self.section.set_access(access)
    }

    /// Reads `device_state`.
    pub fn state(&self) -> Result<State> {
        let state = self.region().read_u32(offset::DEVICE_STATE);
        state
            .map(State)
            .map_err(|e| Error::new("device_state", e.source))
    }

    /// Writes `device_state`.
    pub fn set_state(&self, state: State) -> Result<()> {
        self.region()
            .write_u32(offset::DEVICE_STATE, state.0)
            .map_err(|e| Error::new(format!("device_state ← {state}"), e.source))
    }

    /// Reads a group of fields at once.
    pub fn group<const N: usize>(&self, at: u64) -> Result<[u64; N]> {
        let mut bytes = vec![0; N * 8];
        self.region().read(at, &mut bytes)?;
        let mut values = [0; N];
        for (value, bytes) in values.iter_mut().zip(bytes.chunks_exact(8)) {
            *value = u64::from_ne_bytes(bytes.try_into().expect("chunks of 8 bytes"));
        }
        Ok(values)
    }

    /// Writes a group of fields at once.
    pub fn set_group(&self, at: u64, values: &[u64]) -> Result<()> {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_ne_bytes()).collect();
        self.region().write(at, &bytes)
    }

    /// Writes `threshold_size` and reads `pending`. This marks a staged buffer as consumed.
    pub fn pending(&self, threshold: u64) -> Result<Pending> {
        self.region().write_u64(offset::THRESHOLD_SIZE, threshold)?;
        let [precopy_only, compatible, postcopy_only, _] = self.group(offset::PENDING)?;
        Ok(Pending {
            precopy_only,
            compatible,
            postcopy_only,
        })
    }

    /// Stages the next buffer and replaces `out` with it. An empty buffer means that the device has no data now.
    pub fn save_buffer(&self, out: &mut Vec<u8>) -> Result<()> {
        let [at, size] = self.group(offset::DATA)?;
        let size = self.check_range("data.size", at, size)?;
        out.resize(size, 0);
        match self.areas().any(|area| area.offset == at) {
            true => self.read_data(at, out),
            false => self.region().read(at, out),
        }
    }

    /// Loads one saved buffer, in pieces if the data section is smaller.
    pub fn load_buffer(&self, data: &[u8]) -> Result<()> {
        let room = self.region().info().size - PAGE_SIZE;
        for piece in data.chunks(room as usize) {
            let size = piece.len() as u64;
            match self.areas().find(|area| area.size >= size) {
                Some(area) => {
                    self.write_data(area.offset, piece)?;
                    self.set_group(offset::DATA, &[area.offset, size])?;
                }
                None => {
                    self.set_group(offset::DATA, &[offset::TRAPPED, size])?;
                    self.region().write(offset::TRAPPED, piece)?;
                }
            }
        }
        Ok(())
    }

    /// Returns the dirty pages of `size` bytes from `iova` on, both multiples of the page size.
    pub fn dirty_bitmap(&self, iova: u64, size: u64) -> Result<DirtyBitmap> {
        let pages = size / PAGE_SIZE;
        let mut words = vec![0; pages.div_ceil(64) as usize];
        let mut done = 0;
        self.set_group(offset::DIRTY_PFNS, &[iova, pages, 0])?;
        loop {
            let [_, total, copied] = self.group(offset::DIRTY_PFNS)?;
            if total != pages || copied > pages - done || done % 64 != 0 {
                let what = format!("{copied} of {total} pages after {done} of {pages}");
                return Err(Error::other("dirty_pfns", what));
            }
            // The posted user would ask again without end.
            if copied == 0 && done < pages {
                return Err(Error::other("dirty_pfns", "no page was copied"));
            }
            // One word more than needed, like the posted user.
            let mut bytes = vec![0; (copied.div_ceil(64) as usize + 1) * 8];
            if copied > 0 {
                match self.areas().find(|area| area.size >= bytes.len() as u64) {
                    Some(area) => self.read_data(area.offset, &mut bytes)?,
                    None => self.region().read(offset::TRAPPED, &mut bytes)?,
                }
            }
            let count = copied.div_ceil(64) as usize;
            for (word, bytes) in words[(done / 64) as usize..]
                .iter_mut()
                .zip(bytes.chunks_exact(8).take(count))
            {
                *word = u64::from_le_bytes(bytes.try_into().expect("chunks of 8 bytes"));
            }
            done += copied;
            if done >= pages {
                return Ok(DirtyBitmap::new(iova, size, PAGE_SIZE, words));
            }
        }
    }
}
