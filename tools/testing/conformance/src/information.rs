// SPDX-License-Identifier: GPL-2.0

//! Checks that only read: information, regions, features and invalid requests.

use vfio_client::uapi::{VFIO_DEVICE_FEATURE_GET, VFIO_DEVICE_FEATURE_PROBE, VFIO_PCI_NUM_REGIONS};
use vfio_client::{errno, raw, Area, Device, Protection};

use crate::check::{Check, Line};
use crate::fault::{require, require_errno, require_invalid, Fault};
use crate::subject::{migration, Subject};

pub(crate) const CHECKS: &[Check] = &[
    Check::reads(
        "info.argsz",
        Line::vfio("VFIO_DEVICE_GET_INFO", "Caller sets argsz."),
        "An ``argsz`` below the fixed structure is EINVAL, for the device, its regions and interrupts.",
        argsz
    ),
    Check::reads(
        "info.index",
        Line::vfio("struct vfio_device_info", "Max region index + 1"),
        "A region or interrupt index that is not below its number is EINVAL.",
        index
    ),
    Check::reads(
        "region.read_beyond",
        Line::vfio("struct vfio_region_info", "Region size (bytes)"),
        "A region ends at ``size``: a read at its end returns no byte.",
        read_beyond
    ),
    Check::reads(
        "region.read_across_end",
        Line::vfio("struct vfio_region_info", "Region size (bytes)"),
        "A region ends at ``size``: a read of four bytes from its last byte returns at most one.",
        read_across_end
    ),
    Check::reads(
        "irq.invalid",
        Line::vfio("VFIO_DEVICE_SET_IRQS", "The DATA flags specify the type of data provided."),
        "A bad index, two types of data, and vectors beyond ``count`` are EINVAL.",
        irq_invalid
    ),
    Check::reads(
        "feature.unknown",
        Line::vfio("VFIO_DEVICE_FEATURE", "Probing a feature will return success if the feature is supported"),
        "A probe of a feature that does not exist is ENOTTY.",
        feature_unknown
    ),
    Check::reads(
        "feature.argsz",
        Line::vfio("VFIO_DEVICE_FEATURE", "The format of the data portion of the structure is specific to the given feature."),
        "An ``argsz`` below the header, or below the data of a GET, is EINVAL.",
        feature_argsz
    ),
    Check::reads(
        "feature.stop_copy",
        Line::vfio("VFIO_DEVICE_FEATURE_MIGRATION", "at least VFIO_MIGRATION_STOP_COPY must be set."),
        "A device that migrates sets at least VFIO_MIGRATION_STOP_COPY.",
        feature_stop_copy
    ),
    Check::reads(
        "region.mmap",
        Line::vfio("struct vfio_region_info", "Region supports mmap"),
        "Each mappable area can be mapped; a region without the flag cannot.",
        mmap
    ),
    Check::reads(
        "region.unimplemented",
        Line::vfio("VFIO_PCI_NUM_REGIONS", "Unimplemented regions return a size of zero."),
        "Each fixed index of a PCI device has information.",
        unimplemented
    ),
    Check::reads(
        "info.reset",
        Line::vfio("struct vfio_device_info", "Device supports reset"),
        "A device that migrates announces a reset, which is the only way out of ERROR.",
        reset_flag
    ),
];

/// An info ioctl of this number, `argsz` and index.
fn info(device: &Device, n: u32, argsz: u32, index: u32) -> vfio_client::Result<i32> {
    let mut arg = [0; 64];
    arg[0..4].copy_from_slice(&argsz.to_ne_bytes());
    arg[8..12].copy_from_slice(&index.to_ne_bytes());
    device.raw_ioctl(raw::nr(n), &mut arg)
}

fn argsz(subject: &Subject) -> Result<(), Fault> {
    let device = subject.open()?;
    for (n, name, size) in [
        (7, "VFIO_DEVICE_GET_INFO", 16),
        (8, "VFIO_DEVICE_GET_REGION_INFO", 32),
        (9, "VFIO_DEVICE_GET_IRQ_INFO", 16),
    ] {
        for argsz in [0, 8, size - 1] {
            let call = format!("{name} of argsz {argsz}");
            require_invalid(&call, info(&device, n, argsz, 0))?;
        }
    }
    Ok(())
}

fn index(subject: &Subject) -> Result<(), Fault> {
    let device = subject.open()?;
    let numbers = [
        (8, "VFIO_DEVICE_GET_REGION_INFO", device.info().num_regions),
        (9, "VFIO_DEVICE_GET_IRQ_INFO", device.info().num_irqs),
    ];
    for (n, name, first) in numbers {
        for index in [first, first + 1, u32::MAX] {
            let call = format!("{name} of index {index}, first invalid index {first}");
            require_invalid(&call, info(&device, n, 32, index))?;
        }
    }
    Ok(())
}

