// SPDX-License-Identifier: GPL-2.0

//! Random jobs: any operation in any direction, most of them small, of any alignment.

use fastrand::Rng;
use mdma::{job, Descriptor, Place};

use crate::footprint::{plus, Footprint, Range};

/// Largest job in bytes: three units of the engine.
const LARGEST: u64 = 192 << 10;
/// Parts that the device memory in use is divided into, spread over all of it.
const WINDOWS: u64 = 16;
/// Parts begin and end at pages.
const PAGE: u64 = 4096;

/// The memory that jobs may use.
#[derive(Clone, Debug)]
pub struct Area {
    ranges: Vec<Range>,
}

impl Area {
    /// Guest memory: these ranges of it.
    pub fn guest(blocks: impl Iterator<Item = (u64, u64)>) -> Self {
        let ranges = blocks.map(|(iova, len)| Range::new(Place::Guest(iova), len));
        Area {
            ranges: ranges.collect(),
        }
    }

    /// Device memory: `used` bytes of `size`, its first and its last page among them.
    pub fn device(size: u64, used: u64) -> Self {
        let windows = WINDOWS.min(size / PAGE);
        let len = (used.min(size) / windows / PAGE * PAGE).max(PAGE);
        let at = |i: u64| (size - len) / PAGE * i / (windows - 1).max(1) * PAGE;
        Area {
            ranges: (0..windows)
                .map(|i| Range::new(Place::Device(at(i)), len))
                .collect(),
        }
    }

    /// All of it.
    pub fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    /// Some part of it, of `len` bytes at most.
    pub fn pick(&self, rng: &mut Rng, len: u64) -> Range {
        let within = self.ranges[rng.usize(..self.ranges.len())];
        let len = len.min(within.len);
        Range::new(plus(within.place, rng.u64(..=within.len - len)), len)
    }
}

/// Where jobs come from.
#[derive(Clone, Debug)]
pub struct Jobs {
    /// Guest memory.
    pub guest: Area,
    /// Device memory.
    pub device: Area,
}

impl Jobs {
    /// A length: from a byte up, small ones as often as large ones.
    pub fn len(rng: &mut Rng) -> u64 {
        let limit = match rng.u8(..4) {
            0 => 64,
            1 => 4096,
            2 => 32 << 10,
            _ => LARGEST,
        };
        rng.u64(1..=limit)
    }

    /// Memory of either kind, of `len` bytes at most.
    pub fn place(&self, rng: &mut Rng, len: u64) -> Range {
        if rng.bool() {
            self.guest.pick(rng, len)
        } else {
            self.device.pick(rng, len)
        }
    }

    /// A job, and what it reads and writes.
    pub fn random(&self, rng: &mut Rng) -> (Descriptor, Footprint) {
        let len = Self::len(rng);
        match rng.u8(..16) {
            0 => (job::nop(), Footprint::default()),
            1..=9 => {
                let (src, dst) = (self.place(rng, len), self.place(rng, len));
                let len = src.len.min(dst.len);
                let footprint = Footprint {
                    reads: vec![Range { len, ..src }],
                    writes: vec![Range { len, ..dst }],
                };
                (job::copy(src.place, dst.place, len), footprint)
            }
            10..=13 => {
                let dst = self.place(rng, len);
                let footprint = Footprint {
                    reads: vec![],
                    writes: vec![dst],
                };
                (job::fill(dst.place, rng.u64(..), dst.len), footprint)
            }
            _ => {
                let src = self.place(rng, len);
                let footprint = Footprint {
                    reads: vec![src],
                    writes: vec![],
                };
                (job::crc32c(src.place, src.len), footprint)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inside(area: &Area, range: &Range) -> bool {
        let end = plus(range.place, range.len - 1);
        area.ranges().iter().any(|whole| {
            let last = Range::new(end, 1);
            whole.overlaps(&Range::new(range.place, 1)) && whole.overlaps(&last)
        })
    }

    #[test]
    fn device_memory_is_used_from_end_to_end() {
        for (size, used) in [
            (16 << 20, 16 << 20),
            (1 << 30, 16 << 20),
            (1 << 20, 64 << 10),
            (4096, 1),
        ] {
            let area = Area::device(size, used);
            assert_eq!(area.ranges()[0].place, Place::Device(0));
            let last = area.ranges()[area.ranges().len() - 1];
            assert_eq!(plus(last.place, last.len), Place::Device(size));
        }
    }

    #[test]
    fn jobs_stay_inside() {
        let jobs = Jobs {
            guest: Area::guest([(0x10_0000, 0x1_0000), (0x40_0000, 0x4_0000)].into_iter()),
            device: Area::device(1 << 20, 512 << 10),
        };
        let mut rng = Rng::with_seed(1);
        let mut crossing = 0;
        for _ in 0..20_000 {
            let (job, footprint) = jobs.random(&mut rng);
            for range in footprint.reads.iter().chain(&footprint.writes) {
                assert_eq!(range.len, job.len);
                assert!(
                    inside(&jobs.guest, range) || inside(&jobs.device, range),
                    "{range:?}"
                );
                crossing += u64::from(range.len > PAGE);
            }
        }
        assert!(crossing > 1000);
    }
}
