// SPDX-License-Identifier: GPL-2.0

//! A region of a device: registers, memory, configuration space, the migration region.

use std::io;

use vfio_bindings::bindings::vfio::{
    vfio_region_info, VFIO_REGION_INFO_CAP_MSIX_MAPPABLE, VFIO_REGION_INFO_CAP_SPARSE_MMAP,
    VFIO_REGION_INFO_CAP_TYPE, VFIO_REGION_INFO_FLAG_CAPS, VFIO_REGION_INFO_FLAG_MMAP,
    VFIO_REGION_INFO_FLAG_READ, VFIO_REGION_INFO_FLAG_WRITE,
};

use crate::caps::{self, read_u32, read_u64};
use crate::device::Device;
use crate::error::{Context, Error, Result};
use crate::info::info_ioctl;
use crate::mapping::{Mapping, Protection};
use crate::sys;

/// A mappable range of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// Offset in the region.
    pub offset: u64,
    /// Size in bytes.
    pub size: u64,
}

/// Result of `VFIO_DEVICE_GET_REGION_INFO`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegionInfo {
    /// Its index.
    pub index: u32,
    /// `flags`.
    pub flags: u32,
    /// Size in bytes; 0 for a region that the device does not have.
    pub size: u64,
    /// Offset in the device's file.
    pub offset: u64,
    /// The sparse-mmap capability, if any.
    pub sparse: Option<Vec<Area>>,
    /// The type capability: type and subtype.
    pub region_type: Option<(u32, u32)>,
    /// The MSI-X mappable capability.
    pub msix_mappable: bool,
}

impl RegionInfo {
    /// Parses the structure with its capability chain.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        const FIXED: usize = size_of::<vfio_region_info>();
        let mut info = RegionInfo {
            index: read_u32(bytes, 8)?,
            flags: read_u32(bytes, 4)?,
            size: read_u64(bytes, 16)?,
            offset: read_u64(bytes, 24)?,
            ..RegionInfo::default()
        };
        if info.flags & VFIO_REGION_INFO_FLAG_CAPS == 0 {
            return Some(info);
        }
        for cap in caps::parse(bytes, FIXED, read_u32(bytes, 12)?)? {
            match u32::from(cap.id) {
                VFIO_REGION_INFO_CAP_SPARSE_MMAP => {
                    let areas = cap.pairs()?;
                    let area = |(offset, size)| Area { offset, size };
                    info.sparse = Some(areas.into_iter().map(area).collect());
                }
                VFIO_REGION_INFO_CAP_TYPE => info.region_type = Some((cap.u32(0)?, cap.u32(4)?)),
                VFIO_REGION_INFO_CAP_MSIX_MAPPABLE => info.msix_mappable = true,
                _ => {}
            }
        }
        Some(info)
    }

    /// Returns whether it is readable.
    pub fn readable(&self) -> bool {
        self.flags & VFIO_REGION_INFO_FLAG_READ != 0
    }

    /// Returns whether it is writable.
    pub fn writable(&self) -> bool {
        self.flags & VFIO_REGION_INFO_FLAG_WRITE != 0
    }

    /// Returns the mappable ranges: the sparse areas, otherwise all of a mappable region, otherwise none. As in QEMU,
    /// areas count only with the mmap flag.
    pub fn areas(&self) -> Vec<Area> {
        if self.flags & VFIO_REGION_INFO_FLAG_MMAP == 0 {
            return Vec::new();
        }
        let whole = Area {
            offset: 0,
            size: self.size,
        };
        let mut areas = self.sparse.clone().unwrap_or_else(|| vec![whole]);
        areas
            .retain(|a| a.size > 0 && a.offset.checked_add(a.size).is_some_and(|e| e <= self.size));
        areas
    }
}

/// A region of an opened device.
#[derive(Clone, Debug)]
pub struct Region {
    device: Device,
    info: RegionInfo,
}

/// Declares an access of one width.
macro_rules! register_access {
    ($read:ident, $write:ident, $type:ty) => {
        /// Reads a native-endian value in one system call.
        pub fn $read(&self, offset: u64) -> Result<$type> {
            let mut bytes = [0; size_of::<$type>()];
            self.read(offset, &mut bytes)?;
            Ok(<$type>::from_ne_bytes(bytes))
        }

        /// Writes a native-endian value in one system call.
        pub fn $write(&self, offset: u64, value: $type) -> Result<()> {
            self.write(offset, &value.to_ne_bytes())
        }
    };
}

impl Device {
    /// Returns the region of this index. Its size is 0 if the device does not have it.
    pub fn region(&self, index: u32) -> Result<Region> {
        Region::new(self.clone(), index)
    }

