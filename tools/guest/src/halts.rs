// SPDX-License-Identifier: GPL-2.0

//! Jobs that halt the queue, and the restart after them.

use std::time::Duration;

use mdma::desc::Error;
use mdma::list::ENTRY_SIZE;
use mdma::regs::{Reg, STATUS_ENABLED, STATUS_HALTED};
use mdma::{job, Bar, Buffer, List, Place};

use crate::event::WrongResult;
use crate::footprint::Footprint;
use crate::parts::Window;
use crate::workload::{Workload, RING_ORDER};

/// The longest time in milliseconds that a queue stays halted.
const LINGER: u64 = 300;

impl<B: Bar, M: Buffer, W: Window> Workload<B, M, W> {
    /// Submits an invalid job, and one after it that must not run.
    pub(crate) fn misbehave(&mut self) -> WrongResult {
        let size = self.world.memory_size;
        let job = match self.rng.u8(..3) {
            0 => job::crc32c(Place::Device(size - 3), 4),
            1 => job::fill(Place::Device(size), 0, self.rng.u64(1..=1 << 20)),
            _ => {
                // A list with an entry of no bytes.
                let iova = self.lists;
                self.write_lists(iova, &[0; ENTRY_SIZE]);
                let list = List {
                    base: iova,
                    entries: 1,
                };
                job::crc32c(list, 1)
            }
        };
        // Submit nothing else until it has halted the queue, and for a while after.
        self.halted = Some(Duration::MAX);
        self.submit(job, Footprint::default())?;
        self.submit(job::nop(), Footprint::default())?;
        self.queue.ring_doorbell()?;
        Ok(())
    }

    /// Checks that the queue has halted, with a job that did not begin.
    pub(crate) fn expect_halt(&mut self, error: Error, now: Duration) -> WrongResult {
        let last = self.queue.ring().entries() - 1;
        let index = u64::from(self.queue.head().wrapping_sub(1) & last);
        let tail = self.queue.tail().into();
        self.expect(&[
            (Reg::Status, (STATUS_ENABLED | STATUS_HALTED).into()),
            (Reg::Error, (error as u32).into()),
            (Reg::ErrorIndex, index),
            (Reg::Head, index),
            (Reg::Tail, tail),
            (Reg::JobsDone, self.jobs_done),
        ])?;
        self.in_flight.clear();
        self.totals.halts += 1;
        self.halted = Some(now + Duration::from_millis(self.rng.u64(..LINGER)));
        Ok(())
    }

    /// Restarts a halted queue, with a ring of another size.
    pub(crate) fn restart(&mut self) -> WrongResult {
        let order = self.rng.u32(2..=RING_ORDER);
        self.queue.restart(order)?;
        self.halted = None;
        Ok(())
    }
}
