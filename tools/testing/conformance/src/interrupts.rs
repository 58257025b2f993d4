// SPDX-License-Identifier: GPL-2.0

//! Checks of interrupts.

use std::time::Duration;

use vfio_client::{Action, Device, EventFd, Irq};

use crate::check::{Check, Line};
use crate::fault::{require, Fault};
use crate::subject::Subject;

pub(crate) const READS: &[Check] = &[Check::reads(
    "irq.flags",
    Line::vfio("VFIO_DEVICE_GET_IRQ_INFO", "automatically masked by VFIO and the user needs to unmask the line to receive new interrupts."),
    "An interrupt that masks itself can be masked and unmasked by the user.",
    flags,
), Check::reads(
    "irq.unimplemented",
    Line::vfio("VFIO_PCI_NUM_IRQS", "Unimplemented IRQ types return a count of zero."),
    "Each index below ``num_irqs`` of a PCI device has information.",
    unimplemented,
)];

pub(crate) const CHECKS: &[Check] = &[
    Check::changes(
        "irq.trigger",
        Line::vfio("VFIO_DEVICE_SET_IRQS", "DATA_BOOL or DATA_NONE can be used with ACTION_TRIGGER to perform kernel level interrupt loopback"),
        "After eventfds were set, DATA_NONE signals the vectors it names and no others.",
        trigger,
    ),
    Check::changes(
        "irq.disable",
        Line::vfio("VFIO_DEVICE_SET_IRQS", "the index can be disabled as a whole with: flags = (DATA_NONE|ACTION_TRIGGER), count = 0."),
        "TRIGGER with DATA_NONE and count 0 disables: no eventfd is signalled any more.",
        disable,
    ),
    Check::changes(
        "irq.deassign",
        Line::vfio("VFIO_DEVICE_SET_IRQS", "Individual subindex interrupts can be disabled using the -1 value for DATA_EVENTFD"),
        "An eventfd of -1 takes that of its vector away.",
        deassign,
    ),
    Check::changes(
        "irq.bool",
        Line::vfio("VFIO_DEVICE_SET_IRQS", "DATA_BOOL allows sparse support for the same on arrays of interrupts."),
        "DATA_BOOL signals the vectors that are true and no others.",
        sparse,
    ),
    Check::changes(
        "irq.mask",
        Line::vfio("VFIO_DEVICE_GET_IRQ_INFO", "The MASKABLE flags indicates the index supports MASK and UNMASK actions described below."),
        "An index that is MASKABLE takes MASK and UNMASK, and signals afterwards.",
        mask,
    ),
];

/// How long a signal may take, on the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The interrupts of the device's own, which have vectors and take eventfds. The rest is the VMM's.
fn own(device: &Device) -> Result<Vec<Irq>, Fault> {
    let mut found = Vec::new();
    for index in 0..device.info().num_irqs.min(3) {
        let Ok(irq) = device.irq(index) else { continue };
        if irq.info().count > 0 && irq.info().eventfd() {
            found.push(irq);
        }
    }
    match found.is_empty() {
        true => Err(Fault::Absent("interrupts".into())),
        false => Ok(found),
    }
}

fn flags(subject: &Subject) -> Result<(), Fault> {
    let device = subject.open()?;
    for irq in own(&device)? {
        let info = irq.info();
        let good = !info.automasked() || info.maskable();
        require(good, "MASKABLE with AUTOMASKED", format!("{info:?}"))?;
    }
    Ok(())
}

/// New eventfds, one for each vector.
fn listen(irq: &Irq) -> Result<Vec<EventFd>, Fault> {
    let mut events = Vec::new();
    for _ in 0..irq.info().count {
        let event = EventFd::new();
        events.push(event.map_err(|e| vfio_client::Error::new("eventfd", e))?);
    }
    let all: Vec<_> = events.iter().map(Some).collect();
    irq.set_eventfds(0, &all)?;
    Ok(events)
}

