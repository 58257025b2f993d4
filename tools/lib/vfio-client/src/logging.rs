// SPDX-License-Identifier: GPL-2.0

//! DMA logging: the device's own report of the guest memory that it wrote.

use std::os::fd::AsFd;

use vfio_bindings::bindings::vfio::{
    VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT, VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
    VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP,
};

use crate::bitmap::DirtyBitmap;
use crate::device::Device;
use crate::error::{Context, Result};
use crate::sys;

/// Page size of the device and of the reports.
const PAGE: u64 = 4096;

impl Device {
    /// Returns whether the device can log its DMA.
    pub fn can_log_dma(&self) -> Result<bool> {
        Ok(
            self.feature_probe(VFIO_DEVICE_FEATURE_DMA_LOGGING_START, false, true)?
                && self.feature_probe(VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP, false, true)?
                && self.feature_probe(VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT, true, false)?,
        )
    }

    /// `VFIO_DEVICE_FEATURE_DMA_LOGGING_START` for ranges of IOVA and length, in pages of `page_size` bytes; returns
    /// the page size that the device chose.
    pub fn dma_logging_start(&self, page_size: u64, ranges: &[(u64, u64)]) -> Result<u64> {
        sys::logging_start(self.as_fd(), page_size, ranges)
            .field(|| "VFIO_DEVICE_FEATURE_DMA_LOGGING_START".into())
    }

    /// `VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP`.
    pub fn dma_logging_stop(&self) -> Result<()> {
        self.feature_set(VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP, &mut [])
    }

    /// `VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT`: the pages written since the last report.
    pub fn dma_logging_report(&self, iova: u64, length: u64) -> Result<DirtyBitmap> {
        let words = sys::logging_report(self.as_fd(), iova, length, PAGE)
            .field(|| "VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT".into())?;
        Ok(DirtyBitmap::new(iova, length, PAGE, words))
    }
}
