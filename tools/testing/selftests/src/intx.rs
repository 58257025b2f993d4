// SPDX-License-Identifier: GPL-2.0

//! INTx: a level, which masks itself when it is delivered.

use std::thread;

use mdma::regs::{self, Reg};
use vfio_client::{pci, Action, EventFd};

use crate::check::{expect_signal, expect_silence, SILENCE};
use crate::irq::{Source, INTX};
use crate::lab::{Lab, SMALL};
use crate::outcome::Outcome;
use crate::{assert_errno, tests};

tests! { "intx":
    fires_once_and_masks_itself [],
    fires_again_when_unmasked_and_still_asserted [],
    is_unmasked_by_an_eventfd [],
    trigger_and_unmask_by_one_eventfd [],
    masked_by_the_user_waits [],
    falls_with_its_cause [],
    asserted_before_anyone_listens [],
    disabled_in_the_command_register_waits [],
    loopback [],
}

fn fires_once_and_masks_itself(lab: &Lab) -> Outcome {
    let mut source = Source::new(lab)?;
    let event = EventFd::new()?;
    source.irq(INTX)?.set_eventfds(0, &[Some(&event)])?;
    expect_silence(&event, "nothing has happened");
    source.complete()?;
    assert_eq!(expect_signal(&event, "INTx of a completion"), 1);
    // It is masked now: neither more of the same nor a new assertion gets through.
    source.complete()?;
    expect_silence(&event, "INTx has not been unmasked");
    source.mdma.acknowledge()?;
    source.complete()?;
    expect_silence(&event, "INTx has not been unmasked");
    Ok(())
}

fn fires_again_when_unmasked_and_still_asserted(lab: &Lab) -> Outcome {
    let mut source = Source::new(lab)?;
    let intx = source.irq(INTX)?;
    let event = EventFd::new()?;
    intx.set_eventfds(0, &[Some(&event)])?;
    source.complete()?;
    expect_signal(&event, "INTx");
    for round in 0..3 {
        match round % 2 {
            0 => intx.set_none(Action::Unmask, 0, 1)?,
            _ => intx.set_bool(Action::Unmask, 0, &[true])?,
        }
        assert_eq!(expect_signal(&event, "INTx that is still asserted"), 1);
        expect_silence(&event, "it is masked again");
    }
    intx.set_bool(Action::Unmask, 0, &[false])?;
    expect_silence(&event, "false does not unmask");

    source.mdma.acknowledge()?;
    intx.set_none(Action::Unmask, 0, 1)?;
    expect_silence(&event, "it is not asserted any more");
    source.complete()?;
    assert_eq!(expect_signal(&event, "a new assertion"), 1);
    Ok(())
}

fn is_unmasked_by_an_eventfd(lab: &Lab) -> Outcome {
    let mut source = Source::new(lab)?;
    let intx = source.irq(INTX)?;
    let (event, unmask) = (EventFd::new()?, EventFd::new()?);
    intx.set_eventfds(0, &[Some(&event)])?;
    intx.set_unmask_eventfd(0, Some(&unmask))?;
    source.complete()?;
    expect_signal(&event, "INTx");
    for _ in 0..3 {
        unmask.signal()?;
        assert_eq!(expect_signal(&event, "INTx that is still asserted"), 1);
    }
    source.mdma.acknowledge()?;
    unmask.signal()?;
    expect_silence(&event, "it is not asserted any more");
    source.complete()?;
    assert_eq!(expect_signal(&event, "a new assertion"), 1);

    // Another one in its place, then none.
    let other = EventFd::new()?;
    intx.set_unmask_eventfd(0, None)?;
    unmask.signal()?;
    expect_silence(&event, "that eventfd does not unmask any more");
    intx.set_unmask_eventfd(0, Some(&other))?;
    other.signal()?;
    assert_eq!(expect_signal(&event, "INTx by the other eventfd"), 1);
    assert_errno!(
        intx.set_unmask_eventfd(0, Some(&unmask)),
        EBUSY,
        "one is in place"
    );
    // What is still in place when the interrupt is disabled goes with it.
    intx.disable()?;
    other.signal()?;
    expect_silence(&event, "INTx is not in use");
    Ok(())
}

/// Every delivery unmasks, which delivers again: no lock may be held on the way, and it ends with the cause. The kernel
/// takes the signals of an eventfd that unmasks, so that they cannot be counted.
fn trigger_and_unmask_by_one_eventfd(lab: &Lab) -> Outcome {
    let mut source = Source::new(lab)?;
    let intx = source.irq(INTX)?;
    let (both, event) = (EventFd::new()?, EventFd::new()?);
    intx.set_eventfds(0, &[Some(&both)])?;
    intx.set_unmask_eventfd(0, Some(&both))?;
    source.complete()?;
    thread::sleep(SILENCE);
    source.complete()?;
    // Somewhere in the circle, the trigger goes elsewhere: that is where it ends.
    intx.set_eventfds(0, &[Some(&event)])?;
    both.signal()?;
    expect_signal(&event, "INTx that is still asserted");
    source.mdma.acknowledge()?;
    both.signal()?;
    thread::sleep(SILENCE);
    event.take()?;
    expect_silence(&event, "it is not asserted any more");
    Ok(intx.disable()?)
}

