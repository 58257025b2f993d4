// SPDX-License-Identifier: GPL-2.0

//! Blocks whose mapping changes, as a driver with streaming DMA does it below an IOMMU: the device reaches a block at another
//! address from then on, and nothing any more at the one before.

use mdma::{Bar, Buffer, Place};

use crate::event::{Wrong, WrongResult};
use crate::footprint::Range;
use crate::parts::Window;
use crate::workload::Workload;

impl<B: Bar, M: Buffer, W: Window> Workload<B, M, W> {
    /// Maps a random block anew, unless a job in flight uses it, or it must stay where it is.
    pub(crate) fn remap(&mut self) -> WrongResult {
        let Some(remap) = &mut self.remap else {
            return Ok(());
        };
        let at = self.rng.usize(..self.blocks.len());
        let old = self.blocks[at].iova();
        let all = Range::new(Place::Guest(old), self.blocks[at].size() as u64);
        let in_use = self.in_flight.iter().any(|job| {
            let mut ranges = job.footprint.reads.iter().chain(&job.footprint.writes);
            ranges.any(|range| range.overlaps(&all))
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
            self.jobs.guest.moved(old, new);
            self.totals.moved += 1;
        }
        Ok(())
    }
}