/// The count of an eventfd now, or after a wait for a signal.
fn count(event: &EventFd, wait: bool) -> Result<u64, Fault> {
    let count = event.wait(if wait { PATIENCE } else { Duration::ZERO });
    Ok(count.map_err(|e| vfio_client::Error::new("poll of an eventfd", e))?)
}

fn trigger(subject: &Subject) -> Result<(), Fault> {
    let device = subject.open()?;
    for irq in own(&device)? {
        let events = listen(&irq)?;
        for vector in 0..irq.info().count {
            irq.set_none(Action::Trigger, vector, 1)?;
            for (n, event) in (0..).zip(&events) {
                let seen = count(event, n == vector)?;
                let expected = u64::from(n == vector);
                let what = format!("{expected} of vector {n} after a trigger of {vector}");
                require(seen == expected, what, seen)?;
            }
        }
        irq.disable()?;
    }
    Ok(())
}

fn disable(subject: &Subject) -> Result<(), Fault> {
    let device = subject.open()?;
    for irq in own(&device)? {
        let events = listen(&irq)?;
        irq.disable()?;
        // It may fail.
        let _ = irq.set_none(Action::Trigger, 0, 1);
        for event in &events {
            let seen = count(event, false)?;
            require(seen == 0, "no signal of a disabled interrupt", seen)?;
        }
    }
    Ok(())
}

fn deassign(subject: &Subject) -> Result<(), Fault> {
    let device = subject.open()?;
    for irq in own(&device)?.iter().filter(|irq| irq.info().count > 1) {
        let events = listen(irq)?;
        irq.set_eventfds(0, &[None])?;
        let _ = irq.set_none(Action::Trigger, 0, 1);
        irq.set_none(Action::Trigger, 1, 1)?;
        let seen = (count(&events[1], true)?, count(&events[0], false)?);
        require(
            seen == (1, 0),
            "(1, 0) of vectors 1 and 0",
            format!("{seen:?}"),
        )?;
        irq.disable()?;
    }
    Ok(())
}

fn unimplemented(subject: &Subject) -> Result<(), Fault> {
    let device = subject.open()?;
    if !device.info().is_pci() {
        return Err(Fault::Absent("interrupts of a PCI device".into()));
    }
    for index in 0..device.info().num_irqs {
        let irq = device.irq(index);
        let seen = irq.as_ref().map(|irq| irq.info());
        let what = format!("a count, perhaps 0, of interrupt index {index}");
        require(seen.is_ok(), what, format!("{seen:?}"))?;
    }
    Ok(())
}

fn sparse(subject: &Subject) -> Result<(), Fault> {
    let device = subject.open()?;
    for irq in own(&device)? {
        let events = listen(&irq)?;
        let which: Vec<bool> = (0..events.len()).map(|n| n % 3 == 0).collect();
        irq.set_bool(Action::Trigger, 0, &which)?;
        for (n, (event, wanted)) in events.iter().zip(&which).enumerate() {
            let seen = count(event, *wanted)?;
            let expected = u64::from(*wanted);
            let what = format!("{expected} of vector {n} of index {}", irq.info().index);
            require(seen == expected, what, seen)?;
        }
        irq.disable()?;
    }
    Ok(())
}

fn mask(subject: &Subject) -> Result<(), Fault> {
    let device = subject.open()?;
    let mut found = own(&device)?;
    found.retain(|irq| irq.info().maskable());
    for irq in &found {
        let events = listen(irq)?;
        for action in [Action::Mask, Action::Unmask] {
            let set = irq.set_none(action, 0, 1);
            let what = format!("success of {action:?}");
            require(set.is_ok(), what, format!("{set:?}"))?;
        }
        // A level that was asserted may have signalled again.
        count(&events[0], false)?;
        irq.set_none(Action::Trigger, 0, 1)?;
        let seen = count(&events[0], true)?;
        require(seen > 0, "a signal after the unmask", seen)?;
        irq.disable()?;
    }
    match found.is_empty() {
        true => Err(Fault::Absent("interrupt that is MASKABLE".into())),
        false => Ok(()),
    }
}
