// SPDX-License-Identifier: GPL-2.0

//! No interrupt is lost. The device keeps asserted interrupts as state: in each mode, without an eventfd, while
//! stopped, and across save and load. A spurious interrupt would be legal, but where the driver guarantees an exact
//! count, the tests check it.

use mdma::regs;
use vfio_client::v2;
use vfio_client::{pci, v1, Action, EventFd, Irq};

use crate::env::{Env, Guest};
use crate::fixture::v2::MdmaV2;
use crate::fixture::MdmaFixture;
use crate::harness::check::{expect_silence, SILENCE};
use crate::harness::result::Result;
use crate::irq::msi::{all, counts, events, Source, INTX, MSI, MSIX};
use crate::tests;

tests! { "irq_state" needs [Mdma]:
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

/// Returns the pending bits that a guest sees.
fn pending_bits(guest: &Guest) -> Result<u64> {
    const PBA: u64 = 0x800;
    Ok(guest.region(regs::BAR_MSIX)?.read_u64(PBA)?)
}

/// Checks the count of an eventfd. The device signals it, if at all, before the last call returns.
#[track_caller]
fn expect_count(event: &EventFd, count: u64, what: &str) {
    assert_eq!(
        event.take().expect("read of an eventfd"),
        count,
        "signals: {what}"
    );
}

/// Earlier, the device lost a message raised between `disable` and the next `set_eventfds`. A VMM makes both calls for
/// each new vector if the index has the flag `NORESIZE`.
fn messages_raised_while_no_mode_is_in_use(env: &Env) -> Result {
    for index in [MSI, MSIX] {
        let mut source = Source::new(env)?;
        let irq = source.irq(index)?;
        let events = events(2)?;
        // Raise a message before the first enable, and between two enables.
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
        // At first, the vector has no eventfd.
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
        expect_count(&events[0], 1, &format!("index {index}, eventfd set last"));
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
        // The user changes the mode without reading the eventfd.
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

/// Earlier, the device lost a message that the former eventfd counted but the user did not read.
fn an_asserted_vector_signals_its_new_eventfd(env: &Env) -> Result {
    for index in [MSI, MSIX] {
        let mut source = Source::new(env)?;
        let irq = source.irq(index)?;
        let (old, new) = (events(2)?, events(2)?);
        irq.set_eventfds(0, &all(&old))?;
        source.complete()?;
        expect_count(&old[0], 1, &format!("index {index}: the old eventfd"));
        irq.set_eventfds(0, &all(&new))?;
        assert_eq!(counts(&new)?, [1, 0], "index {index}: replaced");
        // Setting the same eventfd again signals it only if the index was disabled in between.
        irq.set_eventfds(0, &all(&new))?;
        assert_eq!(
            counts(&new)?,
            [0, 0],
            "index {index}: the same eventfd again"
        );
        irq.disable()?;
        irq.set_eventfds(0, &all(&new))?;
        assert_eq!(counts(&new)?, [1, 0], "index {index}: disabled and enabled");
        source.mdma.acknowledge()?;
        irq.set_eventfds(0, &all(&old))?;
        assert_eq!(counts(&old)?, [0, 0], "index {index}: acknowledged");
    }
    Ok(())
}

/// Earlier, the device lost INTx that was masked on delivery to the former eventfd.
fn an_asserted_line_signals_its_new_eventfd(env: &Env) -> Result {
    let mut source = Source::new(env)?;
    let intx = source.irq(INTX)?;
    let (old, new) = (EventFd::new()?, EventFd::new()?);
    intx.set_eventfds(0, &[Some(&old)])?;
    source.complete()?;
    crate::harness::check::expect_signal(&old, "INTx");
    intx.set_eventfds(0, &[Some(&new)])?;
    expect_count(&new, 1, "asserted INTx has a new eventfd");
    intx.set_eventfds(0, &[None])?;
    intx.set_eventfds(0, &[Some(&old)])?;
    expect_count(&old, 1, "INTx had no eventfd for a while");
    expect_silence(&new, "the eventfd was replaced");
    source.mdma.acknowledge()?;
    intx.set_eventfds(0, &[Some(&new)])?;
    expect_silence(&new, "INTx is not asserted");
    Ok(())
}

/// Several calls deliver INTx again if its delivery masked it. None delivers INTx that the user masked.
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
    assert_eq!(counts(&[event, other])?, [0, 0], "the user has masked INTx");
    let event = EventFd::new()?;
    intx.set_eventfds(0, &[Some(&event)])?;
    intx.set_none(Action::Unmask, 0, 1)?;
    expect_count(&event, 1, "the user has unmasked INTx");
    // Without the user's mask, the same calls deliver INTx again.
    config.set_command(command | pci::COMMAND_INTX_DISABLE)?;
    config.set_command(command)?;
    expect_count(&event, 1, "INTX_DISABLE was cleared");
    source.fixture.go(&[v1::State::STOP, v1::State::RUNNING])?;
    expect_count(&event, 1, "the device was stopped and runs again");
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

/// When the destination's user sets the eventfds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    BeforeTheLoad,
    WhileStopped,
    WhileItRuns,
}

/// Saves a device and leaves it stopped.
fn save(protocol: Protocol, fixture: MdmaFixture) -> Result<Vec<u8>> {
    match protocol {
        Protocol::V1 => fixture.save(),
        Protocol::V2 => MdmaV2::of(fixture)?.save_v2(),
    }
}

/// Loads a new device through the stopped state, and sets the eventfds of `index` at the time `when`. Checks that the
/// device signals nothing before it runs.
fn load(
    env: &Env,
    protocol: Protocol,
    bytes: &[u8],
    index: u32,
    when: When,
    events: &[EventFd],
) -> Result<MdmaV2> {
    let v2 = MdmaV2::new(env)?;
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

/// Earlier, a message was lost if the source sent it after the VMM had stopped the virtual CPUs.
fn p26_a_loaded_cause_interrupts(env: &Env) -> Result {
    for protocol in PROTOCOLS {
        for index in [MSI, MSIX, INTX] {
            let mut source = Source::new(env)?;
            let count = source.irq(index)?.info().count as usize;
            // The source has signalled its eventfds, but the guest has not seen the interrupts.
            let told = events(count)?;
            source.irq(index)?.set_eventfds(0, &all(&told))?;
            source.complete()?;
            source.halt()?;
            let bytes = save(protocol, source.into_fixture())?;
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
                // After an acknowledgement, the device signals no more interrupts.
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

/// Earlier, a message was lost if the source raised it for a vector without eventfd, or while no mode was enabled.
fn p26_a_pending_bit_is_loaded(env: &Env) -> Result {
    for protocol in PROTOCOLS {
        for enabled in [false, true] {
            let mut source = Source::new(env)?;
            let event = EventFd::new()?;
            if enabled {
                source.irq(MSIX)?.set_eventfds(0, &[None, Some(&event)])?;
            }
            source.complete()?;
            let bytes = save(protocol, source.into_fixture())?;
            let v2 = load(env, protocol, &bytes, MSIX, When::WhileItRuns, &[])?;
            assert_eq!(pending_bits(&v2)?, 1, "{protocol:?}, enabled {enabled}");
            v2.device.irq(MSIX)?.set_eventfds(0, &[Some(&event)])?;
            expect_count(&event, 1, &format!("{protocol:?}, enabled {enabled}"));
        }
    }
    Ok(())
}

/// Saves a device with INTx deasserted.
fn quiet(env: &Env, protocol: Protocol) -> Result<Vec<u8>> {
    save(protocol, Source::new(env)?.into_fixture())
}

/// Earlier, the one INTx that a loaded device delivers was lost if no eventfd was set when the device began to run.
fn intx_of_a_loaded_device_waits_for_an_eventfd(env: &Env) -> Result {
    for protocol in PROTOCOLS {
        let bytes = quiet(env, protocol)?;
        let event = EventFd::new()?;
        let one = [EventFd::new()?];
        let v2 = load(env, protocol, &bytes, INTX, When::WhileItRuns, &one)?;
        expect_count(&one[0], 1, &format!("{protocol:?}: the first eventfd"));
        let intx = v2.device.irq(INTX)?;
        intx.set_eventfds(0, &[Some(&event)])?;
        expect_count(&event, 0, "INTx was already delivered");

        // With MSI-X enabled, no interrupt controller has INTx asserted.
        let v2 = load(env, protocol, &bytes, MSIX, When::BeforeTheLoad, &one)?;
        expect_count(&one[0], 0, "no cause is pending");
        v2.device.irq(MSIX)?.disable()?;
        v2.device.irq(INTX)?.set_eventfds(0, &[Some(&event)])?;
        expect_count(&event, 0, "MSI-X was enabled after the load");
    }
    Ok(())
}

fn intx_of_a_loaded_device_waits_for_the_disable_bit(env: &Env) -> Result {
    for protocol in PROTOCOLS {
        let bytes = quiet(env, protocol)?;
        let v2 = MdmaV2::new(env)?;
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
