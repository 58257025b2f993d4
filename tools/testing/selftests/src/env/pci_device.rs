// SPDX-License-Identifier: GPL-2.0

//! A PCI device of the machine that has an IOMMU group and no driver, so that tests can give it to `vfio-pci`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::fail;
use crate::harness::report::problem;
use crate::harness::result::Result;

const DEVICES: &str = "/sys/bus/pci/devices";
const VFIO_PCI: &str = "/sys/bus/pci/drivers/vfio-pci";
const PROBE: &str = "/sys/bus/pci/drivers_probe";

/// Returns the directory of a device without a driver that is alone in its IOMMU group.
fn find() -> Option<PathBuf> {
    let entries = fs::read_dir(DEVICES).ok()?;
    let mut found: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| !path.join("driver").exists() && is_alone(path) && !is_bridge(path))
        .collect();
    found.sort();
    found.into_iter().next()
}

fn is_alone(path: &Path) -> bool {
    fs::read_dir(path.join("iommu_group/devices")).is_ok_and(|devices| devices.count() == 1)
}

fn is_bridge(path: &Path) -> bool {
    fs::read_to_string(path.join("class")).is_ok_and(|class| class.starts_with("0x06"))
}

/// Returns whether there is such a device, and the driver for it.
pub(crate) fn exists() -> bool {
    Path::new(VFIO_PCI).exists() && find().is_some()
}

/// A device that is bound to `vfio-pci` until this is dropped.
pub(crate) struct PciDevice {
    path: PathBuf,
    address: String,
}

impl PciDevice {
    /// Binds a device.
    pub(crate) fn take() -> Result<Self> {
        let Some(path) = find() else {
            fail!("no PCI device is free");
        };
        let address = match path.file_name() {
            Some(name) => name.to_string_lossy().into_owned(),
            None => fail!("{} has no name", path.display()),
        };
        let device = PciDevice { path, address };
        fs::write(device.path.join("driver_override"), "vfio-pci")?;
        fs::write(PROBE, &device.address)?;
        if !Path::new(VFIO_PCI).join(&device.address).exists() {
            fail!("vfio-pci has not taken {}", device.address);
        }
        Ok(device)
    }

    /// Returns the number of its IOMMU group.
    pub(crate) fn iommu_group(&self) -> Result<u32> {
        let link = fs::read_link(self.path.join("iommu_group"))?;
        let number = link
            .file_name()
            .and_then(|name| name.to_str()?.parse().ok());
        match number {
            Some(number) => Ok(number),
            None => fail!("{} is not a group", link.display()),
        }
    }
}

impl Drop for PciDevice {
    fn drop(&mut self) {
        let unbind = Path::new(VFIO_PCI).join("unbind");
        let freed = fs::write(unbind, &self.address)
            .and_then(|()| fs::write(self.path.join("driver_override"), "\n"));
        if let Err(e) = freed {
            problem(format!("cannot unbind {}: {e}", self.address));
        }
    }
}
