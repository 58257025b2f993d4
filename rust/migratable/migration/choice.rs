// SPDX-License-Identifier: GPL-2.0

//! What root chooses before the first open: the generation of the region, and the size of its data section.

use super::data_section_config::DataSectionConfig;
use crate::{
    device::{
        Device,
        VfioDevice, //
    },
    driver::Driver, //
};
use kernel::prelude::*;
use migration::generation::Generation;
use vfio::refuse;

impl<T: Driver> Device<T> {
    /// Calls `choose` for a write to an attribute of this name if the device was never opened. It is not
    /// opened meanwhile.
    ///
    /// `EBUSY` if it was opened, `EINTR` if the task is killed while it waits.
    pub(crate) fn before_first_open(
        &self,
        attribute: &str,
        choose: impl FnOnce() -> Result,
    ) -> Result {
        let inner = self.machine.lock()?;
        if inner.was_open {
            refuse!(self, "{attribute}: the device was opened before");
            return Err(EBUSY);
        }
        choose()
    }

    /// Returns the generation of the region.
    pub(crate) fn generation(&self) -> Generation {
        self.machine.generation()
    }

    /// Chooses the generation of the region, before the first open. `EBUSY` if the device was opened,
    /// `EINVAL` if the data section is too small.
    pub(crate) fn set_generation(dev: &VfioDevice<T>, generation: Generation) -> Result {
        dev.before_first_open("migration_abi", || {
            let size = dev.data_section.size();
            let name = generation.name();
            DataSectionConfig::check_room(size, generation, &dev.machine.identity).inspect_err(
                |_| refuse!(dev, "migration_abi {name}: the data section is too small"),
            )?;
            dev.machine.set_generation(generation);
            // SAFETY: The device was never open, and is not opened during this call.
            unsafe { dev.show_v2(generation.has_v2()) };
            Ok(())
        })
    }

    /// Returns the size of the data section in bytes.
    pub(crate) fn data_section_size(&self) -> usize {
        self.data_section.size()
    }

    /// Chooses the size of the data section, before the first open. `EBUSY` if the device was opened,
    /// `EINVAL` if [`DataSectionConfig::new`] refuses the size, or if it is too small for the device.
    pub(crate) fn set_data_section_size(&self, size: usize) -> Result {
        self.before_first_open("data_section_kib", || {
            DataSectionConfig::check_size(size)
                .and_then(|()| {
                    let identity = &self.machine.identity;
                    DataSectionConfig::check_room(size, self.generation(), identity)
                })
                .inspect_err(|_| {
                    refuse!(self, "data_section_kib: {size} bytes are out of range")
                })?;
            // SAFETY: The size was checked. The device was never open, and is not opened during this call.
            unsafe { self.data_section.set_size(size) };
            Ok(())
        })
    }
}
