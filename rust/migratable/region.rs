// SPDX-License-Identifier: GPL-2.0

//! The regions of the device file, and access to them.
//!
//! | index | region        | read, write                     | mmap              |
//! | ----- | ------------- | ------------------------------- | ----------------- |
//! | 0..=5 | BARs          | any width                       | device memory     |
//! | 6     | ROM           | size 0                          |                   |
//! | 7     | configuration | any width                       |                   |
//! | 8     | VGA           | size 0                          |                   |
//! | 9     | migration     | see `migration/v1.rs`, and      |
//! |       |               | `v7.rs` and `v2018.rs` there    |                   | the data section  |
//!
//! A region's index is in the upper bits of its offset in the file, as in vfio-pci.
//!
//! A guest makes accesses of up to 8 bytes inside a BAR or configuration space. None of them fails:
//! a VMM would print a line for each, and a guest could fill its log. As on a bus, a read that
//! reaches nothing returns all ones, and a write that reaches nothing is dropped. Both are counted.
//! So are accesses to a BAR that the command register does not enable. Device memory is the exception:
//! guests map it, so the VMM decides whether they reach it.
//! Errors are for what only a VMM can do: a buffer that is not accessible, an access that crosses
//! the end of a region, and one to a region that does not exist.
//!
//! No user copy is made with a lock held: the user's buffer may be a mapping of this very device.

use crate::{
    device::{
        Device,
        VfioDevice, //
    },
    driver::{
        Driver,
        Refused, //
    },
    features::Migration,
};
use core::fmt;
use kernel::{
    fs::File,
    page::PAGE_SIZE,
    prelude::*,
    sync::aref::ARef,
    uaccess::UserSlice, //
};
use kernel_ext::nospec;
use migration::generation::Generation;
use pci_function::{
    config,
    Bar,
    MSIX_BAR_SIZE, //
};
use vfio::{
    dma::Dma,
    irq::Irq,
    log::Refusal,
    DeviceOps,
    Position, //
};
use vfio_bindings as bindings;

/// `VFIO_PCI_CONFIG_REGION_INDEX`.
const CONFIG: usize = bindings::VFIO_PCI_CONFIG_REGION_INDEX as usize;

/// The migration region, after those of every PCI device (P1).
pub(crate) const MIGRATION: usize = bindings::VFIO_PCI_NUM_REGIONS as usize;

/// Number of regions.
pub(crate) const NUM_REGIONS: usize = MIGRATION + 1;

/// The widest access of a guest.
const WIDTH_MAX: usize = 8;

/// The value of a read that reaches nothing.
const ONES: [u8; WIDTH_MAX] = [0xff; WIDTH_MAX];

/// The kind of a region.
#[derive(Clone, Copy)]
pub(crate) enum Region {
    /// Nothing: the size is 0.
    Absent,
    /// Registers of the driver. The device may not decode them now.
    Registers { bar: u32, size: u64, decoded: bool },
    /// Device memory.
    Memory { size: u64 },
    /// The MSI-X table and pending bits. The device may not decode them now.
    Msix { decoded: bool },
    /// Configuration space.
    Config,
    /// The migration region.
    Migration { size: u64 },
}

impl Region {
    /// Returns the bytes of the region.
    #[inline]
    pub(crate) fn size(self) -> u64 {
        match self {
            Region::Absent => 0,
            Region::Registers { size, .. }
            | Region::Memory { size }
            | Region::Migration { size } => size,
            Region::Msix { .. } => MSIX_BAR_SIZE,
            Region::Config => config::SIZE as u64,
        }
    }

    /// Checks that `len` bytes at `offset` are inside. Returns the offset.
    #[inline]
    fn check(self, offset: u64, len: usize) -> Result<u64, Refusal> {
        if let Region::Absent = self {
            return Err(Refusal(EINVAL, "the region is empty"));
        }
        match offset.checked_add(len as u64) {
            // Only an access of no bytes can be at the very end. Its offset becomes 0.
            Some(end) if end <= self.size() => {
                Ok(nospec::index(offset as usize, self.size() as usize) as u64)
            }
            _ => Err(Refusal(EINVAL, "outside the region")),
        }
    }
}

impl<T: Driver> Device<T> {
    /// Returns the region at `index`.
    #[inline]
    pub(crate) fn region(&self, index: u64) -> Result<Region, Refusal> {
        if index >= NUM_REGIONS as u64 {
            return Err(Refusal(EINVAL, "no such region"));
        }
        let index = nospec::index(index as usize, NUM_REGIONS);

        Ok(match (self.function.bars.get(index), index) {
            (Some(&bar @ (Bar::Registers { size } | Bar::Io { size })), _) => Region::Registers {
                bar: index as u32,
                size: u64::from(size),
                decoded: self.config.decodes(bar),
            },
            (Some(Bar::Memory { size }), _) => Region::Memory { size: *size },
            (Some(&bar @ Bar::Msix), _) => Region::Msix {
                decoded: self.config.decodes(bar),
            },
            (None, CONFIG) => Region::Config,
            (None, MIGRATION) if self.migration.v1 => Region::Migration {
                size: self.migration_size(),
            },
            _ => Region::Absent,
        })
    }

