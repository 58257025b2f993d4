// SPDX-License-Identifier: GPL-2.0

//! Blocks whose mapping changes, as a driver with streaming DMA does it below an IOMMU: the device reaches a block at another
//! address from then on, and nothing any more at the one before. It only reads these blocks: see qemu.rst.

use mdma::{job, Bar, Buffer, Place};

use crate::event::{Wrong, WrongResult};
use crate::footprint::{Footprint, Range};
use crate::parts::Window;
use crate::workload::Workload;

/// The most bytes that the device reads of a block that has moved.
const READ: u64 = 16 << 10;

impl<B: Bar, M: Buffer, W: Window> Workload<B, M, W> {
    /// Maps a random block again, and has the device read it there, unless a job in flight reads it, or it must stay where it
    /// is.
    pub(crate) fn remap(&mut self) -> WrongResult {
        // One for this job, and one for others.
        if self.queue.room() < 2 {
            return Ok(());
        }
        let Some(remap) = &mut self.remap else {
            return Ok(());
        };
        let at = self.rng.usize(..self.blocks.len());
        let old = self.blocks[at].iova();
        let all = Range::new(Place::Guest(old), self.blocks[at].size() as u64);
        let in_use = self.in_flight.iter().any(|job| {
            let mut reads = job.footprint.reads.iter();
            reads.any(|range| range.overlaps(&all))
        });
        if in_use || self.stays.contains(&old) {
            return Ok(());
        }
        let block = remap(self.blocks.remove(at))
            .map_err(|e| Wrong::new(format!("a block cannot be mapped: {e}")))?;
        let new = block.iova();
        let place = self.blocks.partition_point(|other| other.iova() < new);
        self.blocks.insert(place, block);
        if new != old {
            let contents = self.world.read(all.place, all.len as usize);
            self.world.write(Place::Guest(new), &contents);
            self.totals.moved += 1;
        }
        let read = Range::new(Place::Guest(new), all.len.min(READ));
        let footprint = Footprint {
            reads: vec![read],
            writes: Vec::new(),
        };
        self.submit(job::crc32c(read.place, read.len).interrupt(), footprint)
    }
}
