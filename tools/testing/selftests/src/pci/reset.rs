// SPDX-License-Identifier: GPL-2.0

//! `VFIO_DEVICE_RESET`.

use mdma::regs::{self, Reg};
use mdma::Mdma;
use vfio_client::v1::State;
use vfio_client::{uapi, Action, EventFd};

use crate::env::{Env, SMALL};
use crate::fixture::{self, Fixture, MdmaFixture};
use crate::harness::check::{expect_signal, expect_silence};
use crate::harness::result::Result;
use crate::tests;

tests! { "device":
    reset_gives_power_on [],
    reset_gives_power_on_registers [] needs [Mdma],
    reset_stops_work_in_flight [] needs [Mdma],
    reset_keeps_configuration_and_eventfds [],
    reset_keeps_interrupts_working [] needs [Mdma],
}

/// Returns the registers of a new device.
fn power_on(env: &Env) -> Result<mdma::Snapshot> {
    let fresh = env.open(SMALL)?;
    let mdma = Mdma::open(&fresh.device)?;
    Ok(mdma.snapshot()?)
}

fn reset_gives_power_on(env: &Env) -> Result {
    let fresh = Fixture::new(env)?.snapshot()?;
    let fixture = Fixture::new(env)?;
    fixture.fill_state(&[0, 9])?;
    assert!(fixture.snapshot()? != fresh, "nothing was filled");
    fixture.device.reset()?;
    fixture.expect_no_mark("after a reset");
    fixture.snapshot()?.expect(&fresh, "after a reset");
    Ok(())
}

fn reset_gives_power_on_registers(env: &Env) -> Result {
    let fresh = power_on(env)?;
    let fixture = MdmaFixture::new(env)?;
    let mut queue = fixture.queue(4)?;
    let memory = fixture.mdma.map_memory()?;
    let size = memory.len();
    fixture.mdma.set(Reg::Scratch, 0x1122_3344_5566_7788)?;
    fixture.mdma.set(Reg::IntMask, regs::INT_ALL.into())?;
    fixture.mdma.set_throttle(7)?;
    let fill = mdma::job::fill(fixture::device(8192), 0x0101_0101_0101_0101, 100_000).interrupt();
    fixture::run_jobs(&mut queue, &[mdma::job::nop().interrupt(), fill])?;
    let places = [0, 4095, 8192, 65536, size / 2, size - 1];
    for at in places {
        memory.write(at, &[0xee]);
    }
    fixture.write_memory(12345, b"written by a system call")?;
    assert!(
        fixture.registers()?.diff(&fresh).len() >= 8,
        "the test did not change enough registers"
    );

    fixture.device.reset()?;
    assert_eq!(
        fixture.registers()?.diff(&fresh),
        [],
        "registers after reset"
    );
    assert_eq!(fixture.state()?, State::RUNNING);
    // Both the old mapping and system calls read zeros everywhere.
    for at in places {
        assert_eq!(memory.to_vec(at, 1), [0], "mapped memory at {at:#x}");
    }
    assert!(
        memory.to_vec(0, size).iter().all(|b| *b == 0),
        "mapped memory"
    );
    let chunk = 1 << 20;
    for at in (0..size as u64).step_by(chunk) {
        let bytes = fixture.read_memory(at, chunk)?;
        assert!(
            bytes.iter().all(|b| *b == 0),
            "memory in the MiB at {at:#x}"
        );
    }
    // The mapping and system calls still access the same memory.
    memory.write(4096, b"again");
    assert_eq!(fixture.read_memory(4096, 5)?, b"again");
    // The device works.
    drop(queue);
    let mut queue = fixture.queue(2)?;
    fixture::run_jobs(&mut queue, &[mdma::job::nop()])?;
    assert_eq!(fixture.mdma.get(Reg::JobsDone)?, 1);
    Ok(())
}

fn reset_stops_work_in_flight(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let mut queue = fixture.queue(4)?;
    let buffer = fixture.buffer(0x10_0000, 4 << 20)?;
    fixture.mdma.set_throttle(20_000)?;
    queue.submit(&mdma::job::fill(fixture::guest(0x10_0000), !0, 4 << 20))?;
    fixture::wait_register(&fixture.mdma, Reg::BytesDone, "the job to begin", |v| v > 0)?;
    fixture.device.reset()?;
    // The device writes nothing from here on.
    let count = || {
        buffer
            .to_vec(0, 4 << 20)
            .iter()
            .filter(|b| **b != 0)
            .count()
    };
    let written = count();
    assert!(written < 4 << 20, "the job finished before the reset");
    std::thread::sleep(crate::harness::check::SILENCE);
    assert_eq!(
        count(),
        written,
        "the device wrote guest memory after the reset"
    );
    assert_eq!(fixture.mdma.get(Reg::BytesDone)?, 0);
    assert_eq!(fixture.mdma.get(Reg::Status)?, 0);
    assert!(queue.poll().is_none(), "the job completed after the reset");
    Ok(())
}

/// Like vfio-pci, the device keeps configuration space and the user's eventfds over a reset.
fn reset_keeps_configuration_and_eventfds(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    let event = EventFd::new()?;
    let intx = fixture.device.irq(uapi::VFIO_PCI_INTX_IRQ_INDEX)?;
    intx.set_eventfds(0, &[Some(&event)])?;
    let config = fixture.device.config()?;
    config.region().write_u32(0x10, 0xfebf_0000)?;
    let before = config.snapshot()?;
    fixture.device.reset()?;
    assert_eq!(config.snapshot()?, before);
    expect_silence(&event, "a reset does not interrupt");
    intx.set_none(Action::Trigger, 0, 1)?;
    expect_signal(&event, "the eventfd set before the reset");
    Ok(())
}

fn reset_keeps_interrupts_working(env: &Env) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let event = EventFd::new()?;
    let intx = fixture.device.irq(uapi::VFIO_PCI_INTX_IRQ_INDEX)?;
    intx.set_eventfds(0, &[Some(&event)])?;
    let config = fixture.device.config()?;
    config.region().write_u32(0x10, 0xfebf_0000)?;
    let before = config.snapshot()?;
    fixture.device.reset()?;
    assert_eq!(config.snapshot()?, before);
    expect_silence(&event, "a reset does not interrupt");
    fixture.mdma.set_interrupts(regs::INT_ALL)?;
    let mut queue = fixture.queue(2)?;
    fixture::run_jobs(&mut queue, &[mdma::job::nop().interrupt()])?;
    expect_signal(&event, "INTx after a reset");
    Ok(())
}
