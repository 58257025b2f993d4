// SPDX-License-Identifier: GPL-2.0

//! No interrupt is lost: what the device asserts is state, in each mode, while nobody listens, while the device is
//! stopped, and across save and load. One interrupt too many would be legal; where a count is exact the tests say so.

use mdma::regs;
use vfio_client::v2;
use vfio_client::{pci, v1, Action, EventFd, Irq};

use crate::env::{Env, Guest};
use crate::fixture::v2::V2;
use crate::fixture::Fixture;
use crate::harness::check::{expect_silence, SILENCE};
use crate::harness::result::Result;
use crate::irq::msi::{all, counts, events, Source, INTX, MSI, MSIX};
use crate::tests;

tests! { "irq_state":
    messages_raised_while_no_mode_is_in_use [],
    messages_raised_while_intx_is_in_use [],
    acknowledged_messages_are_not_sent [],
    an_asserted_vector_signals_its_new_eventfd [],
    an_asserted_line_signals_its_new_eventfd [],
    the_mask_of_the_user_outlasts_it_all [],
    p52_nothing_is_delivered_while_stopped ["P52"],
    p26_a_loaded_cause_interrupts ["P26"],
    p26_a_pending_bit_is_loaded ["P26"],
    intx_of_a_loaded_device_waits_for_an_eventfd [],
    intx_of_a_loaded_device_waits_for_the_disable_bit [],
}

/// The pending bits that a guest sees.
fn pending_bits(guest: &Guest) -> Result<u64> {
    const PBA: u64 = 0x800;
    Ok(guest.region(regs::BAR_MSIX)?.read_u64(PBA)?)
}

/// Takes the count of an eventfd that was signalled, if at all, before the last call returned.
#[track_caller]
fn expect_count(event: &EventFd, count: u64, what: &str) {
    assert_eq!(
        event.take().expect("read of an eventfd"),
        count,
        "signals: {what}"
    );
}

/// Lost before: a message raised between `disable` and the next `set_eventfds`. A VMM that is told `NORESIZE` does both
/// for each new vector.
fn messages_raised_while_no_mode_is_in_use(env: &Env) -> Result {
    for index in [MSI, MSIX] {
        let mut source = Source::new(env)?;
        let irq = source.irq(index)?;
        let events = events(2)?;
        // Before any mode was in use, and between two uses.
        for round in 0..2 {
            source.complete()?;
            assert_eq!(
                pending_bits(&source.fixture)?,
                1,
                "index {index}: pending bits"
            );
            irq.set_eventfds(0, &all(&events))?;
            expect_count(&events[0], 1, &format!("index {index}, round {round}"));
            assert_eq!(
                pending_bits(&source.fixture)?,
                0,
                "index {index}: pending bits"
            );
            source.mdma.acknowledge()?;
            irq.disable()?;
        }
        // With no eventfd for the vector at first.
        irq.set_eventfds(0, &[None, Some(&events[1])])?;
        irq.disable()?;
        source.complete()?;
        irq.set_eventfds(0, &[None, Some(&events[1])])?;
        assert_eq!(
            counts(&events)?,
            [0, 0],
            "index {index}: vector 0 has no eventfd"
        );
        irq.set_eventfds(0, &[Some(&events[0])])?;
        expect_count(
            &events[0],
            1,
            &format!("index {index}, its eventfd came last"),
        );
    }
    Ok(())
}

fn messages_raised_while_intx_is_in_use(env: &Env) -> Result {
    for index in [MSI, MSIX] {
        let mut source = Source::new(env)?;
        let (line, message) = (EventFd::new()?, EventFd::new()?);
        let intx = source.irq(INTX)?;
        intx.set_eventfds(0, &[Some(&line)])?;
        source.complete()?;
        // The user changes the mode without a look at it.
        intx.disable()?;
        source.irq(index)?.set_eventfds(0, &[Some(&message)])?;
        expect_count(&message, 1, &format!("index {index} after INTx"));
        source.irq(index)?.disable()?;
        line.take()?;
        intx.set_eventfds(0, &[Some(&line)])?;
        expect_count(&line, 1, &format!("INTx after index {index}"));
    }
    Ok(())
}

