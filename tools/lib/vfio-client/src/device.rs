// SPDX-License-Identifier: GPL-2.0

//! An opened device: its properties, reset and features.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use vfio_bindings::bindings::vfio::{
    vfio_device_info, VFIO_DEVICE_FEATURE_GET, VFIO_DEVICE_FEATURE_PROBE, VFIO_DEVICE_FEATURE_SET,
    VFIO_DEVICE_FLAGS_PCI, VFIO_DEVICE_FLAGS_RESET,
};

use crate::caps::read_u32;
use crate::container::Container;
use crate::error::{Context, Result};
use crate::group::Group;
use crate::info::info_ioctl;
use crate::mapping::{Mapping, Protection};
use crate::mapping_io;
use crate::sys;

/// Result of `VFIO_DEVICE_GET_INFO`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// `flags`.
    pub flags: u32,
    /// Number of region indices.
    pub num_regions: u32,
    /// Number of interrupt indices.
    pub num_irqs: u32,
}

impl DeviceInfo {
    /// Returns whether [`Device::reset`] works.
    pub fn can_reset(&self) -> bool {
        self.flags & VFIO_DEVICE_FLAGS_RESET != 0
    }

    /// Returns whether it is a PCI device.
    pub fn is_pci(&self) -> bool {
        self.flags & VFIO_DEVICE_FLAGS_PCI != 0
    }
}

/// An opened device. A clone shares the descriptor, which closes with the last clone, region and interrupt.
#[derive(Clone, Debug)]
pub struct Device(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    // Dropped in this order.
    fd: OwnedFd,
    origin: Origin,
    name: String,
    info: DeviceInfo,
}

/// How the device was opened. It keeps that open.
#[derive(Debug)]
pub(crate) enum Origin {
    Group(Group),
    /// The iommufd that it is bound to.
    Iommufd(OwnedFd),
}

impl Group {
    /// `VFIO_GROUP_GET_DEVICE_FD`: opens the device of this name, which for a mediated device is its UUID. Each call
    /// returns another descriptor of the same opened device.
    pub fn device(&self, name: &str) -> Result<Device> {
        let fd = sys::device_fd(self.as_fd(), name)
            .field(|| format!("VFIO_GROUP_GET_DEVICE_FD {name}"))?;
        Device::new(fd, name, Origin::Group(self.clone()))
    }
}

impl Device {
    pub(crate) fn new(fd: OwnedFd, name: &str, origin: Origin) -> Result<Self> {
        let bytes = info_ioctl(
            fd.as_fd(),
            sys::nr(7),
            0,
            size_of::<vfio_device_info>(),
            false,
        )
        .field(|| "VFIO_DEVICE_GET_INFO".into())?;
        let field = |offset| read_u32(&bytes, offset).unwrap();
        let info = DeviceInfo {
            flags: field(4),
            num_regions: field(8),
            num_irqs: field(12),
        };
        Ok(Device(Arc::new(Inner {
            fd,
            origin,
            name: name.to_string(),
            info,
        })))
    }

    /// Returns its name, for a mediated device the UUID.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Returns whether the device was opened through a group.
    pub fn has_group(&self) -> bool {
        matches!(self.0.origin, Origin::Group(_))
    }