fn read_beyond(subject: &Subject) -> Result<(), Fault> {
    for region in subject.open()?.regions()? {
        let info = region.info();
        for distance in [0, 1, 0x1000] {
            let read = region.pread(info.size + distance, &mut [0]);
            let what = format!("no byte at {distance:#x} beyond region {}", info.index);
            let seen = format!("{read:?}, size {:#x}", info.size);
            require(!matches!(read, Ok(1..)), what, seen)?;
        }
    }
    Ok(())
}

fn read_across_end(subject: &Subject) -> Result<(), Fault> {
    for region in subject.open()?.regions()? {
        let info = region.info();
        let read = region.pread(info.size - 1, &mut [0; 4]);
        let what = format!("at most one byte from the end of region {}", info.index);
        let seen = format!("{read:?}, size {:#x}", info.size);
        require(!matches!(read, Ok(2..)), what, seen)?;
    }
    Ok(())
}

fn irq_invalid(subject: &Subject) -> Result<(), Fault> {
    let device = subject.open()?;
    let irqs = device.info().num_irqs;
    let set = |flags: u32, index: u32, start: u32, count: u32| {
        let mut arg = Vec::new();
        for value in [20, flags, index, start, count] {
            arg.extend(value.to_ne_bytes());
        }
        device.raw_ioctl(raw::nr(10), &mut arg)
    };
    // DATA_NONE 1, DATA_BOOL 2, ACTION_TRIGGER 32.
    require_invalid("VFIO_DEVICE_SET_IRQS of a bad index", set(33, irqs, 0, 1))?;
    for index in 0..irqs {
        let Ok(irq) = device.irq(index) else { continue };
        let count = irq.info().count;
        let two = format!("VFIO_DEVICE_SET_IRQS of index {index}, two types of data");
        require_invalid(&two, set(35, index, 0, 1))?;
        let beyond = format!("VFIO_DEVICE_SET_IRQS of index {index}, vector {count} of {count}");
        require_invalid(&beyond, set(33, index, count, 1))?;
        let overflow = format!("VFIO_DEVICE_SET_IRQS of index {index}, count 2^32-1");
        require_invalid(&overflow, set(33, index, 1, u32::MAX))?;
    }
    Ok(())
}

fn feature_unknown(subject: &Subject) -> Result<(), Fault> {
    let flags = VFIO_DEVICE_FEATURE_PROBE | VFIO_DEVICE_FEATURE_GET | 0xffff;
    let probe = subject.open()?.feature_raw(8, flags, &mut []);
    require_errno("the probe", errno::ENOTTY, probe.map_err(|e| e.source))
}

fn feature_argsz(subject: &Subject) -> Result<(), Fault> {
    let device = subject.open()?;
    migration(&device)?;
    let flags = VFIO_DEVICE_FEATURE_GET | vfio_client::uapi::VFIO_DEVICE_FEATURE_MIGRATION;
    for argsz in [0, 7, 8, 15] {
        let call = format!("VFIO_DEVICE_FEATURE_MIGRATION of argsz {argsz}");
        require_invalid(&call, device.feature_raw(argsz, flags, &mut [0; 8]))?;
    }
    Ok(())
}

fn feature_stop_copy(subject: &Subject) -> Result<(), Fault> {
    let device = subject.open()?;
    let migration = migration(&device)?;
    let seen = format!("flags {:#x}", migration.flags());
    require(migration.has_stop_copy(), "VFIO_MIGRATION_STOP_COPY", seen)
}

fn reset_flag(subject: &Subject) -> Result<(), Fault> {
    let device = subject.open()?;
    migration(&device)?;
    let seen = format!("flags {:#x}", device.info().flags);
    require(device.info().can_reset(), "VFIO_DEVICE_FLAGS_RESET", seen)
}

fn mmap(subject: &Subject) -> Result<(), Fault> {
    let device = subject.open()?;
    for region in device.regions()? {
        let info = region.info();
        let areas = info.areas();
        for area in &areas {
            let mapped = region.map(*area).map(drop);
            let what = format!("a mapping of {area:x?} of region {}", info.index);
            require(mapped.is_ok(), what, format!("{mapped:?}"))?;
        }
        if areas.is_empty() && info.size > 0 {
            let whole = Area {
                offset: 0,
                size: 4096,
            };
            let mapped = region.mmap(whole, Protection::READ);
            let what = format!("no mapping of region {}, which has no areas", info.index);
            require(mapped.is_err(), what, "success")?;
        }
    }
    Ok(())
}

fn unimplemented(subject: &Subject) -> Result<(), Fault> {
    let device = subject.open()?;
    if !device.info().is_pci() {
        return Err(Fault::Absent("regions of a PCI device".into()));
    }
    for index in 0..device.info().num_regions.min(VFIO_PCI_NUM_REGIONS) {
        let call = info(&device, 8, 32, index);
        let what = format!("information on region {index}, perhaps of size 0");
        require(call.is_ok(), what, format!("{call:?}"))?;
    }
    Ok(())
}
