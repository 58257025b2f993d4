// SPDX-License-Identifier: GPL-2.0

//! `device_state`: every change from every state, according to the protocol.

use mdma::job;
use mdma::regs::Reg;
use vfio_client::pci;
use vfio_client::uapi::{
    VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_INTX_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX,
    VFIO_PCI_MSI_IRQ_INDEX,
};
use vfio_client::v1::{offset, State};
use vfio_client::{Action, EventFd};

use crate::env::{Env, Guest};
use crate::fixture::bytes::all_are;
use crate::fixture::{guest, run_jobs, Fixture, MdmaFixture, PAGE};
use crate::harness::check::{expect_signal, PATIENCE};
use crate::harness::result::Result;
use crate::v1::region::{reach, states};
use crate::{assert_errno, assert_refused, tests};

tests! { "v1_states":
    p07_invalid_values_are_refused ["P7"],
    p08_running_is_the_default ["P8"],
    p08_a_device_whose_region_is_not_touched ["P8"] needs [Mdma],
    p10_a_failed_change_leaves_the_state ["P10"],
    p10_refusals_are_logged ["P10"],
    p11_error_is_left_by_reset_only ["P11"],
    p11_reset_gives_running_from_every_state ["P11"],
    p12_reserved_bits_are_refused_and_read_0 ["P12"],
    p13_required_changes ["P13"],
    p14_every_pair_of_states ["P14"],
    p14_running_and_stopping_change_nothing ["P14"],
    p14_a_queue_outlasts_running_and_stopping ["P14"] needs [Mdma],
    p15_every_state_is_left_at_any_pending ["P15"],
    p15_pre_copy_of_a_device_with_nothing_to_send ["P15"],
    p52_configuration_and_interrupts_in_every_state ["P52"],
    p52_everything_else_works_in_every_state ["P52"] needs [Mdma],
}

/// The result of writing 0 to 7 in each state: `Some` new state, or `None` if the write is refused.
///
/// Only 4→0 and 4→1 of an incomplete load lead to the error state. Other tests cover that.
const ARCS: [(u32, [Option<u32>; 8]); 6] = {
    const fn to(state: u32) -> Option<u32> {
        Some(state)
    }
    const NO: Option<u32> = None;
    [
        //     000    001    010    011    100   101 110 111
        (0, [to(0), to(1), to(2), NO, to(4), NO, NO, NO]),
        (1, [to(0), to(1), to(2), to(3), to(4), NO, NO, NO]),
        (2, [to(0), to(1), to(2), NO, NO, NO, NO, NO]),
        (3, [to(0), to(1), to(2), to(3), NO, NO, NO, NO]),
        (4, [to(0), to(1), NO, NO, to(4), NO, NO, NO]),
        (6, [NO, NO, NO, NO, NO, NO, NO, NO]),
    ]
};

fn p07_invalid_values_are_refused(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    for state in states() {
        reach(&fixture, state)?;
        // 000, 001, 010, 011, 100 and 110 are states. These values are not.
        for invalid in [5, 7] {
            let result = fixture.migration.write_state(State(invalid));
            assert_errno!(result, EINVAL, "{state:?} to {invalid:#b}");
            assert_eq!(fixture.state()?, state);
        }
        fixture.device.reset()?;
    }
    Ok(())
}

fn p08_running_is_the_default(env: &Env) -> Result {
    let mut fixture = Fixture::new(env)?;
    assert_eq!(fixture.state()?, State::RUNNING);
    // The device runs after each open, whatever state the last user left it in.
    for state in states() {
        reach(&fixture, state)?;
        fixture = Fixture::of(Guest::open(fixture.close())?)?;
        assert_eq!(fixture.state()?, State::RUNNING, "opened after {state:?}");
        assert_eq!(fixture.migration.pending_bytes()?, 0);
        fixture.usable()?;
    }
    Ok(())
}

fn p08_a_device_whose_region_is_not_touched(env: &Env) -> Result {
    let instance = env.instance(crate::env::SMALL)?;
    let guest = Guest::open(instance)?;
    // This user never accesses the migration region.
    let mdma = mdma::Mdma::open(&guest.device)?;
    let memory = guest.buffer(
        0x1000,
        mdma::Queue::<vfio_client::Region, vfio_client::DmaBuffer>::size(4),
    )?;
    let target = guest.buffer(0x10_0000, 4096)?;
    let mut queue = mdma::Queue::new(mdma, memory, 4)?;
    run_jobs(&mut queue, &[job::fill(self::guest(0x10_0000), 1, 8)])?;
    assert_eq!(target.to_vec(0, 8), 1u64.to_le_bytes());
    drop((queue, target));
    drop(guest);
    Ok(())
}