fn acknowledged_messages_are_not_sent(env: &Env) -> Result {
    for index in [MSI, MSIX] {
        let mut source = Source::new(env)?;
        let event = EventFd::new()?;
        source.complete()?;
        source.mdma.acknowledge()?;
        assert_eq!(
            pending_bits(&source.fixture)?,
            0,
            "index {index}: acknowledged"
        );
        source.complete()?;
        source.mdma.set_interrupts(0)?;
        assert_eq!(
            pending_bits(&source.fixture)?,
            0,
            "index {index}: masked in the device"
        );
        source.irq(index)?.set_eventfds(0, &[Some(&event)])?;
        expect_count(&event, 0, &format!("index {index}: nothing is asserted"));
        source.mdma.set_interrupts(regs::INT_ALL)?;
        expect_count(&event, 1, &format!("index {index}: unmasked in the device"));
        source.irq(index)?.disable()?;
        source.fixture.device.reset()?;
        source.irq(index)?.set_eventfds(0, &[Some(&event)])?;
        expect_count(&event, 0, &format!("index {index}: the device was reset"));
    }
    Ok(())
}

/// Lost before: a message that the former eventfd counted and that nobody read there.
fn an_asserted_vector_signals_its_new_eventfd(env: &Env) -> Result {
    for index in [MSI, MSIX] {
        let mut source = Source::new(env)?;
        let irq = source.irq(index)?;
        let (old, new) = (events(2)?, events(2)?);
        irq.set_eventfds(0, &all(&old))?;
        source.complete()?;
        expect_count(&old[0], 1, &format!("index {index}: the former eventfd"));
        irq.set_eventfds(0, &all(&new))?;
        assert_eq!(counts(&new)?, [1, 0], "index {index}: replaced");
        // The same one again is not a new one, unless the index was out of use.
        irq.set_eventfds(0, &all(&new))?;
        assert_eq!(counts(&new)?, [0, 0], "index {index}: in place before");
        irq.disable()?;
        irq.set_eventfds(0, &all(&new))?;
        assert_eq!(counts(&new)?, [1, 0], "index {index}: disabled and enabled");
        source.mdma.acknowledge()?;
        irq.set_eventfds(0, &all(&old))?;
        assert_eq!(counts(&old)?, [0, 0], "index {index}: acknowledged");
    }
    Ok(())
}

/// Lost before: INTx that masked itself when the former eventfd was signalled.
fn an_asserted_line_signals_its_new_eventfd(env: &Env) -> Result {
    let mut source = Source::new(env)?;
    let intx = source.irq(INTX)?;
    let (old, new) = (EventFd::new()?, EventFd::new()?);
    intx.set_eventfds(0, &[Some(&old)])?;
    source.complete()?;
    crate::harness::check::expect_signal(&old, "INTx");
    intx.set_eventfds(0, &[Some(&new)])?;
    expect_count(&new, 1, "INTx that is asserted has a new eventfd");
    intx.set_eventfds(0, &[None])?;
    intx.set_eventfds(0, &[Some(&old)])?;
    expect_count(&old, 1, "INTx had no eventfd for a while");
    expect_silence(&new, "it was replaced");
    source.mdma.acknowledge()?;
    intx.set_eventfds(0, &[Some(&new)])?;
    expect_silence(&new, "INTx is not asserted");
    Ok(())
}

/// INTx that masked itself is delivered again by much; what the user masked is not.
fn the_mask_of_the_user_outlasts_it_all(env: &Env) -> Result {
    let mut source = Source::new(env)?;
    let config = source.fixture.device.config()?;
    let intx = source.irq(INTX)?;
    let (event, other) = (EventFd::new()?, EventFd::new()?);
    intx.set_eventfds(0, &[Some(&event)])?;
    intx.set_none(Action::Mask, 0, 1)?;
    source.complete()?;
    let command = config.command()?;
    config.set_command(command | pci::COMMAND_INTX_DISABLE)?;
    config.set_command(command)?;
    intx.set_eventfds(0, &[Some(&other)])?;
    source.fixture.go(&[v1::State::STOP, v1::State::RUNNING])?;
    assert_eq!(
        counts(&[event, other])?,
        [0, 0],
        "INTx is masked by the user"
    );
    let event = EventFd::new()?;
    intx.set_eventfds(0, &[Some(&event)])?;
    intx.set_none(Action::Unmask, 0, 1)?;
    expect_count(&event, 1, "INTx that the user has unmasked");
    // Delivered again, where it had masked itself only.
    config.set_command(command | pci::COMMAND_INTX_DISABLE)?;
    config.set_command(command)?;
    expect_count(&event, 1, "INTX_DISABLE was cleared");
    source.fixture.go(&[v1::State::STOP, v1::State::RUNNING])?;
    expect_count(&event, 1, "the device was stopped and runs");
    Ok(())
}

