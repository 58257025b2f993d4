// SPDX-License-Identifier: GPL-2.0

//! `device_state`: every change from every state, as the protocol's text has it.

use mdma::job;
use mdma::regs::Reg;
use vfio_client::pci;
use vfio_client::uapi::{
    VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_INTX_IRQ_INDEX, VFIO_PCI_MSIX_IRQ_INDEX,
};
use vfio_client::v1::{offset, State};
use vfio_client::{Action, EventFd};

use crate::env::{Guest, Lab};
use crate::fixture::{guest, run_jobs, Scene};
use crate::harness::check::{expect_signal, PATIENCE};
use crate::harness::result::Outcome;
use crate::v1::region::{reach, states};
use crate::{assert_errno, assert_refused, tests};

tests! { "states":
    p07_invalid_values_are_refused ["P7"],
    p08_running_is_the_default ["P8"],
    p08_a_device_whose_region_is_not_touched ["P8"],
    p10_a_failed_change_leaves_the_state ["P10"],
    p10_refusals_are_logged ["P10"],
    p11_error_is_left_by_reset_only ["P11"],
    p11_reset_gives_running_from_every_state ["P11"],
    p12_reserved_bits_are_refused_and_read_0 ["P12"],
    p13_required_changes ["P13"],
    p14_every_pair_of_states ["P14"],
    p14_runs_and_stops_leave_the_device_as_it_is ["P14"],
    p15_every_state_is_left_at_any_pending ["P15"],
    p15_pre_copy_of_a_device_with_nothing_to_send ["P15"],
    p52_everything_else_works_in_every_state ["P52"],
}

/// What a write of 0 to 7 does in each state: `Some` with the state it leads to, `None` if it is refused.
///
/// The error state is entered only by 4→0 and 4→1 of a load that is not complete, which is a case of its own.
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

fn p07_invalid_values_are_refused(lab: &Lab) -> Outcome {
    let scene = Scene::new(lab)?;
    for state in states() {
        reach(&scene, state)?;
        // The bits are what the register reads: 000, 001, 010, 011, 100 and 110 are states, these are not.
        for invalid in [5, 7] {
            let result = scene.migration.write_state(State(invalid));
            assert_errno!(result, EINVAL, "{state:?} to {invalid:#b}");
            assert_eq!(scene.state()?, state);
        }
        scene.device.reset()?;
    }
    Ok(())
}

fn p08_running_is_the_default(lab: &Lab) -> Outcome {
    let mut scene = Scene::new(lab)?;
    assert_eq!(scene.state()?, State::RUNNING);
    // Whatever the last user left it in.
    for state in states() {
        reach(&scene, state)?;
        scene = Scene::of(Guest::open(scene.close())?)?;
        assert_eq!(scene.state()?, State::RUNNING, "opened after {state:?}");
        assert_eq!(scene.migration.pending_bytes()?, 0);
        let mut queue = scene.queue(2)?;
        run_jobs(&mut queue, &[job::nop()])?;
    }
    Ok(())
}