fn p10_a_failed_change_leaves_the_state(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    for (from, row) in ARCS.into_iter().filter(|(from, _)| *from != 6) {
        for (to, end) in (0..8).zip(row) {
            if end.is_some() {
                continue;
            }
            reach(&fixture, State(from))?;
            // The session continues: the staged buffer stays the same.
            let saving = from & 2 != 0;
            let mut staged = Vec::new();
            if saving {
                fixture.migration.save_buffer(&mut staged)?;
            }
            let result = fixture.migration.write_state(State(to));
            assert_errno!(result, EINVAL, "{from:03b} to {to:03b}");
            assert_eq!(fixture.state()?, State(from), "after a refused {to:03b}");
            if saving {
                let mut again = Vec::new();
                fixture.migration.save_buffer(&mut again)?;
                assert!(
                    again == staged,
                    "{from:03b} to {to:03b} changed the staged buffer"
                );
            }
            fixture.device.reset()?;
        }
    }
    Ok(())
}

fn p10_refusals_are_logged(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let uuid = fixture.uuid();
    let write = |state| fixture.migration.write_state(State(state));
    assert_refused!(env, uuid, write(5), EINVAL, "invalid");
    assert_refused!(env, uuid, write(6), EINVAL, "error");
    assert_refused!(env, uuid, write(9), EINVAL, "reserved");
    fixture.go(&[State::STOP])?;
    assert_refused!(env, uuid, write(3), EINVAL, "PRE_COPY");
    fixture.go(&[State::RESUMING])?;
    assert_refused!(env, uuid, write(1), ENODATA, "incomplete");
    assert_refused!(env, uuid, write(1), EINVAL, "reset");
    Ok(())
}

fn p11_error_is_left_by_reset_only(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    reach(&fixture, State::ERROR)?;
    for round in 0..2 {
        for to in (0..8).chain([8, 0x8000_0001, u32::MAX]) {
            let result = fixture.migration.write_state(State(to));
            assert_errno!(result, EINVAL, "110 to {to:#b}");
            assert_eq!(fixture.state()?, State::ERROR, "round {round}");
        }
        // Data does not leave the error state either.
        assert_errno!(fixture.migration.write_data_size(32), EINVAL);
        assert_eq!(fixture.migration.pending_bytes()?, 0);
    }
    fixture.device.reset()?;
    assert_eq!(fixture.state()?, State::RUNNING);
    fixture.usable()
}

fn p11_reset_gives_running_from_every_state(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    for state in states() {
        fixture.write_pages([1], 0x34)?;
        reach(&fixture, state)?;
        if state.0 & 2 != 0 && state != State::ERROR {
            fixture.migration.data_offset()?;
            assert!(fixture.migration.data_size()? > 0);
        }
        fixture.device.reset()?;
        assert_eq!(fixture.state()?, State::RUNNING, "from {state:?}");
        assert_eq!(fixture.migration.data_size()?, 0, "from {state:?}");
        assert_eq!(fixture.migration.pending_bytes()?, 0, "from {state:?}");
        // The reset drops the staged buffer and clears memory and registers.
        fixture.migration.data_offset()?;
        assert_eq!(fixture.migration.data_size()?, 0, "from {state:?}");
        assert!(all_are(&fixture.read_pages(1..2)?, 0), "from {state:?}");
        fixture.expect_no_mark(&format!("from {state:?}"));
        // A second reset changes nothing.
        fixture.device.reset()?;
        assert_eq!(fixture.state()?, State::RUNNING);
    }
    Ok(())
}

fn p12_reserved_bits_are_refused_and_read_0(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let region = fixture.migration.region();
    for state in states() {
        reach(&fixture, state)?;
        for bit in 3..32 {
            for low in 0..8 {
                let value = (1 << bit) | low;
                let result = fixture.migration.write_state(State(value));
                assert_errno!(result, EINVAL, "{state:?}: {value:#x}");
            }
        }
        assert_eq!(region.read_u32(offset::DEVICE_STATE)?, state.0);
        fixture.device.reset()?;
    }
    Ok(())
}

/// Makes a legal change of state. If it starts in the resuming state, loads a complete stream first.
fn take(fixture: &Fixture, from: u32, to: u32, saved: &[u8]) -> Result {
    reach(fixture, State(from))?;
    if from == 4 && to != 4 {
        fixture.feed(saved, fixture.section())?;
    }
    fixture.migration.write_state(State(to))?;
    assert_eq!(fixture.state()?, State(to), "{from:03b} to {to:03b}");
    fixture.device.reset().map_err(Into::into)
}

