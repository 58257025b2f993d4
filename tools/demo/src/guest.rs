// SPDX-License-Identifier: GPL-2.0

//! The VMM's part of a migration: stops the processor and copies guest memory.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use mdma::regs::Reg;
use serde::Serialize;
use vfio_migrate::format::{bytes, time};
use vfio_migrate::{Pass, Phase, Progress};

use crate::error::{fail, Error, Result};
use crate::flip::Flip;
use crate::machine::Machine;
use crate::out::{count, Out};
use crate::workload::Workload;

/// One copy of the guest memory that was written since the last one.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Sync {
    /// Pages copied.
    pub(crate) pages: u64,
    /// Those of them that the device wrote or has pinned, from type1's dirty bitmap.
    pub(crate) by_device: u64,
    /// Those of them that the processor wrote.
    pub(crate) by_processor: u64,
    /// Duration.
    #[serde(skip)]
    pub(crate) time: Duration,
}

/// State of the queue when the device had stopped.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Queued {
    /// The next descriptor that the device takes.
    pub(crate) head: u64,
    /// The first free descriptor.
    pub(crate) tail: u64,
    /// Completed jobs.
    pub(crate) jobs_done: u64,
}

/// Follows a transfer.
pub(crate) struct Guest<'s, 'e> {
    pub(crate) source: &'e Machine,
    pub(crate) destination: &'e Machine,
    pub(crate) stop: &'e AtomicBool,
    /// The processor: runs until it is stopped, then hands over the workload.
    pub(crate) processor: Option<ScopedJoinHandle<'s, Result<Workload>>>,
    pub(crate) work: Option<Workload>,
    pub(crate) syncs: Vec<Sync>,
    pub(crate) queued: Queued,
    pub(crate) flip: Flip,
    pub(crate) out: Out,
}

impl Guest<'_, '_> {
    /// Starts dirty tracking, and copies everything once.
    pub(crate) fn begin(&mut self) -> Result<Sync> {
        let start = Instant::now();
        self.source.container.dirty_start()?;
        let mut sync = Sync::default();
        for (from, to) in self.source.ranges().zip(self.destination.ranges()) {
            // Read before the copy, so that later writes are copied again.
            from.take_written();
            from.memory().copy_to(0, to.memory(), 0, from.len());
            sync.pages += (from.len() / crate::ram::PAGE) as u64;
        }
        sync.time = start.elapsed();
        Ok(sync)
    }

    /// Copies the pages written since the last call.
    fn sync(&mut self) -> vfio_client::Result<()> {
        let start = Instant::now();
        let mut sync = Sync::default();
        for (from, to) in self.source.ranges().zip(self.destination.ranges()) {
            let size = from.len() as u64;
            let by_device = self.source.container.dirty_bitmap(from.iova(), size)?;
            let by_processor = from.take_written();
            sync.by_device += by_device.count();
            sync.by_processor += by_processor.count();
            let mut dirty = by_device;
            dirty.merge(&by_processor);
            sync.pages += from.copy_dirty(&dirty, to);
        }
        sync.time = start.elapsed();
        self.syncs.push(sync);
        Ok(())
    }

    /// Stops the processor if it still runs.
    pub(crate) fn halt(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(processor) = self.processor.take() {
            match processor.join() {
                Ok(work) => self.work = Some(work?),
                Err(_) => fail!("the workload panicked"),
            }
        }
        Ok(())
    }
}

fn guest_error(e: Error) -> vfio_client::Error {
    vfio_client::Error::other("workload", e.0)
}

impl Progress for Guest<'_, '_> {
    fn phase(&mut self, phase: Phase, _pending: u64) {
        self.flip.phase(phase);
    }

    fn buffer(&mut self, buffer: &mut Vec<u8>) {
        self.flip.buffer(buffer);
    }

    fn pass(&mut self, pass: &Pass) -> vfio_client::Result<()> {
        self.sync()?;
        let pages = count(self.syncs.last().map_or(0, |s| s.pages));
        self.out.line(
            "pre-copy",
            format!(
                "pass {}: {} of device state in {}, {pages} pages of guest memory",
                pass.number,
                bytes(pass.sent.bytes),
                time(pass.sent.time),
            ),
        );
        Ok(())
    }

    fn stopping(&mut self) -> vfio_client::Result<()> {
        self.halt().map_err(guest_error)
    }

    fn stopped(&mut self) -> vfio_client::Result<()> {
        let read = || -> Result<Queued> {
            let mdma = self.source.mdma()?;
            Ok(Queued {
                head: mdma.get(Reg::Head)?,
                tail: mdma.get(Reg::Tail)?,
                jobs_done: mdma.get(Reg::JobsDone)?,
            })
        };
        self.queued = read().map_err(guest_error)?;
        self.sync()?;
        self.source.container.dirty_stop()
    }
}
