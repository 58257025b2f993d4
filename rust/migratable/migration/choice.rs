// SPDX-License-Identifier: GPL-2.0

//! The choice of the generation, by `migration_abi` of an instance.

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
    /// Returns the generation of the region.
    pub(crate) fn generation(&self) -> Generation {
        self.machine.generation()
    }

    /// Chooses the generation of the region, before the first open. `EBUSY` if the device was opened,
    /// `EINVAL` if the data section is too small.
    pub(crate) fn set_generation(dev: &VfioDevice<T>, generation: Generation) -> Result {
        let inner = dev.machine.lock()?;
        let name = generation.name();
        if inner.was_open {
            refuse!(dev, "migration_abi {name}: the device was opened before");
            return Err(EBUSY);
        }
        let config = dev.data_section.config();
        config
            .check(generation, &dev.machine.identity)
            .inspect_err(|_| refuse!(dev, "migration_abi {name}: the data section is too small"))?;
        dev.machine.set_generation(generation);
        // SAFETY: The device was never open, and is not opened while the state is locked.
        unsafe { dev.show_v2(generation.has_v2()) };
        Ok(())
    }
}
