// SPDX-License-Identifier: GPL-2.0

//! What happens to a device from its first open to its last close.
//!
//! ```text
//!   registration::new   reserve memory, allocate the device, register it with VFIO
//!     open              guest memory is accessible, the worker may run
//!     close             worker stopped, pins and eventfds dropped, device reset
//!   last reference      the device is dropped, its memory released
//! ```

use crate::{
    device::Device,
    device_worker::RunCondition, //
    driver::Driver,
};
use core::ptr::NonNull;
use kernel::prelude::*;
use kernel_ext::worker::{
    Due,
    Job, //
};

impl<T: Driver> Device<T> {
    /// The first user opens the device.
    pub(crate) fn open(&self) -> Result {
        self.open_migration()?;
        self.worker.opened();
        self.worker.set_condition(RunCondition::Open);
        Ok(())
    }

    /// The last user has closed the device. Resets it to power-on.
    ///
    /// With `keep_state`, registers, memory and the MSI-X table stay. Eventfds, pins, configuration space
    /// and sessions belong to the user and are dropped in any case.
    pub(crate) fn close(&self) {
        self.worker.close(|| T::stopped(self));
        self.close_migration();
        self.irq.release();
        self.config_close();
        self.dma.revoke_all();
    }

    /// Runs the device's work in a task of the current process. See [`DeviceWorker::adopt`].
    ///
    /// [`DeviceWorker::adopt`]: crate::device_worker::DeviceWorker::adopt
    pub(crate) fn adopt(&self) -> Result {
        // SAFETY: The device stops its worker before it is dropped.
        unsafe { self.worker.adopt(NonNull::from(self)) }
    }
}

impl<T: Driver> Job for Device<T> {
    fn due(&self) -> Due {
        self.worker.due()
    }

    fn run(&self) {
        self.worker.run(|wakeup| T::work(self, wakeup));
    }
}
