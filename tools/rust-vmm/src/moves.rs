// SPDX-License-Identifier: GPL-2.0

//! A guest moves while it is stopped.

use vfio_bindings::bindings::vfio::{
    vfio_device_mig_state_VFIO_DEVICE_STATE_PRE_COPY as PRE_COPY,
    vfio_device_mig_state_VFIO_DEVICE_STATE_RUNNING as RUNNING,
    vfio_device_mig_state_VFIO_DEVICE_STATE_STOP as STOP,
};
use vfio_client::kvm::{Exit, Guest};

use crate::error::{expect_eq, fail, Error, Result};
use crate::machine::Machine;
use crate::migratable::Snapshot;
use crate::setup::{go_on, stop_and_save, Setup};

pub(crate) fn idle(setup: &Setup) -> Result {
    let (source, work) = setup.at_work(1)?;
    let destination = setup.machine()?;
    let before = work.registers()?;
    let snapshot = stop_and_save(&source, &destination)?;
    expect_eq!(
        source.device.get_migration_state()?,
        STOP,
        "the state after a save"
    );
    destination.restore(&snapshot)?;
    destination.resume(snapshot.command)?;
    expect_eq!(
        destination.device.get_migration_state()?,
        RUNNING,
        "the state at the end"
    );
    let mut work = work.moved(&destination)?;
    let differ = before.diff(&work.registers()?);
    if !differ.is_empty() {
        fail!("registers differ: {differ:x?}");
    }
    work.check(&destination)?;
    work.round(&destination)?;
    work.check(&destination)
}

pub(crate) fn jobs_in_flight(setup: &Setup) -> Result {
    let (source, mut work) = setup.at_work(2)?;
    let destination = setup.machine()?;
    work.leave()?;
    let snapshot = stop_and_save(&source, &destination)?;
    if work.unfinished()? == 0 {
        fail!("no job was in flight");
    }
    go_on(work, &snapshot, &destination)
}

/// A guest runs on after each snapshot; the last one is restored.
pub(crate) fn snapshots(setup: &Setup) -> Result {
    let (source, mut work) = setup.at_work(3)?;
    let destination = setup.machine()?;
    for _ in 0..3 {
        let snapshot = stop_and_save(&source, &destination)?;
        source.resume(snapshot.command)?;
        work.round(&source)?;
        work.check(&source)?;
    }
    let snapshot = stop_and_save(&source, &destination)?;
    go_on(work, &snapshot, &destination)
}

/// Reads in PRE_COPY what there is, and the rest in STOP_COPY. Cloud Hypervisor does not, but `vfio-ioctls` has it.
pub(crate) fn pre_copy(setup: &Setup) -> Result {
    let (source, mut work) = setup.at_work(4)?;
    let destination = setup.machine()?;
    source.device.set_migration_state(PRE_COPY)?;
    let mut data = Vec::new();
    for pass in 0..3 {
        let info = source.device.mig_get_precopy_info()?;
        if info.initial_bytes + info.dirty_bytes == 0 {
            fail!("nothing is left before pass {pass}");
        }
        read_present(&source, &mut data)?;
        let info = source.device.mig_get_precopy_info()?;
        expect_eq!(info.initial_bytes, 0, "initial bytes after pass {pass}");
        work.round(&source)?;
    }
    let command = source.command();
    source.send_all_memory(&destination);
    let rest = source.snapshot()?;
    data.extend(rest.data);
    source.send_all_memory(&destination);
    go_on(work, &Snapshot { command, data }, &destination)
}

/// Reads to the present end of the data.
fn read_present(source: &Machine, data: &mut Vec<u8>) -> Result {
    let mut piece = vec![0; 1 << 20];
    loop {
        match source
            .device
            .read_migration_data(&mut piece)
            .map_err(Error::from)
        {
            Ok(0) => fail!("the data ended in PRE_COPY"),
            Ok(size) => data.extend(&piece[..size]),
            Err(e) if e.errno == Some(libc::ENOMSG) => return Ok(()),
            Err(e) => return Err(e),
        }
    }
}

/// A processor under KVM writes device memory at the source and compares it at the destination.
pub(crate) fn processor_writes(setup: &Setup) -> Result {
    const WORDS: u16 = 30_000;
    const AT: u64 = 1 << 20;
    // mov ax, 5aa5h; rep stosw; hlt
    const WRITE: [u8; 6] = [0xb8, 0xa5, 0x5a, 0xf3, 0xab, 0xf4];
    // mov ax, 5aa5h; repe scasw; jne 1f; hlt; 1: out 80h, al
    const COMPARE: [u8; 10] = [0xb8, 0xa5, 0x5a, 0xf3, 0xaf, 0x75, 0x01, 0xf4, 0xe6, 0x80];
    let source = setup.machine()?;
    source.enable()?;
    expect_eq!(
        Guest::new(&source.memory, &WRITE)?.run(AT, WORDS)?,
        Exit::Halted,
        "the processor that writes"
    );
    let destination = setup.machine()?;
    let compare =
        || -> Result<Exit> { Ok(Guest::new(&destination.memory, &COMPARE)?.run(AT, WORDS)?) };
    destination.enable()?;
    if compare()? == Exit::Halted {
        fail!("the processor found at the destination what was not moved yet");
    }
    let snapshot = stop_and_save(&source, &destination)?;
    destination.restore(&snapshot)?;
    destination.resume(snapshot.command)?;
    expect_eq!(compare()?, Exit::Halted, "the processor that compares");
    Ok(())
}
