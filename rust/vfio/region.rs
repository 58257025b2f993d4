// SPDX-License-Identifier: GPL-2.0

//! The regions of the device file, and access to them.
//!
//! | index | region        | read, write                     | mmap              |
//! | ----- | ------------- | ------------------------------- | ----------------- |
//! | 0..=5 | BARs          | any width                       | device memory     |
//! | 6     | ROM           | size 0                          |                   |
//! | 7     | configuration | any width                       |                   |
//! | 8     | VGA           | size 0                          |                   |
//! | 9     | migration     | see `migration/v1.rs`           | the data section  |
//!
//! A region's index is in the upper bits of its offset in the file, as in vfio-pci.
//!
//! A guest makes accesses of up to 8 bytes inside a BAR or configuration space. None of them fails:
//! a VMM would print a line for each, and a guest could fill its log. As on a bus, a read that
//! reaches nothing returns all ones, and a write that reaches nothing is dropped. Both are counted.
//! Errors are for what only a VMM can do: a buffer that is not accessible, an access that crosses
//! the end of a region, and one to a region that does not exist.
//!
//! No user copy is made with a lock held: the user's buffer may be a mapping of this very device.

use crate::{
    bindings, config,
    device::Device,
    driver::{
        Driver,
        Refused, //
    },
    log::Refusal,
    nospec,
    pci::{
        Bar,
        MSIX_BAR_SIZE, //
    },
    position::{
        Position,
        INDEX_SHIFT, //
    },
};
use core::mem::{
    offset_of,
    size_of, //
};
use kernel::{
    error::to_result,
    page::PAGE_SIZE,
    prelude::*,
    uaccess::UserSlice, //
};

/// `VFIO_PCI_CONFIG_REGION_INDEX`.
const CONFIG: usize = bindings::VFIO_PCI_CONFIG_REGION_INDEX as usize;

/// The migration region, behind those of every PCI device (P1).
pub(crate) const MIGRATION: usize = bindings::VFIO_PCI_NUM_REGIONS as usize;

/// Number of regions.
pub(crate) const NUM_REGIONS: usize = MIGRATION + 1;

/// The widest access of a guest.
const WIDTH_MAX: usize = 8;

/// What is read where there is nothing.
const ONES: [u8; WIDTH_MAX] = [0xff; WIDTH_MAX];

/// What is at a region index.
#[derive(Clone, Copy)]
pub(crate) enum Region {
    /// Nothing: the size is 0.
    Absent,
    /// Registers of the driver.
    Registers { bar: u32, size: u64 },
    /// Device memory.
    Memory { size: u64 },
    /// The MSI-X table and pending bits.
    Msix,
    /// Configuration space.
    Config,
    /// The migration region.
    Migration { size: u64 },
}

impl Region {
    /// Bytes of the region.
    fn size(self) -> u64 {
        match self {
            Region::Absent => 0,
            Region::Registers { size, .. }
            | Region::Memory { size }
            | Region::Migration { size } => size,
            Region::Msix => MSIX_BAR_SIZE,
            Region::Config => config::SIZE as u64,
        }
    }

    /// Checks that `len` bytes at `offset` are inside, and returns the offset.
    fn check(self, offset: u64, len: usize) -> Result<u64, Refusal> {
        if let Region::Absent = self {
            return Err(Refusal(EINVAL, "the region is empty"));
        }
        match offset.checked_add(len as u64) {
            // An offset at the very end, which only an access of no bytes has, becomes 0.
            Some(end) if end <= self.size() => {
                Ok(nospec::index(offset as usize, self.size() as usize) as u64)
            }
            _ => Err(Refusal(EINVAL, "outside the region")),
        }
    }
}

/// The sparse mmap capability with its one area.
#[repr(C)]
struct SparseMmap {
    cap: bindings::vfio_region_info_cap_sparse_mmap,
    area: bindings::vfio_region_sparse_mmap_area,
}

// The area has to be where the flexible array of the capability is.
const _: () = assert!(
    offset_of!(SparseMmap, area) == size_of::<bindings::vfio_region_info_cap_sparse_mmap>()
);

impl<T: Driver> Device<T> {
    /// The region at `index`.
    fn region(&self, index: u64) -> Result<Region, Refusal> {
        if index >= NUM_REGIONS as u64 {
            return Err(Refusal(EINVAL, "no such region"));
        }
        let index = nospec::index(index as usize, NUM_REGIONS);

        Ok(match (self.function.bars.get(index), index) {
            (Some(Bar::Registers { size }), _) => Region::Registers {
                bar: index as u32,
                size: u64::from(*size),
            },
            (Some(Bar::Memory { size }), _) => Region::Memory { size: *size },
            (Some(Bar::Msix), _) => Region::Msix,
            (None, CONFIG) => Region::Config,
            (None, MIGRATION) => Region::Migration {
                size: self.v1_size(),
            },
            _ => Region::Absent,
        })
    }

