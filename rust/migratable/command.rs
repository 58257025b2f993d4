// SPDX-License-Identifier: GPL-2.0

//! The effects of the PCI command register.
//!
//! Bus mastering lets the worker run, and the INTx disable bit suppresses INTx. A task of the process
//! that sets bus mastering does the worker's work, so this write can fail. A write that fails has
//! changed nothing.
//!
//! A device without DMA has no bus mastering. It works from the moment its user enables I/O or memory
//! until the close: a guest that disables them, for example to size the BARs, does not stop it.

use crate::{
    device::Device,
    device_worker::RunCondition, //
    driver::Driver,
};
use kernel::prelude::*;
use vfio::refuse;

impl<T: Driver> Device<T> {
    /// Reads `data.len()` bytes of configuration space; the caller has checked the range.
    ///
    /// `EINTR` if the caller is killed while a write waits for the worker.
    pub(crate) fn config_read(&self, at: usize, data: &mut [u8]) -> Result {
        self.config.read(at, data, || self.irq.level())
    }

    /// Writes `data` to configuration space; the caller has checked the range.
    ///
    /// Turning bus mastering off returns when the worker has stopped, or with `EINTR` if the caller is
    /// killed before. Turning it on fails if the user may have no more tasks (`EAGAIN`) or memory, or with
    /// `ERESTARTNOINTR` if a signal comes first.
    pub(crate) fn config_write(&self, at: usize, data: &[u8]) -> Result {
        let write = self.config.write(at, data)?;
        let effect = write.effect;

        if let Some(on) = effect.works {
            self.set_enabled(on, effect.works_changed)?;
        }
        let _locked = write.commit();
        self.set_intx_disable(effect.intx_disable);
        Ok(())
    }

    /// Puts configuration space back to power-on, bus mastering off, when the device is being closed and
    /// the worker has stopped.
    pub(crate) fn config_close(&self) {
        let write = self.config.reset();
        let effect = write.effect;

        let _locked = write.commit();
        self.set_intx_disable(effect.intx_disable);
    }

    /// Lets the worker run, or stops it. A failure changes nothing.
    fn set_enabled(&self, on: bool, changed: bool) -> Result {
        let dma = self.function.bus_master;

        if !on {
            if changed && dma {
                self.worker
                    .clear_condition(RunCondition::Enabled, || T::stopped(self))?;
            }
        } else if changed || !self.worker.has_worker() {
            let what = if dma { "bus master" } else { "enable" };
            self.adopt().inspect_err(|&error| {
                if error != ERESTARTNOINTR && error != EINTR {
                    refuse!(self, "{what}: no task for the device's work: {error:?}");
                }
            })?;
            if dma && self.worker.is_foreign() {
                refuse!(
                    self,
                    "bus master was set by another process than the one that opened the device: \
                     guest memory that it has not mapped itself cannot be accessed"
                );
            }
            self.worker.set_condition(RunCondition::Enabled);
        }
        Ok(())
    }

    /// Disables or enables INTx, if the write changed the bit.
    fn set_intx_disable(&self, disable: Option<bool>) {
        if let Some(disable) = disable {
            self.irq.set_disabled(disable);
        }
    }
}