    /// Returns the iommufd that it is bound to, if it was opened through its own file.
    pub(crate) fn iommufd(&self) -> Option<BorrowedFd<'_>> {
        match &self.0.origin {
            Origin::Group(_) => None,
            Origin::Iommufd(fd) => Some(fd.as_fd()),
        }
    }

    /// Returns its group.
    ///
    /// # Panics
    ///
    /// If the device was opened through its own file.
    pub fn group(&self) -> &Group {
        match &self.0.origin {
            Origin::Group(group) => group,
            Origin::Iommufd(_) => panic!("{} was opened without a group", self.0.name),
        }
    }

    /// Returns the container for its DMA.
    ///
    /// # Panics
    ///
    /// As [`group`](Self::group) does.
    pub fn container(&self) -> &Container {
        self.group().container()
    }

    /// Returns its properties.
    pub fn info(&self) -> DeviceInfo {
        self.0.info
    }

    /// `VFIO_DEVICE_RESET`.
    pub fn reset(&self) -> Result<()> {
        sys::ioctl_value(self.as_fd(), 11, 0)
            .map(drop)
            .field(|| "VFIO_DEVICE_RESET".into())
    }

    /// Reads at any offset of the device's file, in one system call whose result is returned unchanged.
    pub fn pread(&self, offset: u64, out: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::pread(self.as_fd(), out, offset)?)
    }

    /// Writes at any offset of the device's file, like [`pread`](Self::pread).
    pub fn pwrite(&self, offset: u64, data: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::pwrite(self.as_fd(), data, offset)?)
    }

    /// [`pread`](Self::pread) into a mapping, possibly of this device.
    pub fn pread_mapping(
        &self,
        offset: u64,
        memory: &Mapping,
        at: usize,
        len: usize,
    ) -> io::Result<usize> {
        mapping_io::pread(self.as_fd(), offset, memory, at, len)
    }

    /// [`pwrite`](Self::pwrite) from a mapping, possibly of this device.
    pub fn pwrite_mapping(
        &self,
        offset: u64,
        memory: &Mapping,
        at: usize,
        len: usize,
    ) -> io::Result<usize> {
        mapping_io::pwrite(self.as_fd(), offset, memory, at, len)
    }

    /// Maps any part of the device's file, and returns the result unchanged.
    pub fn mmap(&self, offset: u64, len: usize, protection: Protection) -> io::Result<Mapping> {
        Mapping::of_file(self.as_fd(), offset, len, protection)
    }

    /// Returns whether a feature supports `VFIO_DEVICE_FEATURE_GET` and/or `_SET`.
    pub fn feature_probe(&self, feature: u32, get: bool, set: bool) -> Result<bool> {
        let mut flags = VFIO_DEVICE_FEATURE_PROBE | feature;
        flags |= if get { VFIO_DEVICE_FEATURE_GET } else { 0 };
        flags |= if set { VFIO_DEVICE_FEATURE_SET } else { 0 };
        match self.feature_raw(8, flags, &mut []) {
            Ok(_) => Ok(true),
            Err(e) if e.is(libc::ENOTTY) || e.is(libc::EINVAL) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Reads a feature's structure.
    pub fn feature_get(&self, feature: u32, data: &mut [u8]) -> Result<()> {
        let argsz = 8 + data.len() as u32;
        self.feature_raw(argsz, VFIO_DEVICE_FEATURE_GET | feature, data)
            .map(drop)
    }

    /// Writes a feature's structure. For `MIG_DEVICE_STATE` use [`crate::v2::Migration::set_state`].
    pub fn feature_set(&self, feature: u32, data: &mut [u8]) -> Result<()> {
        let argsz = 8 + data.len() as u32;
        self.feature_raw(argsz, VFIO_DEVICE_FEATURE_SET | feature, data)
            .map(drop)
    }

    /// `VFIO_DEVICE_FEATURE` with every value as given; `data` follows the fixed part, in both directions.
    ///
    /// If a feature returns the number of a descriptor, nobody closes that descriptor.
    pub fn feature_raw(&self, argsz: u32, flags: u32, data: &mut [u8]) -> Result<i32> {
        let mut arg = Vec::with_capacity(8 + data.len());
        arg.extend(argsz.to_ne_bytes());
        arg.extend(flags.to_ne_bytes());
        arg.extend_from_slice(data);
        let result = sys::ioctl(self.as_fd(), sys::nr(17), &mut arg);
        data.copy_from_slice(&arg[8..]);
        result.field(|| format!("VFIO_DEVICE_FEATURE flags {flags:#x}"))
    }

    /// Makes any ioctl with the bytes as given; see [`crate::raw`].
    pub fn raw_ioctl(&self, request: u32, argument: &mut [u8]) -> Result<i32> {
        sys::ioctl(self.as_fd(), request, argument).field(|| format!("ioctl {request:#x}"))
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}
