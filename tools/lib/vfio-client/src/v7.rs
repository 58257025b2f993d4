// SPDX-License-Identifier: GPL-2.0

//! The migration region of July 2019, version 7 of the series that led to v1.
//!
//! ```text
//! save one buffer           load one buffer               dirty pages of a part
//!   read8  pending_bytes      read8  data_offset            write8 start_pfn
//!   read8  data_offset        data   copied to data_offset  write8 page_size
//!   read8  data_size          write8 data_size              write8 total_pfns
//!   data   from data_offset                                 read8  copied_pfns
//!                                                           read8  data_offset
//!                                                           data   from data_offset
//! ```
//!
//! If the section cannot be mapped, `data_size` is written before the data. States are those of v1.

use std::ops::Deref;

use crate::bitmap::DirtyBitmap;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::section::{Access, Section};
use crate::v1::State;

/// The region's type in the posting. The driver can be told another one.
pub const TYPE: u32 = 2;
/// The region's subtype.
pub const SUBTYPE: u32 = 1;

/// Offsets of the register block.
pub mod offset {
    /// u32, read and write.
    pub const DEVICE_STATE: u64 = 0;
    /// u32, reads 0.
    pub const RESERVED: u64 = 4;
    /// u64, read only.
    pub const PENDING_BYTES: u64 = 8;
    /// u64, read only.
    pub const DATA_OFFSET: u64 = 16;
    /// u64, read and write.
    pub const DATA_SIZE: u64 = 24;
    /// u64, write only.
    pub const START_PFN: u64 = 32;
    /// u64, write only.
    pub const PAGE_SIZE: u64 = 40;
    /// u64, write only.
    pub const TOTAL_PFNS: u64 = 48;
    /// u64, read only.
    pub const COPIED_PFNS: u64 = 56;
}

/// `copied_pfns`: no page of the rest of the range is dirty.
pub const DIRTY_PFNS_NONE: u64 = 0;
/// `copied_pfns`: all pages of the range are dirty.
pub const DIRTY_PFNS_ALL: u64 = !0;

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
    /// Returns the migration region of v7, if the device has one of the posting's type.
    pub fn migration_v7(&self) -> Result<Option<Migration>> {
        Migration::find(self, TYPE)
    }
}

impl Migration {
    /// Finds the region by its type capability, and maps its data section if possible.
    pub fn find(device: &Device, region_type: u32) -> Result<Option<Self>> {
        let region = device.region_of_type(region_type, SUBTYPE)?;
        region
            .map(|region| {
                Ok(Migration {
                    section: Section::new(region)?,
                })
            })
            .transpose()
    }

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
            .map_err(|e| Error::new(format!("device_state ← {:#05b}", state.0), e.source))
    }

    /// Reads `pending_bytes`. This marks a staged buffer as consumed.
    pub fn pending_bytes(&self) -> Result<u64> {
        self.register("pending_bytes", offset::PENDING_BYTES)
    }

    /// Reads `data_offset`. While saving, this stages the next buffer, unless a bitmap was reported.
    pub fn data_offset(&self) -> Result<u64> {
        self.register("data_offset", offset::DATA_OFFSET)
    }

    /// Reads `data_size`.
    pub fn data_size(&self) -> Result<u64> {
        self.register("data_size", offset::DATA_SIZE)
    }

    /// Writes `data_size`.
    pub fn write_data_size(&self, size: u64) -> Result<()> {
        self.write("data_size", offset::DATA_SIZE, size)
    }

    fn register(&self, name: &'static str, at: u64) -> Result<u64> {
        let value = self.region().read_u64(at);
        value.map_err(|e| Error::new(name, e.source))
    }

    fn write(&self, name: &'static str, at: u64, value: u64) -> Result<()> {
        self.region()
            .write_u64(at, value)
            .map_err(|e| Error::new(format!("{name} ← {value:#x}"), e.source))
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

    /// Loads one saved buffer, in pieces if the data section is smaller.
    pub fn load_buffer(&self, data: &[u8]) -> Result<()> {
        let mut rest = data;
        while !rest.is_empty() {
            let at = self.data_offset()?;
            let room = self.region().info().size.saturating_sub(at);
            if at == 0 || room == 0 {
                let what = format!("{at:#x} is not in the data section");
                return Err(Error::other("data_offset", what));
            }
            let (piece, next) = rest.split_at(rest.len().min(room as usize));
            let trapped = self.mapping().is_none();
            if trapped {
                self.write_data_size(piece.len() as u64)?;
            }
            self.write_data(at, piece)?;
            if !trapped {
                self.write_data_size(piece.len() as u64)?;
            }
            rest = next;
        }
        Ok(())
    }

    /// Asks for the dirty pages of a range.
    pub fn ask_dirty(&self, start_pfn: u64, page_size: u64, total_pfns: u64) -> Result<()> {
        self.write("start_pfn", offset::START_PFN, start_pfn)?;
        self.write("page_size", offset::PAGE_SIZE, page_size)?;
        self.write("total_pfns", offset::TOTAL_PFNS, total_pfns)
    }

    /// Reads `copied_pfns`.
    pub fn copied_pfns(&self) -> Result<u64> {
        self.register("copied_pfns", offset::COPIED_PFNS)
    }

    /// Returns the dirty pages of `size` bytes from `iova` on, both multiples of the page size.
    pub fn dirty_bitmap(&self, iova: u64, size: u64, page_size: u64) -> Result<DirtyBitmap> {
        let pages = size / page_size;
        let mut words = vec![0; pages.div_ceil(64) as usize];
        let mut done = 0;
        while done < pages {
            self.ask_dirty(iova / page_size + done, page_size, pages - done)?;
            let copied = match self.copied_pfns()? {
                DIRTY_PFNS_NONE => break,
                DIRTY_PFNS_ALL => {
                    (done..pages).for_each(|page| words[(page / 64) as usize] |= 1 << (page % 64));
                    break;
                }
                // A part begins at a word.
                copied if copied <= pages - done && done % 64 == 0 => copied,
                copied => {
                    let what = format!("{copied} of {} pages", pages - done);
                    return Err(Error::other("copied_pfns", what));
                }
            };
            let at = self.data_offset()?;
            let mut bytes = vec![0; copied.div_ceil(64) as usize * 8];
            self.read_data(at, &mut bytes)?;
            for (word, bytes) in words[(done / 64) as usize..]
                .iter_mut()
                .zip(bytes.chunks_exact(8))
            {
                *word = u64::from_le_bytes(bytes.try_into().expect("chunks of 8 bytes"));
            }
            done += copied;
        }
        Ok(DirtyBitmap::new(iova, size, page_size, words))
    }
}