/// Returns a stream to load.
fn saved(fixture: &Fixture) -> Result<Vec<u8>> {
    fixture.write_pages([2], 0xc0)?;
    let bytes = fixture.save()?;
    fixture.device.reset()?;
    Ok(bytes)
}

fn p13_required_changes(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let saved = saved(&fixture)?;
    for (from, to) in [(1, 0), (1, 2), (1, 3), (3, 2), (2, 0), (1, 4), (4, 1)] {
        take(&fixture, from, to, &saved)?;
    }
    // All changes of a live migration's source, then those of a suspend.
    fixture.go(&[
        State::PRE_COPY,
        State::STOP_AND_COPY,
        State::STOP,
        State::RUNNING,
    ])?;
    fixture.go(&[State::STOP_AND_COPY, State::STOP])
}

fn p14_every_pair_of_states(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let saved = saved(&fixture)?;
    for (from, row) in ARCS {
        for (to, end) in (0..8).zip(row) {
            match end {
                Some(end) => {
                    assert_eq!(end, to);
                    take(&fixture, from, to, &saved)?;
                }
                None => {
                    reach(&fixture, State(from))?;
                    let result = fixture.migration.write_state(State(to));
                    assert_errno!(result, EINVAL, "{from:03b} to {to:03b}");
                    assert_eq!(fixture.state()?, State(from), "after a refused {to:03b}");
                    fixture.device.reset()?;
                }
            }
        }
    }
    Ok(())
}

/// Ways to stop a device and to run it again.
const STOPS: [&[State]; 6] = [
    &[State::STOP, State::RUNNING],
    &[State::RUNNING],
    &[State::STOP_AND_COPY, State::STOP_AND_COPY, State::RUNNING],
    &[State::PRE_COPY, State::PRE_COPY, State::RUNNING],
    &[State::PRE_COPY, State::STOP, State::STOP, State::RUNNING],
    &[
        State::PRE_COPY,
        State::STOP_AND_COPY,
        State::STOP,
        State::STOP_AND_COPY,
        State::RUNNING,
    ],
];

fn p14_running_and_stopping_change_nothing(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    fixture.fill_state(&[3])?;
    let before = fixture.snapshot()?;
    for path in STOPS {
        fixture.go(path)?;
        fixture.snapshot()?.expect(&before, &format!("{path:?}"));
    }
    Ok(())
}

fn p14_a_queue_outlasts_running_and_stopping(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let _buffer = fixture.buffer(0x10_0000, 4096)?;
    let mut queue = fixture.queue(4)?;
    run_jobs(&mut queue, &[job::fill(guest(0x10_0000), 1, 8).interrupt()])?;
    fixture.mdma.set(Reg::Scratch, 0xabcd)?;
    fixture.write_memory(12345, b"stays")?;
    let before = fixture.registers()?;
    for path in STOPS {
        fixture.go(path)?;
        let diff = fixture.registers()?.diff(&before);
        assert!(diff.is_empty(), "{path:?} changed {diff:x?}");
        assert_eq!(fixture.read_memory(12345, 5)?, b"stays");
    }
    run_jobs(&mut queue, &[job::nop().cookie(2)])
}

fn p15_every_state_is_left_at_any_pending(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    for from in [State::PRE_COPY, State::STOP_AND_COPY] {
        for to in [State::RUNNING, State::STOP, State::STOP_AND_COPY] {
            // No buffer staged, one staged but not read, one consumed, all consumed.
            for stage in 0..4 {
                fixture.write_pages(0..3, 1)?;
                fixture.go(&[from])?;
                match stage {
                    0 => {}
                    1 => drop(fixture.migration.data_offset()?),
                    2 => {
                        fixture.migration.save_buffer(&mut Vec::new())?;
                        fixture.migration.pending_bytes()?;
                    }
                    _ => drop(fixture.save_pending()?),
                }
                fixture.go(&[to])?;
                assert_eq!(fixture.state()?, to, "{from:?}, stage {stage}");
                fixture.device.reset()?;
            }
        }
    }
    Ok(())
}

fn p15_pre_copy_of_a_device_with_nothing_to_send(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    // The memory of the device is untouched, so pre-copy sends little more than the identity.
    fixture.go(&[State::PRE_COPY])?;
    let first = fixture.save_pending()?;
    assert!(first.concat().len() < 4096);
    fixture.go(&[State::STOP_AND_COPY])?;
    let rest = fixture.save_pending()?;
    fixture.go(&[State::STOP])?;
    fixture.device.reset()?;
    fixture.load(&[first.concat(), rest.concat()].concat())
}

