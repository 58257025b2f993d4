// SPDX-License-Identifier: GPL-2.0

//! Checks of dirty tracking: by type1, and by the device.

use vfio_client::{errno, DmaBuffer};

use crate::check::{Check, Line};
use crate::fault::{require, require_invalid, Fault};
use crate::subject::Subject;

pub(crate) const CHECKS: &[Check] = &[
    Check::changes(
        "dirty.bitmap",
        Line::vfio("VFIO_IOMMU_DIRTY_PAGES", "If dirty pages logging is not enabled, an error will be returned."),
        "A mapped range has a bitmap while tracking is on, and EINVAL when it is off.",
        bitmap,
    ),
    Check::changes(
        "dirty.ranges",
        Line::vfio("VFIO_IOMMU_DIRTY_PAGES", "returns the dirty pages bitmap for IOMMU container for a given IOVA range."),
        "A range that is not aligned, or cuts a mapping, is EINVAL.",
        ranges,
    ),
    Check::changes(
        "dirty.logging",
        Line::vfio("VFIO_DEVICE_FEATURE_DMA_LOGGING_START", "Another start is not allowed in the meantime."),
        "Logging starts once; a device that does nothing reports no page; a report after the stop fails.",
        logging,
    ),
    Check::changes(
        "dirty.overlap",
        Line::vfio("VFIO_DEVICE_FEATURE_DMA_LOGGING_START", "When DMA logging is started a range of IOVAs to monitor is provided"),
        "Ranges to log that overlap are refused.",
        overlap,
    ),
];

const IOVA: u64 = 0x10_0000;
const SIZE: usize = 64 << 12;

fn bitmap(subject: &Subject) -> Result<(), Fault> {
    let device = subject.open()?;
    if !device.has_group() {
        return Err(Fault::Absent("container, which type1 tracks".into()));
    }
    let container = device.container();
    if container.iommu_info()?.dirty_pgsize().is_none() {
        return Err(Fault::Absent("dirty tracking by type1".into()));
    }
    let _buffer = DmaBuffer::new(container, IOVA, SIZE)?;
    require_invalid(
        "GET_BITMAP before START",
        container.dirty_bitmap(IOVA, SIZE as u64),
    )?;
    container.dirty_start()?;
    let found = container.dirty_bitmap(IOVA, SIZE as u64)?;
    require(found.pages() == 64, "a bitmap of 64 pages", found.pages())?;
    container.dirty_stop()?;
    require_invalid(
        "GET_BITMAP after STOP",
        container.dirty_bitmap(IOVA, SIZE as u64),
    )
}

fn ranges(subject: &Subject) -> Result<(), Fault> {
    let device = subject.open()?;
    if !device.has_group() {
        return Err(Fault::Absent("container, which type1 tracks".into()));
    }
    let container = device.container();
    if container.iommu_info()?.dirty_pgsize().is_none() {
        return Err(Fault::Absent("dirty tracking by type1".into()));
    }
    let _buffer = DmaBuffer::new(container, IOVA, SIZE)?;
    container.dirty_start()?;
    for (iova, size) in [
        (IOVA + 1, 4096),
        (IOVA, 4095),
        (IOVA + 4096, 4096),
        (IOVA, 0),
    ] {
        let call = format!("GET_BITMAP of {size:#x} bytes at {iova:#x} of {SIZE:#x} at {IOVA:#x}");
        require_invalid(&call, container.dirty_bitmap(iova, size))?;
    }
    container.dirty_stop()?;
    Ok(())
}

fn logging(subject: &Subject) -> Result<(), Fault> {
    let device = subject.open()?;
    if !device.can_log_dma()? {
        return Err(Fault::Absent("VFIO_DEVICE_FEATURE_DMA_LOGGING".into()));
    }
    let size = SIZE as u64;
    device.dma_logging_start(4096, &[(IOVA, size)])?;
    let again = device.dma_logging_start(4096, &[(IOVA, size)]);
    require(again.is_err(), "a second start to fail", "success")?;
    let report = device.dma_logging_report(IOVA, size)?;
    require(
        report.is_clean(),
        "no page of an idle device",
        report.count(),
    )?;
    device.dma_logging_stop()?;
    let late = device.dma_logging_report(IOVA, size);
    require(late.is_err(), "a report after the stop to fail", "success")
}

fn overlap(subject: &Subject) -> Result<(), Fault> {
    let device = subject.open()?;
    if !device.can_log_dma()? {
        return Err(Fault::Absent("VFIO_DEVICE_FEATURE_DMA_LOGGING".into()));
    }
    let started = device.dma_logging_start(4096, &[(0, 8192), (4096, 8192)]);
    let name = started.as_ref().err().and_then(|e| e.errno());
    let good = name == Some(errno::EINVAL);
    require(
        good,
        "EINVAL of ranges that overlap",
        format!("{started:?}"),
    )
}
