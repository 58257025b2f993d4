// SPDX-License-Identifier: GPL-2.0

//! INTx: a level-triggered interrupt that is masked on delivery.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mdma::regs::{self, Reg};
use vfio_client::{pci, Action, EventFd};

use crate::env::{Env, SMALL};
use crate::harness::check::{expect_signal, expect_silence, PATIENCE, SILENCE};
use crate::harness::result::Result;
use crate::irq::msi::{Source, INTX};
use crate::{assert_errno, note, tests};

tests! { "intx" needs [Mdma]:
    fires_once_and_masks_itself [],
    fires_again_when_unmasked_and_still_asserted [],
    is_unmasked_by_an_eventfd [],
    trigger_and_unmask_by_one_eventfd [],
    two_devices_unmask_each_other [],
    disabled_and_enabled_while_it_is_unmasked [],
    masked_by_the_user_waits [],
    falls_with_its_cause [],
    asserted_before_anyone_listens [],
    disabled_in_the_command_register_waits [],
    loopback [],
}

fn fires_once_and_masks_itself(env: &Env) -> Result {
    let mut source = Source::new(env)?;
    let event = EventFd::new()?;
    source.irq(INTX)?.set_eventfds(0, &[Some(&event)])?;
    expect_silence(&event, "no cause is pending");
    source.complete()?;
    assert_eq!(expect_signal(&event, "INTx of a completion"), 1);
    // INTx is masked now: the device delivers neither the same level nor a new assertion.
    source.complete()?;
    expect_silence(&event, "INTx has not been unmasked");
    source.mdma.acknowledge()?;
    source.complete()?;
    expect_silence(&event, "INTx has not been unmasked");
    Ok(())
}

fn fires_again_when_unmasked_and_still_asserted(env: &Env) -> Result {
    let mut source = Source::new(env)?;
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
        expect_silence(&event, "INTx is masked again");
    }
    intx.set_bool(Action::Unmask, 0, &[false])?;
    expect_silence(&event, "false does not unmask");

    source.mdma.acknowledge()?;
    intx.set_none(Action::Unmask, 0, 1)?;
    expect_silence(&event, "INTx is not asserted any more");
    source.complete()?;
    assert_eq!(expect_signal(&event, "a new assertion"), 1);
    Ok(())
}

fn is_unmasked_by_an_eventfd(env: &Env) -> Result {
    let mut source = Source::new(env)?;
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
    expect_silence(&event, "INTx is not asserted any more");
    source.complete()?;
    assert_eq!(expect_signal(&event, "a new assertion"), 1);

    // Remove the eventfd, then set another one.
    let other = EventFd::new()?;
    intx.set_unmask_eventfd(0, None)?;
    unmask.signal()?;
    expect_silence(&event, "the removed eventfd does not unmask");
    intx.set_unmask_eventfd(0, Some(&other))?;
    other.signal()?;
    assert_eq!(expect_signal(&event, "INTx by the other eventfd"), 1);
    assert_errno!(
        intx.set_unmask_eventfd(0, Some(&unmask)),
        EBUSY,
        "an unmask eventfd is already set"
    );
    // Disabling INTx removes its unmask eventfd.
    intx.disable()?;
    other.signal()?;
    expect_silence(&event, "INTx is not in use");
    Ok(())
}

/// A device with INTx asserted that delivers it once for each signal of `delivered`. It counts these signals: the test
/// cannot read them from `delivered`, because the kernel consumes the signals of an unmask eventfd.
struct Observer {
    source: Source,
    seen: EventFd,
}

impl Observer {
    fn new(env: &Env, delivered: &EventFd) -> Result<Self> {
        let mut source = Source::new(env)?;
        let seen = EventFd::new()?;
        let intx = source.irq(INTX)?;
        intx.set_eventfds(0, &[Some(&seen)])?;
        source.complete()?;
        expect_signal(&seen, "INTx of the observer");
        intx.set_unmask_eventfd(0, Some(delivered))?;
        Ok(Observer { source, seen })
    }
}

