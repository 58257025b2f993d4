// SPDX-License-Identifier: GPL-2.0

//! Comparison with the model.

use mdma::regs::{self, Reg, INT_ALL};
use mdma::{Bar, Buffer, Place};

use crate::event::{Losses, Wrong, WrongResult};
use crate::footprint::{plus, Range};
use crate::parts::Window;
use crate::workload::Workload;

/// The unit in which losses are counted.
const PAGE: u64 = 4096;
/// Bytes per comparison.
const STEP: u64 = 256 << 10;

impl<B: Bar, M: Buffer, W: Window> Workload<B, M, W> {
    /// Compares memory that no job in flight writes.
    pub(crate) fn compare(&self, range: &Range, why: &str) -> WrongResult {
        for at in (0..range.len).step_by(STEP as usize) {
            let place = plus(range.place, at);
            let mut found = vec![0; STEP.min(range.len - at) as usize];
            let memory = match place {
                Place::Guest(iova) => {
                    let (block, offset) = self.block(iova);
                    block.read(offset, &mut found);
                    "guest memory"
                }
                Place::Device(offset) => {
                    self.window.read(offset, &mut found);
                    "device memory"
                }
                Place::Key { .. } => unreachable!("footprints have IOVAs"),
            };
            let expected = self.world.read(place, found.len());
            if expected != found {
                return Err(Wrong::bytes(
                    format!("{memory}, {why}"),
                    place,
                    &expected,
                    &found,
                ));
            }
        }
        Ok(())
    }

    /// Compares everything: all blocks, all device memory, all registers. No job may be in flight.
    pub fn check(&mut self) -> WrongResult {
        assert!(self.idle(), "checked with jobs in flight");
        self.check_registers()?;
        for range in &self.everything() {
            self.compare(range, "looked at as a whole")?;
            self.totals.checked += range.len;
        }
        Ok(())
    }

    /// As [`check`](Self::check), but counts the pages that differ, and repairs them.
    pub fn mend(&mut self, losses: &mut Losses) -> WrongResult {
        assert!(self.idle(), "mended with jobs in flight");
        self.check_registers()?;
        for range in &self.everything() {
            for at in (0..range.len).step_by(PAGE as usize) {
                let page = Range::new(plus(range.place, at), PAGE.min(range.len - at));
                if self.compare(&page, "").is_ok() {
                    continue;
                }
                let expected = self.world.read(page.place, page.len as usize);
                match page.place {
                    Place::Guest(iova) => {
                        let (block, offset) = self.block(iova);
                        block.write(offset, &expected);
                        losses.guest_pages += 1;
                    }
                    Place::Device(offset) => {
                        self.window.write(offset, &expected);
                        losses.device_pages += 1;
                    }
                    Place::Key { .. } => unreachable!("footprints have IOVAs"),
                }
            }
            self.totals.checked += range.len;
        }
        Ok(())
    }

    /// Returns all memory.
    fn everything(&self) -> Vec<Range> {
        let blocks = self.blocks.iter();
        let mut ranges: Vec<Range> = blocks
            .map(|block| Range::new(Place::Guest(block.iova()), block.size() as u64))
            .collect();
        // The device that writes the rest compares it.
        ranges.push(Range::new(Place::Device(0), self.own));
        ranges
    }

    fn check_registers(&self) -> WrongResult {
        let ring = self.queue.ring();
        let index = self.queue.tail().into();
        self.expect(&[
            (Reg::Id, regs::ID.into()),
            (Reg::Version, regs::VERSION.into()),
            (Reg::Caps, regs::CAPS.into()),
            (Reg::MemSize, self.world.memory_size),
            (Reg::Control, regs::CONTROL_ENABLE.into()),
            (Reg::Status, regs::STATUS_ENABLED.into()),
            (Reg::Error, 0),
            (Reg::IntMask, INT_ALL.into()),
            (Reg::RingBase, ring.base()),
            (Reg::RingOrder, ring.entries().trailing_zeros().into()),
            (Reg::CompletionBase, ring.completions()),
            (Reg::Head, index),
            (Reg::Tail, index),
            (Reg::JobsDone, self.jobs_done),
            (Reg::BytesDone, self.bytes_done),
            (Reg::Scratch, self.scratch),
            (Reg::Throttle, self.throttle.into()),
        ])
    }

    /// Compares registers.
    pub(crate) fn expect(&self, registers: &[(Reg, u64)]) -> WrongResult {
        for (reg, expected) in registers {
            let found = self.queue.mdma().get(*reg)?;
            if found != *expected {
                let what = format!("register {}", reg.row().name);
                let (expected, found) = (format!("{expected:#x}"), format!("{found:#x}"));
                return Err(Wrong::values(what, expected, found));
            }
        }
        Ok(())
    }
}
