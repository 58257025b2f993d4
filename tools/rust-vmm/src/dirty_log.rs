// SPDX-License-Identifier: GPL-2.0

//! Guest memory that moves while the guest runs: who wrote which page.

use crate::ram::type1;
use vfio_client::{Container, DirtyBitmap};
use vfio_ioctls::DmaLoggingRange;

use crate::error::Result;
use crate::machine::Machine;

/// Page size of guest memory.
const PAGE: u64 = 4096;

/// Who knows what the device wrote.
pub(crate) enum DirtyLog {
    /// The device itself (`VFIO_DEVICE_FEATURE_DMA_LOGGING_*`), with the page size that it chose.
    Device(u64),
    /// type1 (`VFIO_IOMMU_DIRTY_PAGES`), by the descriptor of the container: `vfio-ioctls` has no function for it.
    Type1(Container),
}

impl Machine {
    /// Returns the ranges to log: all guest memory, at its guest physical addresses.
    fn logged(&self) -> Vec<DmaLoggingRange> {
        let of = |(iova, size): (u64, usize)| DmaLoggingRange {
            iova,
            length: size as u64,
        };
        self.ram.ranges().map(of).collect()
    }

    /// `Migratable::start_dirty_log`: the device logs its DMA. Cloud Hypervisor has no other way.
    pub(crate) fn start_dma_log(&self) -> Result<DirtyLog> {
        let page_size = self.device.start_dma_logging(PAGE, &self.logged())?;
        Ok(DirtyLog::Device(page_size))
    }

    /// The same by type1, as QEMU does it on a kernel without iommufd.
    pub(crate) fn start_type1_log(&self) -> Result<DirtyLog> {
        let container = type1(&self.hypervisor.container)?;
        container.dirty_start()?;
        Ok(DirtyLog::Type1(container))
    }

    /// `Migratable::dirty_log`: the pages that the device or the guest wrote since the last call, a bitmap for each range.
    pub(crate) fn dirty_log(&self, log: &DirtyLog) -> Result<Vec<DirtyBitmap>> {
        // Read before those of the device: the driver writes a descriptor before the device acts on it.
        let mut all = self.ram.take_written();
        for (range, written) in self.logged().into_iter().zip(&mut all) {
            let mut dirty = match log {
                DirtyLog::Device(page_size) => {
                    let words = self.device.report_dma_logging(range, *page_size)?;
                    DirtyBitmap::new(range.iova, range.length, *page_size, words)
                }
                DirtyLog::Type1(container) => container.dirty_bitmap(range.iova, range.length)?,
            };
            dirty.merge(written);
            *written = dirty;
        }
        Ok(all)
    }

    /// `Migratable::stop_dirty_log`.
    pub(crate) fn stop_dirty_log(&self, log: DirtyLog) -> Result {
        match log {
            DirtyLog::Device(_) => Ok(self.device.stop_dma_logging()?),
            DirtyLog::Type1(container) => Ok(container.dirty_stop()?),
        }
    }

    /// Copies these pages of guest memory to another machine, and returns their number.
    pub(crate) fn send_memory(&self, pages: &[DirtyBitmap], to: &Machine) -> u64 {
        let mut sent = 0;
        for (at, size) in pages.iter().flat_map(DirtyBitmap::runs) {
            let mut bytes = vec![0; size as usize];
            self.ram.read(at, &mut bytes);
            to.ram.write(at, &bytes);
            sent += size / PAGE;
        }
        sent
    }

    /// Copies all of guest memory to another machine.
    pub(crate) fn send_all_memory(&self, to: &Machine) {
        // Pages that are written from here on are in the next log.
        self.ram.take_written();
        for (at, size) in self.ram.ranges() {
            let mut bytes = vec![0; size];
            self.ram.read(at, &mut bytes);
            to.ram.write(at, &bytes);
        }
    }
}
