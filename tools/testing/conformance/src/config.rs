// SPDX-License-Identifier: GPL-2.0

//! Checks of PCI configuration space.

use vfio_client::pci::{capability, offset, Config};
use vfio_client::uapi::{VFIO_PCI_INTX_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX, VFIO_PCI_MSI_IRQ_INDEX};
use vfio_client::{v2, Device, EventFd};

use crate::check::{Check, Line};
use crate::fault::{require, Fault};
use crate::subject::Subject;

pub(crate) const READS: &[Check] = &[
    Check::reads(
        "config.capabilities",
        Line::pci("section 6.7"),
        "The capability list is aligned, ends, and stays behind the header.",
        capabilities,
    ),
    Check::reads(
        "config.interrupts",
        Line::vfio(
            "VFIO_PCI_NUM_IRQS",
            "Unimplemented IRQ types return a count of zero.",
        ),
        "Interrupt pin, MSI and MSI-X capability agree with ``count`` of their indices.",
        interrupts,
    ),
];

pub(crate) const CHECKS: &[Check] = &[
    Check::changes(
        "config.bars",
        Line::vfio("struct vfio_region_info", "Region size (bytes)"),
        "A BAR that ones are written to reads the ``size`` of its region.",
        bars,
    ),
    Check::changes(
        "config.read_only",
        Line::pci("section 6.1"),
        "Vendor, device, class and header type stay, whatever is written.",
        read_only,
    ),
    Check::changes(
        "config.command",
        Line::pci("section 6.2.2"),
        "The bits of the command register that enable memory or I/O can be changed, if the device has such a BAR.",
        command,
    ),
    Check::changes(
        "config.stopped",
        Line::vfio(
            "enum vfio_device_mig_state",
            "must accept and respond to interaction to support external subsystems in the STOP state",
        ),
        "Configuration space keeps what is written in STOP, and interrupts can be set.",
        stopped,
    ),
];

fn open(subject: &Subject) -> Result<(Device, Config), Fault> {
    let device = subject.open()?;
    if !device.info().is_pci() {
        return Err(Fault::Absent("PCI configuration space".into()));
    }
    let config = device.config()?;
    Ok((device, config))
}

/// Reads the first 256 bytes.
fn bytes(config: &Config) -> Result<Vec<u8>, Fault> {
    let mut bytes = config.snapshot()?.bytes().to_vec();
    bytes.resize(256, 0);
    Ok(bytes)
}

/// Walks the list of capabilities; returns identifier and place.
fn walk(bytes: &[u8]) -> Result<Vec<(u8, usize)>, Fault> {
    let mut found = Vec::new();
    if bytes[offset::STATUS as usize] & 0x10 == 0 {
        return Ok(found);
    }
    let mut at = usize::from(bytes[offset::CAPABILITIES as usize]);
    while at != 0 {
        let what = "capabilities at multiples of 4 from 0x40 on";
        require(at >= 0x40 && at % 4 == 0, what, format!("{at:#x}"))?;
        require(found.len() < 48, "the list to end", "a loop")?;
        found.push((bytes[at], at));
        at = usize::from(bytes[at + 1]);
    }
    Ok(found)
}

fn capabilities(subject: &Subject) -> Result<(), Fault> {
    let (_, config) = open(subject)?;
    walk(&bytes(&config)?).map(drop)
}

fn interrupts(subject: &Subject) -> Result<(), Fault> {
    let (device, config) = open(subject)?;
    let bytes = bytes(&config)?;
    let found = walk(&bytes)?;
    let place = |id| found.iter().find(|(i, _)| *i == id).map(|(_, at)| *at);
    let word = |at: usize| u16::from_le_bytes([bytes[at + 2], bytes[at + 3]]);
    let msi = place(capability::MSI).map_or(0, |at| 1 << ((word(at) >> 1) & 7));
    let msix = place(capability::MSIX).map_or(0, |at| u32::from(word(at) & 0x7ff) + 1);
    let pin = u32::from(bytes[offset::INTERRUPT_PIN as usize] != 0);
    for (name, index, expected) in [
        ("INTx", VFIO_PCI_INTX_IRQ_INDEX, pin),
        ("MSI", VFIO_PCI_MSI_IRQ_INDEX, msi),
        ("MSI-X", VFIO_PCI_MSIX_IRQ_INDEX, msix),
    ] {
        let count = match device.irq(index) {
            Ok(irq) => irq.info().count,
            Err(_) => 0,
        };
        let what = format!("{expected} vectors of {name}, as configuration space says");
        require(count == expected, what, count)?;
    }
    Ok(())
}

