// SPDX-License-Identifier: GPL-2.0

//! The work with an `mdma` by UIO.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use crate::event::{Found, Losses, Totals, Wrong, WrongResult};
use crate::options::Options;
use crate::uio::{self, Block, DeviceMemory, Interrupts, Registers};
use crate::work::Work;
use crate::workload::Workload;

struct UioWork {
    workload: Workload<Registers, Block, DeviceMemory>,
    interrupts: Interrupts,
}

/// Begins the work with a device, which also uses memory of its `peer`.
pub(crate) fn begin(
    device: &uio::Found,
    peer: Option<&uio::Found>,
    options: &Options,
    index: usize,
) -> WrongResult<(Box<dyn Work>, Found)> {
    let opened = device.open(peer, options.remap);
    let (parts, interrupts) =
        opened.map_err(|error| Wrong::new(format!("{}: {error}", device.pci)))?;
    let blocks = parts.size();
    let workload = Workload::new(parts, options, index)?;
    let found = Found {
        pci: device.pci.clone(),
        memory: workload.memory_size(),
        blocks,
    };
    let work = UioWork {
        workload,
        interrupts,
    };
    Ok((Box::new(work), found))
}

impl Work for UioWork {
    fn step(&mut self, now: Duration, wanted: bool) -> WrongResult {
        self.workload.step(now, wanted)
    }

    fn ready(&mut self, now: Duration) -> WrongResult {
        let waited = self.interrupts.wait();
        let count = waited.map_err(|error| Wrong::new(format!("interrupts: {error}")))?;
        self.workload.interrupted(count, now)
    }

    fn overdue(&mut self, now: Duration) -> WrongResult {
        self.workload.overdue(now)
    }

    fn idle(&self) -> bool {
        self.workload.idle()
    }

    fn due(&self) -> Option<Duration> {
        self.workload.due()
    }

    fn totals(&self) -> Totals {
        self.workload.totals()
    }

    fn check(&mut self) -> WrongResult {
        self.workload.check()
    }

    fn mend(&mut self, losses: &mut Losses) -> WrongResult {
        self.workload.mend(losses)
    }
}

impl AsFd for UioWork {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.interrupts.as_fd()
    }
}
