// SPDX-License-Identifier: GPL-2.0

//! The data section of a migration region, of every generation.

use crate::error::{Error, Result};
use crate::mapping::Mapping;
use crate::region::{Area, Region};

/// How data moves between region and user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// By the mapping of the data section.
    Mapped,
    /// By one `pread` or `pwrite` per buffer.
    Trapped,
    /// By 8-byte accesses, and smaller ones for the rest, like QEMU 7.2 without a mapping.
    TrappedWords,
}

/// A migration region with the mappings of its data section.
#[derive(Debug)]
pub struct Section {
    region: Region,
    /// Mappings of the mappable areas, with their offsets in the region.
    mappings: Vec<(u64, Mapping)>,
    access: Access,
}

impl Section {
    /// Maps the data section if possible.
    pub(crate) fn new(region: Region) -> Result<Self> {
        let mut mappings = Vec::new();
        for area in region.info().areas() {
            mappings.push((area.offset, region.map(area)?));
        }
        let access = if mappings.is_empty() {
            Access::Trapped
        } else {
            Access::Mapped
        };
        Ok(Section {
            region,
            mappings,
            access,
        })
    }

    /// Returns the region, for other accesses.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// Returns how data moves. The default is `Mapped` if the region can be mapped.
    pub fn access(&self) -> Access {
        self.access
    }

    /// Sets how data moves. `Mapped` needs a mappable region.
    pub fn set_access(&mut self, access: Access) -> Result<()> {
        if access == Access::Mapped && self.mappings.is_empty() {
            return Err(Error::other(
                "migration region",
                "the data section cannot be mapped",
            ));
        }
        self.access = access;
        Ok(())
    }

    /// Returns the first mapping of the data section, if there is one.
    pub fn mapping(&self) -> Option<&Mapping> {
        self.mappings.first().map(|(_, mapping)| mapping)
    }

    /// Returns the mapped areas that the user wants to use, in order.
    pub(crate) fn areas(&self) -> impl Iterator<Item = Area> + '_ {
        let used = self.access == Access::Mapped;
        self.mappings
            .iter()
            .filter(move |_| used)
            .map(|(offset, mapping)| Area {
                offset: *offset,
                size: mapping.len() as u64,
            })
    }

    /// Reads data at an offset of the region in the way of [`access`](Self::access).
    pub fn read_data(&self, at: u64, out: &mut [u8]) -> Result<()> {
        match self.access {
            Access::Mapped => {
                let (mapping, offset) = self.mapped(at, out.len())?;
                mapping.read(offset, out);
                Ok(())
            }
            Access::Trapped => self.region.read(at, out),
            Access::TrappedWords => {
                for (offset, range) in words(at, out.len()) {
                    self.region.read(offset, &mut out[range])?;
                }
                Ok(())
            }
        }
        .map_err(|e: Error| e.during("read the data section"))
    }

    /// Writes data at an offset of the region in the way of [`access`](Self::access).
    pub fn write_data(&self, at: u64, data: &[u8]) -> Result<()> {
        match self.access {
            Access::Mapped => {
                let (mapping, offset) = self.mapped(at, data.len())?;
                mapping.write(offset, data);
                Ok(())
            }
            Access::Trapped => self.region.write(at, data),
            Access::TrappedWords => {
                for (offset, range) in words(at, data.len()) {
                    self.region.write(offset, &data[range])?;
                }
                Ok(())
            }
        }
        .map_err(|e: Error| e.during("write the data section"))
    }

    /// Returns the mapping that holds a range of the region, and the offset in it.
    fn mapped(&self, at: u64, len: usize) -> Result<(&Mapping, usize)> {
        self.mappings
            .iter()
            .find_map(|(start, mapping)| {
                let offset = usize::try_from(at.checked_sub(*start)?).ok()?;
                let end = offset.checked_add(len)?;
                (end <= mapping.len()).then_some((mapping, offset))
            })
            .ok_or_else(|| {
                Error::other(
                    "data_offset",
                    format!("{len} bytes at {at:#x} are not in the mapped area"),
                )
            })
    }

    /// Checks that a range that the device names is inside the region.
    pub(crate) fn check_range(&self, field: &'static str, at: u64, size: u64) -> Result<usize> {
        let end = at.checked_add(size);
        if at == 0 || end.is_none_or(|end| end > self.region.info().size) {
            return Err(Error::other(
                field,
                format!("{size} bytes at {at:#x} are not inside the region"),
            ));
        }
        Ok(size as usize)
    }
}

/// Splits a range of a region into accesses of 8 bytes, and of 4, 2, 1 for the rest. Yields the region offset and the
/// range of the data.
fn words(at: u64, len: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let width = match len - done {
            0 => return None,
            8.. => 8,
            4.. => 4,
            2.. => 2,
            _ => 1,
        };
        let piece = (at + done as u64, done..done + width);
        done += width;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_as_wide_as_they_can() {
        let widths: Vec<_> = words(4096, 23).map(|(at, r)| (at, r.len())).collect();
        assert_eq!(
            widths,
            [(4096, 8), (4104, 8), (4112, 4), (4116, 2), (4118, 1)]
        );
        assert_eq!(words(0, 0).count(), 0);
    }
}
