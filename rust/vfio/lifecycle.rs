// SPDX-License-Identifier: GPL-2.0

//! What happens to a device from its first open to its last close.
//!
//! ```text
//!   registration::new   reserve memory, allocate the device, register it with VFIO
//!     open              guest memory can be reached, the engine may run
//!     close             engine stopped, pins and eventfds given up, all as at power-on
//!   last reference      the device is dropped, its memory given back
//! ```

use crate::{
    device::Device,
    driver::Driver,
    engine::Gate,
    worker::{
        Job,
        Turn, //
    },
};
use core::ptr::NonNull;
use kernel::prelude::*;

impl<T: Driver> Device<T> {
    /// The first user opens the device.
    ///
    /// # Safety
    ///
    /// VFIO has opened the device, and calls [`Device::close`] before it closes it.
    pub(crate) unsafe fn open(&self) -> Result {
        let raw = NonNull::new(self.as_raw()).ok_or(EINVAL)?;

        self.open_migration()?;
        // SAFETY: By the requirement of this function; `close` takes it back.
        unsafe { self.dma.set_device(Some(raw)) };
        self.engine.opened();
        self.engine.open_gate(Gate::Open);
        Ok(())
    }

    /// The last user has closed the device. It goes back to power-on.
    ///
    /// With `keep_state`, registers, memory and the MSI-X table stay. Eventfds, pins, configuration space
    /// and sessions belong to the user, and go in any case.
    pub(crate) fn close(&self) {
        self.engine.close(|| T::stopped(self));
        self.close_migration();
        self.irq.release();
        self.config_close();
        self.dma.revoke_all();
        // SAFETY: Taking the device away is always allowed.
        unsafe { self.dma.set_device(None) };
    }

    /// Closes a gate of the engine. When this returns the device does no work.
    ///
    /// `EINTR` if the caller is killed while it waits: the gate is open then, as before.
    pub(crate) fn close_gate(&self, gate: Gate) -> Result {
        self.engine.close_gate(gate, || T::stopped(self))
    }

    /// Runs the device's work in a task of the current process. See [`Engine::adopt`].
    ///
    /// [`Engine::adopt`]: crate::engine::Engine::adopt
    pub(crate) fn adopt(&self) -> Result {
        // SAFETY: The device stops its engine before it is dropped.
        unsafe { self.engine.adopt(NonNull::from(self)) }
    }
}

impl<T: Driver> Job for Device<T> {
    fn is_due(&self) -> bool {
        self.engine.is_due()
    }

    fn run(&self) -> Turn {
        self.engine.run(|| T::work(self))
    }
}