fn p52_nothing_is_delivered_while_stopped(env: &Env) -> Result {
    for index in [INTX, MSI, MSIX] {
        let mut source = Source::new(env)?;
        let irq = source.irq(index)?;
        let event = EventFd::new()?;
        source.mdma.set_interrupts(0)?;
        source.complete()?;
        source.fixture.go(&[v1::State::STOP])?;
        irq.set_eventfds(0, &[Some(&event)])?;
        source.mdma.set_interrupts(regs::INT_ALL)?;
        if index == INTX {
            irq.set_none(Action::Unmask, 0, 1)?;
        }
        expect_silence(&event, "the device is stopped");
        source.fixture.go(&[v1::State::RUNNING])?;
        expect_count(&event, 1, &format!("index {index}: the device runs"));
    }
    Ok(())
}

/// Which protocol saves and loads.
#[derive(Clone, Copy, Debug)]
enum Protocol {
    V1,
    V2,
}

const PROTOCOLS: [Protocol; 2] = [Protocol::V1, Protocol::V2];

/// When the destination's user puts eventfds in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    BeforeTheLoad,
    WhileStopped,
    WhileItRuns,
}

/// Saves a device, which is stopped then.
fn save(protocol: Protocol, fixture: Fixture) -> Result<Vec<u8>> {
    match protocol {
        Protocol::V1 => fixture.save(),
        Protocol::V2 => V2::of(fixture)?.save_v2(),
    }
}

/// Loads a new device, stops between the load and the run, and sets up `index` at a time. Nothing may be signalled
/// before the device runs.
fn load(
    env: &Env,
    protocol: Protocol,
    bytes: &[u8],
    index: u32,
    when: When,
    events: &[EventFd],
) -> Result<V2> {
    let v2 = V2::new(env)?;
    let irq: Irq = v2.device.irq(index)?;
    let set_up = || match events {
        [] => Ok(()),
        _ => irq.set_eventfds(0, &all(events)),
    };
    if when == When::BeforeTheLoad {
        set_up()?;
    }
    match protocol {
        Protocol::V1 => {
            v2.go(&[v1::State::STOP, v1::State::RESUMING])?;
            v2.feed(bytes, v2.section())?;
            v2.go(&[v1::State::STOP])?;
        }
        Protocol::V2 => {
            v2.begin(v2::State::RESUMING)?.write_all(bytes)?;
            v2.to(v2::State::STOP)?;
        }
    }
    if when == When::WhileStopped {
        set_up()?;
    }
    for event in events {
        expect_count(
            event,
            0,
            &format!("{protocol:?}, index {index}, {when:?}: the device is stopped"),
        );
    }
    match protocol {
        Protocol::V1 => v2.go(&[v1::State::RUNNING])?,
        Protocol::V2 => v2.to(v2::State::RUNNING)?,
    }
    if when == When::WhileItRuns {
        set_up()?;
    }
    Ok(v2)
}

