// SPDX-License-Identifier: GPL-2.0

//! A guest moves while it runs, by a log of what the device writes.

use crate::dirty_log::DirtyLog;
use crate::error::{expect_eq, fail, Result};
use crate::machine::Machine;
use crate::setup::{go_on, Setup};

/// Cloud Hypervisor's migration: the log begins, memory moves while the guest works, the guest stops, what was written
/// since moves, then the device.
fn with_log(setup: &Setup, seed: u64, start: impl Fn(&Machine) -> Result<DirtyLog>) -> Result {
    let (source, mut work) = setup.at_work(seed)?;
    let destination = setup.machine()?;
    let log = start(&source)?;
    source.send_all_memory(&destination);
    let mut sent = 0;
    for _ in 0..3 {
        work.round(&source)?;
        sent += source.send_memory(&source.dirty_log(&log)?, &destination);
    }
    if sent == 0 {
        fail!("no page was reported as dirty");
    }
    work.leave()?;
    let command = source.command();
    source.pause(command)?;
    source.send_memory(&source.dirty_log(&log)?, &destination);
    let snapshot = source.snapshot()?;
    // The stopped device writes nothing more.
    let late = source.send_memory(&source.dirty_log(&log)?, &destination);
    expect_eq!(late, 0, "pages written by the stopped device");
    if work.unfinished()? == 0 {
        fail!("no job was in flight");
    }
    go_on(work, &snapshot, &destination)?;
    source.stop_dirty_log(log)
}

pub(crate) fn dma_log(setup: &Setup) -> Result {
    with_log(setup, 8, Machine::start_dma_log)
}

pub(crate) fn type1_log(setup: &Setup) -> Result {
    with_log(setup, 9, Machine::start_type1_log)
}

/// On a kernel without iommufd's bitmaps, a migration with a log fails at its first call, and the guest works on.
pub(crate) fn no_dma_log(setup: &Setup) -> Result {
    let (source, mut work) = setup.at_work(10)?;
    match source.start_dma_log() {
        Ok(_) => fail!("the device logs its DMA: run with --dma-log"),
        Err(e) => {
            expect_eq!(e.errno, Some(libc::ENOTTY), "start_dma_logging: {e}");
        }
    }
    work.round(&source)?;
    work.check(&source)
}