    /// Returns all regions whose size is not 0.
    pub fn regions(&self) -> Result<Vec<Region>> {
        let mut regions = Vec::new();
        for index in 0..self.info().num_regions {
            match self.region(index) {
                Ok(region) if region.info().size > 0 => regions.push(region),
                Ok(_) => {}
                // An index unknown to the device, such as VGA on most devices.
                Err(e) if e.is(libc::EINVAL) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(regions)
    }

    /// Returns the region with this type and subtype, if there is one.
    pub fn region_of_type(&self, region_type: u32, subtype: u32) -> Result<Option<Region>> {
        let regions = self.regions()?;
        Ok(regions
            .into_iter()
            .find(|r| r.info().region_type == Some((region_type, subtype))))
    }
}

impl Region {
    fn new(device: Device, index: u32) -> Result<Self> {
        let what = || format!("VFIO_DEVICE_GET_REGION_INFO {index}");
        let fixed = size_of::<vfio_region_info>();
        let bytes = info_ioctl(
            std::os::fd::AsFd::as_fd(&device),
            sys::nr(8),
            index,
            fixed,
            true,
        )
        .field(what)?;
        let info = RegionInfo::parse(&bytes)
            .ok_or_else(|| Error::other(what(), "malformed capability chain"))?;
        Ok(Region { device, info })
    }

    /// Returns its properties.
    pub fn info(&self) -> &RegionInfo {
        &self.info
    }

    /// Returns its device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Reads once at an offset of the region, without a bounds check, and returns the result unchanged.
    pub fn pread(&self, offset: u64, out: &mut [u8]) -> io::Result<usize> {
        self.device
            .pread(self.info.offset.wrapping_add(offset), out)
    }

    /// Writes once at an offset of the region, without a bounds check, and returns the result unchanged.
    pub fn pwrite(&self, offset: u64, data: &[u8]) -> io::Result<usize> {
        self.device
            .pwrite(self.info.offset.wrapping_add(offset), data)
    }

    /// Reads all of `out`, in one system call unless the device returns less.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let len = out.len();
        let what = || self.access_name("read", offset, len);
        let mut done = 0;
        while done < len {
            match self
                .pread(offset + done as u64, &mut out[done..])
                .field(what)?
            {
                0 => return Err(Error::new(what(), io::ErrorKind::UnexpectedEof)),
                n => done += n,
            }
        }
        Ok(())
    }

    /// Writes all of `data`, in one system call unless the device takes less.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        let what = || self.access_name("write", offset, data.len());
        let mut done = 0;
        while done < data.len() {
            match self
                .pwrite(offset + done as u64, &data[done..])
                .field(what)?
            {
                0 => return Err(Error::new(what(), io::ErrorKind::WriteZero)),
                n => done += n,
            }
        }
        Ok(())
    }

    register_access!(read_u8, write_u8, u8);
    register_access!(read_u16, write_u16, u16);
    register_access!(read_u32, write_u32, u32);
    register_access!(read_u64, write_u64, u64);

    /// Maps a range, readable, and writable if the region is. Does not check that it is mappable.
    pub fn map(&self, area: Area) -> Result<Mapping> {
        let protection = Protection {
            write: self.info.writable(),
            ..Protection::READ
        };
        self.mmap(area, protection).field(|| {
            format!(
                "mmap of region {} at {:#x}, {:#x} bytes",
                self.info.index, area.offset, area.size
            )
        })
    }

    /// Maps a range and returns the result unchanged.
    pub fn mmap(&self, area: Area, protection: Protection) -> io::Result<Mapping> {
        let len = usize::try_from(area.size).map_err(io::Error::other)?;
        let offset = self.info.offset.wrapping_add(area.offset);
        self.device.mmap(offset, len, protection)
    }

    /// Maps all of a region, which must be mappable as a whole.
    pub fn map_all(&self) -> Result<Mapping> {
        match self.info.areas()[..] {
            [area] if area.size == self.info.size => self.map(area),
            _ => Err(Error::other(
                format!("mmap of region {}", self.info.index),
                "it is not mappable as a whole",
            )),
        }
    }

    fn access_name(&self, verb: &str, offset: u64, len: usize) -> String {
        format!(
            "{verb} of region {} at {offset:#x}, {len} bytes",
            self.info.index
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a migration region as the kernel describes it: type 3/1, one area after the header page.
    fn bytes() -> Vec<u8> {
        let mut b = Vec::new();
        for v in [32u32 + 32 + 16, 0xf, 9, 32] {
            b.extend(v.to_ne_bytes());
        }
        b.extend((4096u64 + 65536).to_ne_bytes());
        b.extend((9u64 << 40).to_ne_bytes());
        b.extend([1, 0, 1, 0, 64, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        b.extend(4096u64.to_ne_bytes());
        b.extend(65536u64.to_ne_bytes());
        b.extend([2, 0, 1, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0]);
        b
    }

    #[test]
    fn migration_region() {
        let info = RegionInfo::parse(&bytes()).unwrap();
        assert_eq!((info.index, info.offset), (9, 9 << 40));
        assert_eq!(info.region_type, Some((3, 1)));
        let area = Area {
            offset: 4096,
            size: 65536,
        };
        assert_eq!(info.areas(), [area]);
        assert!(info.readable() && info.writable() && !info.msix_mappable);
    }

    #[test]
    fn areas_outside_the_region_are_ignored() {
        let mut b = bytes();
        b[16..24].copy_from_slice(&65536u64.to_ne_bytes());
        assert_eq!(RegionInfo::parse(&b).unwrap().areas(), []);
        // The sum overflows.
        b[48..56].copy_from_slice(&(u64::MAX - 4095).to_ne_bytes());
        assert_eq!(RegionInfo::parse(&b).unwrap().areas(), []);
    }

    #[test]
    fn without_the_mmap_flag_nothing_is_mappable() {
        let mut b = bytes();
        b[4] = 0xb;
        assert_eq!(RegionInfo::parse(&b).unwrap().areas(), []);
    }

    #[test]
    fn without_areas_all_is_mappable() {
        let mut b = bytes()[..32].to_vec();
        b[4] = 0x7;
        let info = RegionInfo::parse(&b).unwrap();
        assert_eq!(info.areas()[0].size, info.size);
    }

    #[test]
    fn cut_anywhere() {
        let b = bytes();
        for cut in 0..b.len() {
            assert!(RegionInfo::parse(&b[..cut]).is_none(), "cut at {cut}");
        }
    }
}