    /// Reads `len` bytes of a region into the user's `buf`.
    pub(crate) fn read_region(
        &self,
        at: Position,
        buf: UserPtr,
        len: usize,
    ) -> Result<usize, Refusal> {
        if len == 0 {
            return Ok(0);
        }
        let region = self.region(at.index)?;

        if let Region::Migration { .. } = region {
            let done = self.v1_read(at.offset, buf, len);
            return done.map_err(Refusal::logged);
        }
        let offset = region.check(at.offset, len)?;

        match region {
            Region::Memory { .. } => {
                let memory = self.memory.as_ref().ok_or(EINVAL)?;
                return Ok(memory.read_user(offset, buf, len)?);
            }
            Region::Config => {
                let mut bytes = [0; config::SIZE];
                let data = bytes.get_mut(..len).ok_or(EINVAL)?;
                self.config_read(offset as usize, data)
                    .map_err(Refusal::logged)?;
                UserSlice::new(buf, len).writer().write_slice(data)?;
                return Ok(len);
            }
            _ => {}
        }

        let mut word = ONES;
        let Some(data) = word.get_mut(..len) else {
            return Ok(self.read_nothing(buf, len)?);
        };
        match region {
            Region::Registers { bar, .. } => {
                if let Err(Refused) = T::read(self, bar, offset, data) {
                    self.counters.refused.add_one();
                    data.fill(0xff);
                }
            }
            Region::Msix => self.msix.read(&self.irq, offset as usize, data)?,
            _ => return Err(EINVAL.into()),
        }
        UserSlice::new(buf, len).writer().write_slice(data)?;
        Ok(len)
    }

    /// Writes `len` bytes of the user's `buf` to a region.
    pub(crate) fn write_region(
        &self,
        at: Position,
        buf: UserPtr,
        len: usize,
    ) -> Result<usize, Refusal> {
        if len == 0 {
            return Ok(0);
        }
        let region = self.region(at.index)?;

        if let Region::Migration { .. } = region {
            let done = self.v1_write(at.offset, buf, len);
            return done.map_err(Refusal::logged);
        }
        let offset = region.check(at.offset, len)?;

        match region {
            Region::Memory { .. } => return Ok(self.write_memory(offset, buf, len)?),
            Region::Config => {
                let mut bytes = [0; config::SIZE];
                let data = bytes.get_mut(..len).ok_or(EINVAL)?;
                UserSlice::new(buf, len).reader().read_slice(data)?;
                self.config_write(offset as usize, data)
                    .map_err(Refusal::logged)?;
                return Ok(len);
            }
            _ => {}
        }

        let mut word = ONES;
        let Some(data) = word.get_mut(..len) else {
            return Ok(self.write_nothing(buf, len)?);
        };
        UserSlice::new(buf, len).reader().read_slice(data)?;
        match region {
            Region::Registers { bar, .. } => {
                if let Err(Refused) = T::write(self, bar, offset, data) {
                    self.counters.refused.add_one();
                }
            }
            Region::Msix => self.msix.write(offset as usize, data)?,
            _ => return Err(EINVAL.into()),
        }
        Ok(len)
    }