/// Each delivery unmasks INTx, although no user acknowledges it. Earlier, each delivery caused the next, and a kernel
/// worker looped at full speed until the close.
fn trigger_and_unmask_by_one_eventfd(env: &Env) -> Result {
    let both = EventFd::new()?;
    let observer = Observer::new(env, &both)?;
    let mut source = Source::new(env)?;
    let intx = source.irq(INTX)?;
    intx.set_eventfds(0, &[Some(&both)])?;
    intx.set_unmask_eventfd(0, Some(&both))?;
    for round in 0..4 {
        source.complete()?;
        let count = expect_signal(&observer.seen, "INTx of an acknowledged device");
        thread::sleep(SILENCE);
        let more = observer.seen.take()?;
        assert_eq!(
            count + more,
            1,
            "deliveries for one acknowledge, round {round}"
        );
        // A completion while INTx is already asserted.
        source.complete()?;
        expect_silence(&observer.seen, "nothing was acknowledged");
        source.mdma.acknowledge()?;
        expect_silence(&observer.seen, "nothing is asserted");
    }
    // After the acknowledgement of one of two causes, the device delivers the other.
    source.complete()?;
    expect_signal(&observer.seen, "INTx");
    source.halt()?;
    expect_silence(&observer.seen, "nothing was acknowledged");
    source
        .mdma
        .set(Reg::IntCause, regs::INT_COMPLETION.into())?;
    assert_eq!(expect_signal(&observer.seen, "INTx of the other cause"), 1);
    // Set another trigger eventfd.
    let event = EventFd::new()?;
    intx.set_eventfds(0, &[Some(&event)])?;
    assert_eq!(expect_signal(&event, "INTx that is still asserted"), 1);
    both.signal()?;
    assert_eq!(expect_signal(&event, "INTx after an unmask"), 1);
    source.mdma.acknowledge()?;
    both.signal()?;
    expect_silence(&event, "INTx is not asserted any more");
    drop(observer.source);
    Ok(intx.disable()?)
}

/// The same loop through two devices with INTx asserted: it continues, but slowly.
fn two_devices_unmask_each_other(env: &Env) -> Result {
    let (x, y) = (EventFd::new()?, EventFd::new()?);
    let observer = Observer::new(env, &x)?;
    let mut sources = [Source::new(env)?, Source::new(env)?];
    for (source, (trigger, unmask)) in sources.iter_mut().zip([(&x, &y), (&y, &x)]) {
        let intx = source.irq(INTX)?;
        intx.set_eventfds(0, &[Some(trigger)])?;
        intx.set_unmask_eventfd(0, Some(unmask))?;
        source.complete()?;
    }
    expect_signal(&observer.seen, "a delivery of the first device");
    // A delivery without an acknowledgement takes 10 ms, and the loop has two. Deliveries that the timer starts may be
    // closer to each other, so the limit is twice that.
    let start = Instant::now();
    let mut count = 0;
    while count < 40 {
        count += expect_signal(&observer.seen, "another delivery of the first device");
    }
    let took = start.elapsed().as_millis() as u64;
    note!("{count} deliveries in {took} ms");
    let limit = 4 * took / 10;
    assert!(
        count <= limit,
        "{count} deliveries in {took} ms, the limit is {limit}"
    );
    for source in &sources {
        source.mdma.acknowledge()?;
    }
    thread::sleep(SILENCE);
    observer.seen.take()?;
    expect_silence(&observer.seen, "INTx of both devices is deasserted");
    Ok(())
}