fn bars(subject: &Subject) -> Result<(), Fault> {
    let (device, config) = open(subject)?;
    let region = config.region();
    let saved = config.snapshot()?;
    let mut index = 0;
    while index < 6 {
        let at = offset::BAR0 + 4 * u64::from(index);
        let size = device.region(index)?.info().size;
        region.write_u32(at, !0)?;
        let low = u32::from_le(region.read_u32(at)?);
        let io = low & 1 != 0;
        let wide = !io && low & 0b110 == 0b100 && index < 5;
        let mut mask = u64::from(low & if io { !0x3 } else { !0xf });
        if wide {
            region.write_u32(at + 4, !0)?;
            mask |= u64::from(u32::from_le(region.read_u32(at + 4)?)) << 32;
        } else if mask != 0 {
            mask |= !u64::from(u32::MAX);
        }
        let read = (!mask).wrapping_add(1);
        let seen = format!("{read:#x} (reads {low:#x})");
        // A region may be larger than the BAR, up to a page.
        let good = read == size || (read != 0 && size == read.max(4096));
        require(good, format!("size {size:#x} of BAR {index}"), seen)?;
        index += if wide { 2 } else { 1 };
    }
    config.restore(&saved)?;
    Ok(())
}

fn read_only(subject: &Subject) -> Result<(), Fault> {
    let (_, config) = open(subject)?;
    let saved = config.snapshot()?;
    let before = bytes(&config)?;
    for value in [0xff, 0, 0xa5] {
        for at in [0, 1, 2, 3, 9, 10, 11, 14] {
            config.region().write_u8(at, value)?;
            let now = bytes(&config)?;
            let seen = now[at as usize];
            let expected = before[at as usize];
            let what = format!("{expected:#04x} at {at:#x} after a write of {value:#04x}");
            require(seen == expected, what, format!("{seen:#04x}"))?;
        }
    }
    config.restore(&saved)?;
    Ok(())
}

/// The bits of the command register that enable I/O and memory.
const ENABLE: [u8; 2] = [1, 2];

fn command(subject: &Subject) -> Result<(), Fault> {
    let (device, config) = open(subject)?;
    let saved = config.snapshot()?;
    for index in 0..6 {
        if device.region(index)?.info().size == 0 {
            continue;
        }
        let bar = config
            .region()
            .read_u8(offset::BAR0 + 4 * u64::from(index))?;
        let bit = ENABLE[usize::from(bar & 1 == 0)];
        for value in [bit, 0, bit] {
            config.region().write_u8(offset::COMMAND, value)?;
            let seen = config.region().read_u8(offset::COMMAND)? & bit;
            let what =
                format!("bit {bit:#x} of the command register to be {value:#x}, for BAR {index}");
            require(seen == value, what, format!("{seen:#x}"))?;
        }
    }
    config.restore(&saved)?;
    Ok(())
}

fn stopped(subject: &Subject) -> Result<(), Fault> {
    let (device, migration) = subject.open_v2()?;
    if !device.info().is_pci() {
        return Err(Fault::Absent("PCI configuration space".into()));
    }
    let config = device.config()?;
    migration.set_state(v2::State::STOP)?;
    for value in [0x5a, 0xa5, 0] {
        config.region().write_u8(offset::INTERRUPT_LINE, value)?;
        let seen = config.region().read_u8(offset::INTERRUPT_LINE)?;
        let what = format!("interrupt line {value:#x} as written in STOP");
        require(seen == value, what, format!("{seen:#x}"))?;
    }
    for index in 0..device.info().num_irqs.min(3) {
        let Ok(irq) = device.irq(index) else { continue };
        if irq.info().count == 0 || !irq.info().eventfd() {
            continue;
        }
        let event = EventFd::new().map_err(|e| vfio_client::Error::new("eventfd", e))?;
        let set = irq.set_eventfds(0, &[Some(&event)]);
        let what = format!("an eventfd of index {index} to be set in STOP");
        require(set.is_ok(), what, format!("{set:?}"))?;
        irq.disable()?;
    }
    Ok(())
}