fn masked_by_the_user_waits(lab: &Lab) -> Outcome {
    let mut source = Source::new(lab)?;
    let intx = source.irq(INTX)?;
    let event = EventFd::new()?;
    intx.set_eventfds(0, &[Some(&event)])?;
    intx.set_bool(Action::Mask, 0, &[false])?;
    source.complete()?;
    expect_signal(&event, "INTx: false does not mask");
    source.mdma.acknowledge()?;
    intx.set_none(Action::Unmask, 0, 1)?;
    for by_bool in [false, true] {
        match by_bool {
            false => intx.set_none(Action::Mask, 0, 1)?,
            true => intx.set_bool(Action::Mask, 0, &[true])?,
        }
        source.complete()?;
        expect_silence(&event, "INTx is masked");
        intx.set_none(Action::Unmask, 0, 1)?;
        assert_eq!(expect_signal(&event, "what was masked"), 1);
        source.mdma.acknowledge()?;
        intx.set_none(Action::Unmask, 0, 1)?;
        expect_silence(&event, "nothing is asserted");
    }
    Ok(())
}

fn falls_with_its_cause(lab: &Lab) -> Outcome {
    let mut source = Source::new(lab)?;
    let intx = source.irq(INTX)?;
    let event = EventFd::new()?;
    intx.set_eventfds(0, &[Some(&event)])?;
    source.complete()?;
    source.halt()?;
    expect_signal(&event, "INTx");
    assert_eq!(source.mdma.get(Reg::IntCause)?, regs::INT_ALL.into());
    // One of two causes gone: still asserted.
    source
        .mdma
        .set(Reg::IntCause, regs::INT_COMPLETION.into())?;
    intx.set_none(Action::Unmask, 0, 1)?;
    assert_eq!(expect_signal(&event, "INTx of the other cause"), 1);
    // Masked in the device: not asserted; unmasked there: asserted again.
    source.mdma.set_interrupts(regs::INT_COMPLETION)?;
    intx.set_none(Action::Unmask, 0, 1)?;
    expect_silence(&event, "the cause left is masked in the device");
    source.mdma.set_interrupts(regs::INT_ALL)?;
    assert_eq!(
        expect_signal(&event, "INTx of a cause unmasked in the device"),
        1
    );
    source.mdma.set(Reg::IntCause, regs::INT_HALT.into())?;
    intx.set_none(Action::Unmask, 0, 1)?;
    expect_silence(&event, "both causes are cleared");
    Ok(())
}

fn asserted_before_anyone_listens(lab: &Lab) -> Outcome {
    let mut source = Source::new(lab)?;
    let intx = source.irq(INTX)?;
    source.complete()?;
    let (first, second) = (EventFd::new()?, EventFd::new()?);
    intx.set_eventfds(0, &[Some(&first)])?;
    assert_eq!(expect_signal(&first, "INTx that was asserted already"), 1);
    // Without an eventfd INTx stays in use, and asserted.
    intx.set_eventfds(0, &[None])?;
    intx.set_none(Action::Unmask, 0, 1)?;
    expect_silence(&first, "it was taken away");
    intx.set_eventfds(0, &[Some(&second)])?;
    assert_eq!(expect_signal(&second, "INTx that is asserted"), 1);
    expect_silence(&first, "it was replaced");
    Ok(())
}

fn disabled_in_the_command_register_waits(lab: &Lab) -> Outcome {
    let mut source = Source::new(lab)?;
    let config = source.scene.device.config()?;
    let event = EventFd::new()?;
    let intx = source.irq(INTX)?;
    intx.set_eventfds(0, &[Some(&event)])?;
    let command = config.command()?;
    config.set_command(command | pci::COMMAND_INTX_DISABLE)?;
    source.complete()?;
    expect_silence(&event, "INTx is disabled");
    intx.set_none(Action::Unmask, 0, 1)?;
    expect_silence(&event, "INTx is disabled");
    config.set_command(command)?;
    assert_eq!(expect_signal(&event, "INTx that is enabled again"), 1);
    Ok(())
}

fn loopback(lab: &Lab) -> Outcome {
    let guest = lab.open(SMALL)?;
    let intx = guest.device.irq(INTX)?;
    let event = EventFd::new()?;
    intx.set_eventfds(0, &[Some(&event)])?;
    intx.set_none(Action::Trigger, 0, 1)?;
    assert_eq!(expect_signal(&event, "INTx made by the user"), 1);
    intx.set_bool(Action::Trigger, 0, &[true])?;
    assert_eq!(expect_signal(&event, "INTx made by the user"), 1);
    intx.set_bool(Action::Trigger, 0, &[false])?;
    expect_silence(&event, "false is no trigger");
    Ok(())
}