/// Earlier, the device lost INTx if an unmask delivered it and the command register disabled it before the worker had
/// signalled the eventfd. INTx stayed masked, and the user got no signal.
fn disabled_and_enabled_while_it_is_unmasked(env: &Env) -> Result {
    let rounds = (env.limits.iterations * 10).max(1000);
    let mut source = Source::new(env)?;
    let config = source.fixture.device.config()?;
    let command = config.command()?;
    let (event, unmask) = (EventFd::new()?, EventFd::new()?);
    let intx = source.irq(INTX)?;
    intx.set_eventfds(0, &[Some(&event)])?;
    intx.set_unmask_eventfd(0, Some(&unmask))?;
    source.complete()?;
    let done = AtomicBool::new(false);
    let heard = thread::scope(|scope| -> Result<u64> {
        // A VMM unmasks INTx once for each signal.
        let user = scope.spawn(|| {
            let mut heard = 0;
            while heard < rounds && event.wait(PATIENCE).is_ok_and(|count| count > 0) {
                heard += 1;
                if unmask.signal().is_err() {
                    break;
                }
            }
            done.store(true, Ordering::Relaxed);
            heard
        });
        let mut rng = fastrand::Rng::with_seed(env.limits.seed);
        while !done.load(Ordering::Relaxed) {
            config.set_command(command | pci::COMMAND_INTX_DISABLE)?;
            if rng.bool() {
                thread::sleep(Duration::from_micros(rng.u64(0..50)));
            }
            config.set_command(command)?;
        }
        Ok(user.join().expect("no panic"))
    })?;
    assert_eq!(
        heard, rounds,
        "number of signals: INTx was asserted but not delivered"
    );
    // INTx is asserted, enabled and unmasked after the last signal.
    expect_signal(&event, "INTx after all rounds");
    Ok(())
}

fn masked_by_the_user_waits(env: &Env) -> Result {
    let mut source = Source::new(env)?;
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
        assert_eq!(expect_signal(&event, "INTx after an unmask"), 1);
        source.mdma.acknowledge()?;
        intx.set_none(Action::Unmask, 0, 1)?;
        expect_silence(&event, "nothing is asserted");
    }
    Ok(())
}

fn falls_with_its_cause(env: &Env) -> Result {
    let mut source = Source::new(env)?;
    let intx = source.irq(INTX)?;
    let event = EventFd::new()?;
    intx.set_eventfds(0, &[Some(&event)])?;
    source.complete()?;
    source.halt()?;
    expect_signal(&event, "INTx");
    assert_eq!(source.mdma.get(Reg::IntCause)?, regs::INT_ALL.into());
    // One of two causes is cleared: INTx is still asserted.
    source
        .mdma
        .set(Reg::IntCause, regs::INT_COMPLETION.into())?;
    intx.set_none(Action::Unmask, 0, 1)?;
    assert_eq!(expect_signal(&event, "INTx of the other cause"), 1);
    // The device's interrupt mask deasserts INTx, and unmasking asserts it again.
    source.mdma.set_interrupts(regs::INT_COMPLETION)?;
    intx.set_none(Action::Unmask, 0, 1)?;
    expect_silence(&event, "the other cause is masked in the device");
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

fn asserted_before_anyone_listens(env: &Env) -> Result {
    let mut source = Source::new(env)?;
    let intx = source.irq(INTX)?;
    source.complete()?;
    let (first, second) = (EventFd::new()?, EventFd::new()?);
    intx.set_eventfds(0, &[Some(&first)])?;
    assert_eq!(
        expect_signal(&first, "INTx asserted before the eventfd was set"),
        1
    );
    // Without an eventfd, INTx stays enabled and asserted.
    intx.set_eventfds(0, &[None])?;
    intx.set_none(Action::Unmask, 0, 1)?;
    expect_silence(&first, "the eventfd was removed");
    intx.set_eventfds(0, &[Some(&second)])?;
    assert_eq!(expect_signal(&second, "INTx that is asserted"), 1);
    expect_silence(&first, "the eventfd was replaced");
    Ok(())
}

fn disabled_in_the_command_register_waits(env: &Env) -> Result {
    let mut source = Source::new(env)?;
    let config = source.fixture.device.config()?;
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

fn loopback(env: &Env) -> Result {
    let guest = env.open(SMALL)?;
    let intx = guest.device.irq(INTX)?;
    let event = EventFd::new()?;
    intx.set_eventfds(0, &[Some(&event)])?;
    intx.set_none(Action::Trigger, 0, 1)?;
    assert_eq!(expect_signal(&event, "INTx triggered by the user"), 1);
    intx.set_bool(Action::Trigger, 0, &[true])?;
    assert_eq!(expect_signal(&event, "INTx triggered by the user"), 1);
    intx.set_bool(Action::Trigger, 0, &[false])?;
    expect_silence(&event, "false does not trigger");
    Ok(())
}