    /// Writes to device memory.
    ///
    /// If the VMM's cgroup or the host is out of memory, a write that a guest can make is dropped and does
    /// not fail.
    fn write_memory(&self, offset: u64, buf: UserPtr, len: usize) -> Result<usize> {
        let memory = self.memory.as_ref().ok_or(EINVAL)?;
        let mut done = 0;

        // A write of more than a page may end early. The next write returns the reason.
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

    /// Answers a read that is too wide for a register. Only a VMM can make one.
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

    /// Answers a write that is too wide for a register. See [`Device::read_nothing`].
    fn write_nothing(&self, buf: UserPtr, len: usize) -> Result<usize> {
        self.counters.refused.add_one();
        let len = len.min(PAGE_SIZE);
        let mut from = UserSlice::new(buf, len).reader();
        let mut word = ONES;

        // Fails if the user's buffer is not accessible.
        while !from.is_empty() {
            let n = from.len().min(WIDTH_MAX);
            from.read_slice(word.get_mut(..n).unwrap_or_default())?;
        }
        Ok(len)
    }
}

impl<T: Driver> DeviceOps for Device<T> {
    const NAME: &'static CStr = T::INFO.name;

    const NUM_REGIONS: usize = NUM_REGIONS;

    fn migration_flags(&self) -> u32 {
        let flag = |has: bool, flag: u32| if has { flag } else { 0 };
        let Migration {
            v2, pre_copy, p2p, ..
        } = self.migration;

        flag(v2, bindings::VFIO_MIGRATION_STOP_COPY)
            | flag(v2 && p2p, bindings::VFIO_MIGRATION_P2P)
            | flag(v2 && pre_copy, bindings::VFIO_MIGRATION_PRE_COPY)
    }

    fn irq(&self) -> &Irq {
        &self.irq
    }

    fn dma(&self) -> &Dma {
        &self.dma
    }

    fn refuse(&self, reason: fmt::Arguments<'_>) {
        Device::refuse(self, reason);
    }

    fn open(&self) -> Result {
        Device::open(self)
    }

    fn close(&self) {
        Device::close(self);
    }

    fn read(&self, at: Position, buf: UserPtr, len: usize) -> Result<usize, Refusal> {
        if len == 0 {
            return Ok(0);
        }
        if at.index == MIGRATION as u64 && self.migration.v1 {
            let done = match self.machine.generation() {
                Generation::V1 => self.v1_read(at.offset, buf, len),
                Generation::V7 => self.v7_read(at.offset, buf, len),
                Generation::V2018 => self.v2018_read(at.offset, buf, len),
            };
            return done.map_err(Refusal::logged);
        }
        let region = self.region(at.index)?;
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
            Region::Registers { decoded: false, .. } | Region::Msix { decoded: false } => {
                self.counters.refused.add_one();
            }
            Region::Registers { bar, .. } => {
                if let Err(Refused) = T::read(self, bar, offset, data) {
                    self.counters.refused.add_one();
                    data.fill(0xff);
                }
            }
            Region::Msix { .. } => self.msix.read(&self.irq, offset as usize, data)?,
            _ => return Err(EINVAL.into()),
        }
        UserSlice::new(buf, len).writer().write_slice(data)?;
        Ok(len)
    }

    fn write(&self, at: Position, buf: UserPtr, len: usize) -> Result<usize, Refusal> {
        if len == 0 {
            return Ok(0);
        }
        if at.index == MIGRATION as u64 && self.migration.v1 {
            let done = match self.machine.generation() {
                Generation::V1 => self.v1_write(at.offset, buf, len),
                Generation::V7 => self.v7_write(at.offset, buf, len),
                Generation::V2018 => self.v2018_write(at.offset, buf, len),
            };
            return done.map_err(Refusal::logged);
        }
        let region = self.region(at.index)?;
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
            Region::Registers { decoded: false, .. } | Region::Msix { decoded: false } => {
                self.counters.refused.add_one();
            }
            Region::Registers { bar, .. } => {
                if let Err(Refused) = T::write(self, bar, offset, data) {
                    self.counters.refused.add_one();
                }
            }
            Region::Msix { .. } => self.msix.write(offset as usize, data)?,
            _ => return Err(EINVAL.into()),
        }
        Ok(len)
    }

    unsafe fn mmap(
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
                _ => self.migration_mmap(vma, offset).map_err(Refusal::logged)?,
            }
        }
        Ok(())
    }

    unsafe fn region_info(
        &self,
        info: &mut bindings::vfio_region_info,
        caps: *mut bindings::vfio_info_cap,
    ) -> Result<(), Refusal> {
        // SAFETY: By the requirement of this function.
        unsafe { self.fill_region_info(info, caps) }
    }

    fn reset(&self) -> Result {
        self.reset_device()
    }

    fn set_migration_state(dev: &VfioDevice<T>, to: u32) -> Result<Option<ARef<File>>> {
        Self::set_v2_state(dev, to)
    }

    fn migration_state(&self) -> Result<u32> {
        self.v2_state()
    }

    fn migration_data_size(&self) -> Result<u64> {
        self.v2_data_size()
    }
}
