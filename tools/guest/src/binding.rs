// SPDX-License-Identifier: GPL-2.0

//! The binding of a PCI device to its driver.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const DEVICES: &str = "/sys/bus/pci/devices";

/// A device that was unbound from its driver.
#[derive(Clone, Debug)]
pub(crate) struct Unbound {
    /// Its PCI address.
    pci: String,
    /// The directory of the driver.
    driver: PathBuf,
}

impl Unbound {
    /// Unbinds a device from its driver, which stops it.
    pub(crate) fn of(pci: &str) -> io::Result<Self> {
        let driver = fs::canonicalize(Path::new(DEVICES).join(pci).join("driver"))?;
        fs::write(driver.join("unbind"), pci)?;
        Ok(Unbound {
            pci: pci.into(),
            driver,
        })
    }

    /// Binds the driver again, unless the device is gone or has a driver: one that is plugged in gets it by itself.
    pub(crate) fn bind(&self) -> io::Result<()> {
        let device = Path::new(DEVICES).join(&self.pci);
        if !device.exists() || device.join("driver").exists() {
            return Ok(());
        }
        fs::write(self.driver.join("bind"), &self.pci)
    }
}