/// Every interrupt that can be triggered by the user, with its vectors.
fn triggers(fixture: &Fixture) -> Result<Vec<(u32, u32)>> {
    let mut found = Vec::new();
    for index in [
        VFIO_PCI_INTX_IRQ_INDEX,
        VFIO_PCI_MSI_IRQ_INDEX,
        VFIO_PCI_MSIX_IRQ_INDEX,
    ] {
        let count = fixture.device.irq(index)?.info().count;
        if count > 0 {
            found.push((index, count));
        }
    }
    Ok(found)
}

fn p52_configuration_and_interrupts_in_every_state(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let config = fixture.device.config()?;
    let triggers = triggers(&fixture)?;
    assert!(!triggers.is_empty(), "a device without interrupts");
    for state in states() {
        reach(&fixture, state)?;
        // QEMU restores configuration space while the device is resuming.
        let snapshot = config.snapshot()?;
        config.set_command(pci::COMMAND_MEMORY)?;
        assert_eq!(config.command()?, pci::COMMAND_MEMORY, "{state:?}");
        config.restore(&snapshot)?;
        assert_eq!(config.snapshot()?, snapshot, "{state:?}");
        for (index, count) in &triggers {
            let irq = fixture.device.irq(*index)?;
            let event = EventFd::new()?;
            irq.set_eventfds(count - 1, &[Some(&event)])?;
            irq.set_none(Action::Trigger, count - 1, 1)?;
            expect_signal(&event, "an interrupt triggered by the user");
            irq.disable()?;
        }
        fixture.set_mark(0x5c)?;
        fixture.expect_mark(0x5c, &format!("{state:?}"));
        if fixture.memory_size() > 0 {
            let memory = fixture.map_memory()?;
            memory.write(PAGE as usize, b"through a mapping");
            let found = fixture.read_memory(PAGE, 17)?;
            assert_eq!(found, b"through a mapping", "{state:?}");
        }
        fixture.device.reset()?;
        config.enable()?;
    }
    Ok(())
}

fn p52_everything_else_works_in_every_state(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let config = fixture.device.config()?;
    let msix = fixture.device.irq(VFIO_PCI_MSIX_IRQ_INDEX)?;
    let intx = fixture.device.irq(VFIO_PCI_INTX_IRQ_INDEX)?;
    for state in states() {
        reach(&fixture, state)?;
        // Configuration space: QEMU restores it while the device is resuming.
        let snapshot = config.snapshot()?;
        config.set_command(pci::COMMAND_MEMORY)?;
        assert_eq!(config.command()?, pci::COMMAND_MEMORY, "{state:?}");
        config.restore(&snapshot)?;
        assert_eq!(config.snapshot()?, snapshot, "{state:?}");
        // Interrupts.
        let event = EventFd::new()?;
        msix.set_eventfds(0, &[None, Some(&event)])?;
        msix.set_none(Action::Trigger, 1, 1)?;
        expect_signal(&event, "an interrupt triggered by the user");
        msix.disable()?;
        intx.set_eventfds(0, &[Some(&event)])?;
        intx.disable()?;
        // Information.
        let info = fixture.device.info();
        for index in 0..info.num_regions {
            assert_eq!(fixture.device.region(index)?.info().index, index);
        }
        for index in 0..info.num_irqs {
            assert_eq!(fixture.device.irq(index)?.info().index, index);
        }
        assert!(
            fixture
                .device
                .region(VFIO_PCI_CONFIG_REGION_INDEX)?
                .info()
                .size
                >= 256
        );
        // Device memory through a mapping, and registers.
        let memory = fixture.mdma.map_memory()?;
        memory.write(8192, b"through a mapping");
        assert_eq!(
            fixture.read_memory(8192, 17)?,
            b"through a mapping",
            "{state:?}"
        );
        fixture.mdma.set(Reg::Scratch, 0x5ca7c4)?;
        assert_eq!(fixture.mdma.get(Reg::Scratch)?, 0x5ca7c4, "{state:?}");
        drop(memory);
        fixture.device.reset()?;
        config.enable()?;
    }
    // Settings made while the device is stopped take effect when it runs.
    let event = EventFd::new()?;
    fixture.go(&[State::STOP])?;
    msix.set_eventfds(0, &[Some(&event)])?;
    fixture.mdma.set_interrupts(mdma::regs::INT_COMPLETION)?;
    let mut queue = fixture.queue(2)?;
    queue.submit(&job::nop().interrupt())?;
    assert_eq!(
        event.wait(crate::harness::check::SILENCE)?,
        0,
        "the device ran a job while stopped"
    );
    fixture.go(&[State::RUNNING])?;
    expect_signal(&event, "the interrupt of a job submitted while stopped");
    queue.wait(PATIENCE)?;
    Ok(())
}