/// Lost before: a message that was sent to the source after its processors had stopped.
fn p26_a_loaded_cause_interrupts(env: &Env) -> Result {
    for protocol in PROTOCOLS {
        for index in [MSI, MSIX, INTX] {
            let mut source = Source::new(env)?;
            let count = source.irq(index)?.info().count as usize;
            // The source's user has been told, but its guest has not.
            let told = events(count)?;
            source.irq(index)?.set_eventfds(0, &all(&told))?;
            source.complete()?;
            source.halt()?;
            let bytes = save(protocol, source.into_scene())?;
            for when in [When::BeforeTheLoad, When::WhileStopped, When::WhileItRuns] {
                let events = events(count)?;
                let v2 = load(env, protocol, &bytes, index, when, &events)?;
                let expected: &[u64] = match index {
                    INTX => &[1],
                    _ => &[1, 1, 0, 0],
                };
                let taken = events
                    .iter()
                    .map(EventFd::take)
                    .collect::<std::io::Result<Vec<_>>>()?;
                assert_eq!(taken, expected, "{protocol:?}, index {index}, {when:?}");
                // It is the device's own interrupt: acknowledged, there is none.
                v2.mdma.acknowledge()?;
                if index == INTX {
                    v2.device.irq(index)?.set_none(Action::Unmask, 0, 1)?;
                }
                assert_eq!(
                    counts(&events)?,
                    vec![0; count],
                    "{protocol:?}, index {index}, {when:?}"
                );
            }
        }
    }
    Ok(())
}

/// Lost before: a message that was raised at the source for a vector without eventfd, or with no mode in use.
fn p26_a_pending_bit_is_loaded(env: &Env) -> Result {
    for protocol in PROTOCOLS {
        for enabled in [false, true] {
            let mut source = Source::new(env)?;
            let event = EventFd::new()?;
            if enabled {
                source.irq(MSIX)?.set_eventfds(0, &[None, Some(&event)])?;
            }
            source.complete()?;
            let bytes = save(protocol, source.into_scene())?;
            let v2 = load(env, protocol, &bytes, MSIX, When::WhileItRuns, &[])?;
            assert_eq!(pending_bits(&v2)?, 1, "{protocol:?}, enabled {enabled}");
            v2.device.irq(MSIX)?.set_eventfds(0, &[Some(&event)])?;
            expect_count(&event, 1, &format!("{protocol:?}, enabled {enabled}"));
        }
    }
    Ok(())
}

/// A device whose INTx is not asserted, saved.
fn quiet(env: &Env, protocol: Protocol) -> Result<Vec<u8>> {
    save(protocol, Source::new(env)?.into_scene())
}

/// Lost before: the one INTx that a loaded device is to deliver, if nothing could take it when the device began to run.
fn intx_of_a_loaded_device_waits_for_an_eventfd(env: &Env) -> Result {
    for protocol in PROTOCOLS {
        let bytes = quiet(env, protocol)?;
        let event = EventFd::new()?;
        let one = [EventFd::new()?];
        let v2 = load(env, protocol, &bytes, INTX, When::WhileItRuns, &one)?;
        expect_count(&one[0], 1, &format!("{protocol:?}: the first eventfd"));
        let intx = v2.device.irq(INTX)?;
        intx.set_eventfds(0, &[Some(&event)])?;
        expect_count(&event, 0, "it was delivered once");

        // A user of messages has no line to lower.
        let v2 = load(env, protocol, &bytes, MSIX, When::BeforeTheLoad, &one)?;
        expect_count(&one[0], 0, "no cause is pending");
        v2.device.irq(MSIX)?.disable()?;
        v2.device.irq(INTX)?.set_eventfds(0, &[Some(&event)])?;
        expect_count(&event, 0, "the device was in use since the load");
    }
    Ok(())
}

fn intx_of_a_loaded_device_waits_for_the_disable_bit(env: &Env) -> Result {
    for protocol in PROTOCOLS {
        let bytes = quiet(env, protocol)?;
        let v2 = V2::new(env)?;
        let config = v2.device.config()?;
        let command = config.command()?;
        let event = EventFd::new()?;
        v2.device.irq(INTX)?.set_eventfds(0, &[Some(&event)])?;
        config.set_command(command | pci::COMMAND_INTX_DISABLE)?;
        match protocol {
            Protocol::V1 => v2.load(&bytes)?,
            Protocol::V2 => v2.load_v2(&bytes)?,
        }
        assert_eq!(event.wait(SILENCE)?, 0, "{protocol:?}: INTx is disabled");
        config.set_command(command)?;
        expect_count(
            &event,
            1,
            &format!("{protocol:?}: INTX_DISABLE was cleared"),
        );
    }
    Ok(())
}
