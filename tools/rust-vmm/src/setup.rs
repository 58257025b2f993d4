// SPDX-License-Identifier: GPL-2.0

//! What the cases run on, and what most of them do.

use crate::error::Result;
use crate::machine::Machine;
use crate::migratable::Snapshot;
use crate::work::Work;

/// What the cases run on.
pub(crate) struct Setup {
    pub(crate) mdev_type: String,
    /// A type of another size.
    pub(crate) other_type: String,
    /// Whether the kernel lets devices log their DMA.
    pub(crate) dma_log: bool,
    /// Whether to use KVM.
    pub(crate) kvm: bool,
}

impl Setup {
    pub(crate) fn machine(&self) -> Result<Machine> {
        Machine::new(&self.mdev_type, self.kvm)
    }

    /// Returns a machine whose guest has worked.
    pub(crate) fn at_work(&self, seed: u64) -> Result<(Machine, Work)> {
        let machine = self.machine()?;
        let mut work = Work::new(&machine, seed)?;
        work.round(&machine)?;
        Ok((machine, work))
    }
}

/// Stops the source, copies memory, and saves the device: Cloud Hypervisor's local migration, and its snapshot.
pub(crate) fn stop_and_save(source: &Machine, to: &Machine) -> Result<Snapshot> {
    let command = source.command();
    source.pause(command)?;
    source.send_all_memory(to);
    source.snapshot()
}

/// Moves a guest, and lets it work on.
pub(crate) fn go_on(work: Work, snapshot: &Snapshot, to: &Machine) -> Result {
    to.restore(snapshot)?;
    to.resume(snapshot.command)?;
    let mut work = work.moved(to)?;
    work.drain()?;
    work.check(to)?;
    work.round(to)?;
    work.check(to)
}