fn p08_a_device_whose_region_is_not_touched(lab: &Lab) -> Outcome {
    let instance = lab.instance(crate::env::SMALL)?;
    let guest = Guest::open(instance)?;
    // No look at the region at all.
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

fn p10_a_failed_change_leaves_the_state(lab: &Lab) -> Outcome {
    let scene = Scene::new(lab)?;
    for (from, row) in ARCS.into_iter().filter(|(from, _)| *from != 6) {
        for (to, end) in (0..8).zip(row) {
            if end.is_some() {
                continue;
            }
            reach(&scene, State(from))?;
            // A session goes on as if nothing had been asked: the staged buffer is the same one.
            let saving = from & 2 != 0;
            let mut staged = Vec::new();
            if saving {
                scene.migration.save_buffer(&mut staged)?;
            }
            let result = scene.migration.write_state(State(to));
            assert_errno!(result, EINVAL, "{from:03b} to {to:03b}");
            assert_eq!(scene.state()?, State(from), "after a refused {to:03b}");
            if saving {
                let mut again = Vec::new();
                scene.migration.save_buffer(&mut again)?;
                assert!(
                    again == staged,
                    "{from:03b} to {to:03b} changed the staged buffer"
                );
            }
            scene.device.reset()?;
        }
    }
    Ok(())
}

fn p10_refusals_are_logged(lab: &Lab) -> Outcome {
    let scene = Scene::new(lab)?;
    let uuid = scene.uuid();
    let write = |state| scene.migration.write_state(State(state));
    assert_refused!(lab, uuid, write(5), EINVAL, "invalid");
    assert_refused!(lab, uuid, write(6), EINVAL, "error");
    assert_refused!(lab, uuid, write(9), EINVAL, "reserved");
    scene.go(&[State::STOP])?;
    assert_refused!(lab, uuid, write(3), EINVAL, "PRE_COPY");
    scene.go(&[State::RESUMING])?;
    assert_refused!(lab, uuid, write(1), ENODATA, "incomplete");
    assert_refused!(lab, uuid, write(1), EINVAL, "reset");
    Ok(())
}

fn p11_error_is_left_by_reset_only(lab: &Lab) -> Outcome {
    let scene = Scene::new(lab)?;
    reach(&scene, State::ERROR)?;
    for round in 0..2 {
        for to in (0..8).chain([8, 0x8000_0001, u32::MAX]) {
            let result = scene.migration.write_state(State(to));
            assert_errno!(result, EINVAL, "110 to {to:#b}");
            assert_eq!(scene.state()?, State::ERROR, "round {round}");
        }
        // Data does not help either.
        assert_errno!(scene.migration.write_data_size(32), EINVAL);
        assert_eq!(scene.migration.pending_bytes()?, 0);
    }
    scene.device.reset()?;
    assert_eq!(scene.state()?, State::RUNNING);
    scene.mdma.bar().device().config()?.enable()?;
    let mut queue = scene.queue(2)?;
    run_jobs(&mut queue, &[job::nop()])?;
    // And the next migration is like the first.
    drop(queue);
    scene.save().map(drop)
}

fn p11_reset_gives_running_from_every_state(lab: &Lab) -> Outcome {
    let scene = Scene::new(lab)?;
    for state in states() {
        scene.write_memory(4096, b"something to send")?;
        scene.mdma.set(Reg::Scratch, 0x1234)?;
        reach(&scene, state)?;
        if state.0 & 2 != 0 && state != State::ERROR {
            scene.migration.data_offset()?;
            assert!(scene.migration.data_size()? > 0);
        }
        scene.device.reset()?;
        assert_eq!(scene.state()?, State::RUNNING, "from {state:?}");
        assert_eq!(scene.migration.data_size()?, 0, "from {state:?}");
        assert_eq!(scene.migration.pending_bytes()?, 0, "from {state:?}");
        // Every buffer is dropped: what was staged is not offered any more, memory and registers are as new.
        scene.migration.data_offset()?;
        assert_eq!(scene.migration.data_size()?, 0, "from {state:?}");
        assert_eq!(scene.read_memory(4096, 17)?, [0; 17], "from {state:?}");
        assert_eq!(scene.mdma.get(Reg::Scratch)?, 0, "from {state:?}");
        // Twice is as good as once.
        scene.device.reset()?;
        assert_eq!(scene.state()?, State::RUNNING);
    }
    Ok(())
}

fn p12_reserved_bits_are_refused_and_read_0(lab: &Lab) -> Outcome {
    let scene = Scene::new(lab)?;
    let region = scene.migration.region();
    for state in states() {
        reach(&scene, state)?;
        for bit in 3..32 {
            for low in 0..8 {
                let value = (1 << bit) | low;
                let result = scene.migration.write_state(State(value));
                assert_errno!(result, EINVAL, "{state:?}: {value:#x}");
            }
        }
        assert_eq!(region.read_u32(offset::DEVICE_STATE)?, state.0);
        scene.device.reset()?;
    }
    Ok(())
}

/// Takes a change of state that is legal, from a load that is complete where it starts with one.
fn take(scene: &Scene, from: u32, to: u32, saved: &[u8]) -> Outcome {
    reach(scene, State(from))?;
    if from == 4 && to != 4 {
        scene.feed(saved, scene.section())?;
    }
    scene.migration.write_state(State(to))?;
    assert_eq!(scene.state()?, State(to), "{from:03b} to {to:03b}");
    scene.device.reset().map_err(Into::into)
}

/// A saved device to load.
fn saved(scene: &Scene) -> Outcome<Vec<u8>> {
    scene.write_memory(8192, b"contents")?;
    let bytes = scene.save()?;
    scene.device.reset()?;
    Ok(bytes)
}

fn p13_required_changes(lab: &Lab) -> Outcome {
    let scene = Scene::new(lab)?;
    let saved = saved(&scene)?;
    for (from, to) in [(1, 0), (1, 2), (1, 3), (3, 2), (2, 0), (1, 4), (4, 1)] {
        take(&scene, from, to, &saved)?;
    }
    // The whole of a live migration's source, and of a suspend, in one go.
    scene.go(&[
        State::PRE_COPY,
        State::STOP_AND_COPY,
        State::STOP,
        State::RUNNING,
    ])?;
    scene.go(&[State::STOP_AND_COPY, State::STOP])
}

fn p14_every_pair_of_states(lab: &Lab) -> Outcome {
    let scene = Scene::new(lab)?;
    let saved = saved(&scene)?;
    for (from, row) in ARCS {
        for (to, end) in (0..8).zip(row) {
            match end {
                Some(end) => {
                    assert_eq!(end, to);
                    take(&scene, from, to, &saved)?;
                }
                None => {
                    reach(&scene, State(from))?;
                    let result = scene.migration.write_state(State(to));
                    assert_errno!(result, EINVAL, "{from:03b} to {to:03b}");
                    assert_eq!(scene.state()?, State(from), "after a refused {to:03b}");
                    scene.device.reset()?;
                }
            }
        }
    }
    Ok(())
}

fn p14_runs_and_stops_leave_the_device_as_it_is(lab: &Lab) -> Outcome {
    let scene = Scene::new(lab)?;
    let _buffer = scene.buffer(0x10_0000, 4096)?;
    let mut queue = scene.queue(4)?;
    run_jobs(&mut queue, &[job::fill(guest(0x10_0000), 1, 8).interrupt()])?;
    scene.mdma.set(Reg::Scratch, 0xabcd)?;
    scene.write_memory(12345, b"stays")?;
    let before = scene.registers()?;
    for path in [
        &[State::STOP, State::RUNNING][..],
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
    ] {
        scene.go(path)?;
        let diff = scene.registers()?.diff(&before);
        assert!(diff.is_empty(), "{path:?} changed {diff:x?}");
        assert_eq!(scene.read_memory(12345, 5)?, b"stays");
    }
    run_jobs(&mut queue, &[job::nop().cookie(2)])
}

fn p15_every_state_is_left_at_any_pending(lab: &Lab) -> Outcome {
    let scene = Scene::new(lab)?;
    for from in [State::PRE_COPY, State::STOP_AND_COPY] {
        for to in [State::RUNNING, State::STOP, State::STOP_AND_COPY] {
            // Nothing read, staged and not read, one consumed, everything consumed.
            for stage in 0..4 {
                scene.write_memory(0, &[1; 3 * 4096])?;
                scene.go(&[from])?;
                match stage {
                    0 => {}
                    1 => drop(scene.migration.data_offset()?),
                    2 => {
                        scene.migration.save_buffer(&mut Vec::new())?;
                        scene.migration.pending_bytes()?;
                    }
                    _ => drop(scene.save_pending()?),
                }
                scene.go(&[to])?;
                assert_eq!(scene.state()?, to, "{from:?}, stage {stage}");
                scene.device.reset()?;
            }
        }
    }
    Ok(())
}

fn p15_pre_copy_of_a_device_with_nothing_to_send(lab: &Lab) -> Outcome {
    let scene = Scene::new(lab)?;
    // A device whose memory was never touched: there is no more than what says what it is.
    scene.go(&[State::PRE_COPY])?;
    let first = scene.save_pending()?;
    assert!(first.concat().len() < 4096);
    scene.go(&[State::STOP_AND_COPY])?;
    let rest = scene.save_pending()?;
    scene.go(&[State::STOP])?;
    scene.device.reset()?;
    scene.load(&[first.concat(), rest.concat()].concat())
}

fn p52_everything_else_works_in_every_state(lab: &Lab) -> Outcome {
    let scene = Scene::new(lab)?;
    let config = scene.device.config()?;
    let msix = scene.device.irq(VFIO_PCI_MSIX_IRQ_INDEX)?;
    let intx = scene.device.irq(VFIO_PCI_INTX_IRQ_INDEX)?;
    for state in states() {
        reach(&scene, state)?;
        // Configuration space, as QEMU restores it while resuming.
        let snapshot = config.snapshot()?;
        config.set_command(pci::COMMAND_MEMORY)?;
        assert_eq!(config.command()?, pci::COMMAND_MEMORY, "{state:?}");
        config.restore(&snapshot)?;
        assert_eq!(config.snapshot()?, snapshot, "{state:?}");
        // Interrupts.
        let event = EventFd::new()?;
        msix.set_eventfds(0, &[None, Some(&event)])?;
        msix.set_none(Action::Trigger, 1, 1)?;
        expect_signal(&event, "an interrupt made by the user");
        msix.disable()?;
        intx.set_eventfds(0, &[Some(&event)])?;
        intx.disable()?;
        // Information.
        let info = scene.device.info();
        for index in 0..info.num_regions {
            assert_eq!(scene.device.region(index)?.info().index, index);
        }
        for index in 0..info.num_irqs {
            assert_eq!(scene.device.irq(index)?.info().index, index);
        }
        assert!(
            scene
                .device
                .region(VFIO_PCI_CONFIG_REGION_INDEX)?
                .info()
                .size
                >= 256
        );
        // The mapping of device memory, and its registers.
        let memory = scene.mdma.map_memory()?;
        memory.write(8192, b"through a mapping");
        assert_eq!(
            scene.read_memory(8192, 17)?,
            b"through a mapping",
            "{state:?}"
        );
        scene.mdma.set(Reg::Scratch, 0x5ca7c4)?;
        assert_eq!(scene.mdma.get(Reg::Scratch)?, 0x5ca7c4, "{state:?}");
        drop(memory);
        scene.device.reset()?;
        config.enable()?;
    }
    // What was set up while stopped is in force when it runs.
    let event = EventFd::new()?;
    scene.go(&[State::STOP])?;
    msix.set_eventfds(0, &[Some(&event)])?;
    scene.mdma.set_interrupts(mdma::regs::INT_COMPLETION)?;
    let mut queue = scene.queue(2)?;
    queue.submit(&job::nop().interrupt())?;
    assert_eq!(
        event.wait(crate::harness::check::SILENCE)?,
        0,
        "a job was done while stopped"
    );
    scene.go(&[State::RUNNING])?;
    expect_signal(&event, "the interrupt of a job submitted while stopped");
    queue.wait(PATIENCE)?;
    Ok(())
}