    /// Writes to device memory.
    ///
    /// A write that a guest can make does not fail because the VMM's cgroup or the host is out of
    /// memory: it is dropped.
    fn write_memory(&self, offset: u64, buf: UserPtr, len: usize) -> Result<usize> {
        let memory = self.memory.as_ref().ok_or(EINVAL)?;
        let mut done = 0;

        // A write of more than a page may end early. Why is known by going on.
        while done < len {
            let rest = buf.wrapping_byte_add(done);
            match memory.write_user(offset + done as u64, rest, len - done) {
                Ok(copied) => done += copied,
                Err(error) if error == ENOMEM && len <= WIDTH_MAX => {
                    self.counters.refused.add_one();
                    return Ok(len);
                }
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Reads through an access that is too wide for a register, which only a VMM can make.
    ///
    /// Returns at most the bytes of a page.
    fn read_nothing(&self, buf: UserPtr, len: usize) -> Result<usize> {
        self.counters.refused.add_one();
        let len = len.min(PAGE_SIZE);
        let mut to = UserSlice::new(buf, len).writer();

        while !to.is_empty() {
            let n = to.len().min(WIDTH_MAX);
            to.write_slice(ONES.get(..n).unwrap_or_default())?;
        }
        Ok(len)
    }

    /// Writes through an access that is too wide for a register. As [`Device::read_nothing`].
    fn write_nothing(&self, buf: UserPtr, len: usize) -> Result<usize> {
        self.counters.refused.add_one();
        let len = len.min(PAGE_SIZE);
        let mut from = UserSlice::new(buf, len).reader();
        let mut word = ONES;

        // For the user's bad addresses.
        while !from.is_empty() {
            let n = from.len().min(WIDTH_MAX);
            from.read_slice(word.get_mut(..n).unwrap_or_default())?;
        }
        Ok(len)
    }

    /// Maps part of a region.
    ///
    /// # Safety
    ///
    /// `vma` is being set up by `mmap()` of this device's file.
    pub(crate) unsafe fn mmap(
        &self,
        at: Position,
        len: usize,
        vma: *mut bindings::vm_area_struct,
    ) -> Result<(), Refusal> {
        use kernel::mm::virt::{
            flags,
            VmaNew, //
        };

        let region = self.region(at.index)?;
        if !matches!(region, Region::Memory { .. } | Region::Migration { .. }) {
            return Err(Refusal(EINVAL, "the region cannot be mapped"));
        }
        let offset = region.check(at.offset, len)?;

        {
            // SAFETY: By the requirement of this function.
            let vma = unsafe { VmaNew::from_raw(vma) };
            if vma.flags() & flags::SHARED == 0 {
                return Err(Refusal(EINVAL, "only shared mappings"));
            }
            vma.try_clear_mayexec()
                .map_err(|e| Refusal(e, "no executable mappings"))?;
        }

        // SAFETY: By the requirement of this function, and what was checked above: the area is shared
        // and cannot be made executable.
        unsafe {
            match (region, &self.memory) {
                (Region::Memory { .. }, Some(memory)) => memory.mmap(vma, offset)?,
                _ => self.v1_mmap(vma, offset).map_err(Refusal::logged)?,
            }
        }
        Ok(())
    }

    /// Fills in `VFIO_DEVICE_GET_REGION_INFO`.
    ///
    /// # Safety
    ///
    /// `caps` points to the capabilities that belong to `info`.
    pub(crate) unsafe fn region_info(
        &self,
        info: &mut bindings::vfio_region_info,
        caps: *mut bindings::vfio_info_cap,
    ) -> Result<(), Refusal> {
        let region = self.region(info.index.into())?;

        info.offset = u64::from(info.index) << INDEX_SHIFT;
        info.size = region.size();
        info.flags = match region {
            Region::Absent => 0,
            Region::Memory { .. } => {
                bindings::VFIO_REGION_INFO_FLAG_READ
                    | bindings::VFIO_REGION_INFO_FLAG_WRITE
                    | bindings::VFIO_REGION_INFO_FLAG_MMAP
            }
            _ => bindings::VFIO_REGION_INFO_FLAG_READ | bindings::VFIO_REGION_INFO_FLAG_WRITE,
        };

        if let Region::Migration { .. } = region {
            // SAFETY: By the requirement of this function.
            unsafe { self.migration_caps(info, caps)? };
        }
        Ok(())
    }

    /// Adds the capabilities of the migration region (P1, P28).
    ///
    /// # Safety
    ///
    /// As [`Device::region_info`].
    unsafe fn migration_caps(
        &self,
        info: &mut bindings::vfio_region_info,
        caps: *mut bindings::vfio_info_cap,
    ) -> Result {
        let mut kind = bindings::vfio_region_info_cap_type {
            header: bindings::vfio_info_cap_header {
                id: bindings::VFIO_REGION_INFO_CAP_TYPE as u16,
                version: 1,
                next: 0,
            },
            type_: bindings::VFIO_REGION_TYPE_MIGRATION_DEPRECATED,
            subtype: bindings::VFIO_REGION_SUBTYPE_MIGRATION_DEPRECATED,
        };
        // SAFETY: `caps` is valid by the requirement of this function, and `kind` is a capability of
        // the given size, which is copied.
        to_result(unsafe {
            bindings::vfio_info_add_capability(caps, &mut kind.header, size_of_val(&kind))
        })?;

        if let Some((offset, size)) = self.v1_mmap_area() {
            let mut sparse = SparseMmap {
                cap: bindings::vfio_region_info_cap_sparse_mmap {
                    header: bindings::vfio_info_cap_header {
                        id: bindings::VFIO_REGION_INFO_CAP_SPARSE_MMAP as u16,
                        version: 1,
                        next: 0,
                    },
                    nr_areas: 1,
                    ..Default::default()
                },
                area: bindings::vfio_region_sparse_mmap_area { offset, size },
            };
            let len = size_of_val(&sparse);

            info.flags |= bindings::VFIO_REGION_INFO_FLAG_MMAP;
            // SAFETY: As above; the pointer is derived from the whole of `sparse`.
            to_result(unsafe {
                bindings::vfio_info_add_capability(
                    caps,
                    (&raw mut sparse).cast::<bindings::vfio_info_cap_header>(),
                    len,
                )
            })?;
        }
        Ok(())
    }
}
