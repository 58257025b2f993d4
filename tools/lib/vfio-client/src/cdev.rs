// SPDX-License-Identifier: GPL-2.0

//! A device that is opened through its own file and bound to an iommufd. It has no group and no container.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use crate::device::Origin;
use crate::error::{Context, Result};
use crate::{sys, Device, Error};

/// `VFIO_DEVICE_BIND_IOMMUFD`.
const BIND: u32 = sys::nr(18);

fn open(path: &Path) -> Result<File> {
    let file = OpenOptions::new().read(true).write(true).open(path);
    file.field(|| format!("open {}", path.display()))
}

impl Device {
    /// Opens the device's own file, such as `/dev/vfio/devices/vfio0`, and binds it to a new iommufd.
    pub fn open_cdev(path: &Path, name: &str) -> Result<Self> {
        let (fd, iommufd) = (open(path)?, open(Path::new("/dev/iommu"))?);
        // argsz, flags, iommufd, out_devid.
        let mut arg = [0; 16];
        arg[0..4].copy_from_slice(&16u32.to_ne_bytes());
        arg[8..12].copy_from_slice(&iommufd.as_raw_fd().to_ne_bytes());
        sys::ioctl(fd.as_fd(), BIND, &mut arg)
            .field(|| format!("VFIO_DEVICE_BIND_IOMMUFD of {}", path.display()))?;
        Device::new(fd.into(), name, Origin::Iommufd(iommufd.into()))
    }

    /// Returns the number of the iommufd's descriptor, or -1 for a device that was opened through a group.
    pub fn iommufd_number(&self) -> i32 {
        self.iommufd().map_or(-1, |fd| fd.as_raw_fd())
    }

    /// `IOMMU_IOAS_ALLOC`: makes an address space in the iommufd, and returns its number.
    pub fn new_address_space(&self) -> Result<u32> {
        let none = || Error::not_found("iommufd", "the device was opened through a group");
        let iommufd = self.iommufd().ok_or_else(none)?;
        // size, flags, out_ioas_id.
        let mut arg = [0; 12];
        arg[0..4].copy_from_slice(&12u32.to_ne_bytes());
        sys::ioctl(iommufd, sys::IOAS_ALLOC, &mut arg).field(|| "IOMMU_IOAS_ALLOC".into())?;
        Ok(u32::from_ne_bytes([arg[8], arg[9], arg[10], arg[11]]))
    }
}
