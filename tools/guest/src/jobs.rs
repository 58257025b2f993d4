// SPDX-License-Identifier: GPL-2.0

//! Random jobs: any operation in any direction. Most are small, of any alignment.

use fastrand::Rng;
use mdma::{Op, Place};

use crate::footprint::{plus, Footprint, Range};

/// Size in bytes of the largest job: three units of the engine.
const LARGEST: u64 = 192 << 10;
/// Parts into which the device memory in use is divided, spread over all of it.
const WINDOWS: u64 = 16;
/// The most entries of a scatter list: more than the device reads at once.
pub const MAX_ENTRIES: usize = 48;
/// Parts begin and end at page boundaries.
const PAGE: u64 = 4096;

/// The memory that jobs may use.
#[derive(Clone, Debug)]
pub struct Area {
    ranges: Vec<Range>,
}

impl Area {
    /// Ranges of guest memory.
    pub fn guest(blocks: impl Iterator<Item = (u64, u64)>) -> Self {
        let ranges = blocks.map(|(iova, len)| Range::new(Place::Guest(iova), len));
        Area {
            ranges: ranges.collect(),
        }
    }

    /// Device memory: `used` bytes of `size`, including its first and its last page.
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

    /// Returns all of it.
    pub fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    /// Picks a part of it, of at most `len` bytes.
    pub fn pick(&self, rng: &mut Rng, len: u64) -> Range {
        let within = self.ranges[rng.usize(..self.ranges.len())];
        let len = len.min(within.len);
        Range::new(plus(within.place, rng.u64(..=within.len - len)), len)
    }
}

/// A planned job.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The operation.
    pub op: Op,
    /// Its source.
    pub src: Side,
    /// Its destination.
    pub dst: Side,
    /// Bytes to process.
    pub len: u64,
}

/// The source or destination of a job.
#[derive(Clone, Debug, Default)]
pub struct Side {
    /// The ranges, in order. They may hold more bytes than the job. Only a list may have more than one.
    pub ranges: Vec<Range>,
    /// Whether it is submitted as a scatter list.
    pub list: bool,
}

impl Side {
    fn size(&self) -> u64 {
        self.ranges.iter().map(|range| range.len).sum()
    }

    /// Returns the ranges, in order, that a job of `len` bytes uses.
    fn used(&self, len: u64) -> Vec<Range> {
        let mut left = len;
        let ranges = self.ranges.iter().map(|range| {
            let used = range.len.min(left);
            left -= used;
            Range {
                len: used,
                ..*range
            }
        });
        ranges.filter(|range| range.len > 0).collect()
    }
}

impl Plan {
    /// Returns what the job reads and writes.
    pub fn footprint(&self) -> Footprint {
        Footprint {
            reads: self.src.used(self.len),
            writes: self.dst.used(self.len),
        }
    }
}

/// A generator of jobs.
#[derive(Clone, Debug)]
pub struct Jobs {
    /// Guest memory.
    pub guest: Area,
    /// Device memory.
    pub device: Area,
}

impl Jobs {
    /// Picks a length from one byte up. Small ones are as likely as large ones.
    fn len(rng: &mut Rng) -> u64 {
        let limit = match rng.u8(..4) {
            0 => 64,
            1 => 4096,
            2 => 32 << 10,
            _ => LARGEST,
        };
        rng.u64(1..=limit)
    }

    /// Picks memory of either kind, of at most `len` bytes.
    pub fn place(&self, rng: &mut Rng, len: u64) -> Range {
        if rng.bool() {
            self.guest.pick(rng, len)
        } else {
            self.device.pick(rng, len)
        }
    }

    /// Picks memory for at most `len` bytes, as one range or as a scatter list.
    fn side(&self, rng: &mut Rng, len: u64) -> Side {
        if rng.u8(..3) > 0 {
            let ranges = vec![self.place(rng, len)];
            return Side {
                ranges,
                list: false,
            };
        }
        let mut ranges = Vec::new();
        let mut left = len;
        let count = rng.usize(1..=MAX_ENTRIES);
        // Some lists hold more bytes than the job.
        while ranges.len() < count && (left > 0 || rng.u8(..8) == 0) {
            let piece = rng.u64(1..=2 * len / count as u64 + 1).min(left.max(1));
            let range = self.place(rng, piece);
            left = left.saturating_sub(range.len);
            ranges.push(range);
        }
        Side { ranges, list: true }
    }

    /// Makes a job.
    pub fn random(&self, rng: &mut Rng) -> Plan {
        let mut len = Self::len(rng);
        let none = Side::default();
        match rng.u8(..16) {
            0 => Plan {
                op: Op::Nop,
                src: none.clone(),
                dst: none,
                len: 0,
            },
            1..=9 => loop {
                let src = self.side(rng, len);
                let dst = self.side(rng, src.size().min(len));
                len = len.min(src.size()).min(dst.size());
                // With lists the result is undefined if the job's two sides overlap.
                let plain = !src.list && !dst.list;
                let changed = |range: &Range| dst.ranges.iter().any(|other| other.overlaps(range));
                if plain || !src.ranges.iter().any(changed) {
                    break Plan {
                        op: Op::Copy,
                        src,
                        dst,
                        len,
                    };
                }
            },
            10..=13 => {
                let dst = self.side(rng, len);
                let len = len.min(dst.size());
                Plan {
                    op: Op::Fill,
                    src: none,
                    dst,
                    len,
                }
            }
            _ => {
                let src = self.side(rng, len);
                let len = len.min(src.size());
                Plan {
                    op: Op::Crc32c,
                    src,
                    dst: none,
                    len,
                }
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
        let (mut crossing, mut lists, mut long) = (0, 0, 0);
        for _ in 0..20_000 {
            let plan = jobs.random(&mut rng);
            let footprint = plan.footprint();
            for range in plan.src.ranges.iter().chain(&plan.dst.ranges) {
                assert!(
                    inside(&jobs.guest, range) || inside(&jobs.device, range),
                    "{range:?}"
                );
                crossing += u64::from(range.len > PAGE);
            }
            for (side, used) in [
                (&plan.src, &footprint.reads),
                (&plan.dst, &footprint.writes),
            ] {
                assert!(side.list || side.ranges.len() <= 1);
                assert!(side.ranges.len() <= MAX_ENTRIES);
                assert!(
                    side.ranges.is_empty() || used.iter().map(|r| r.len).sum::<u64>() == plan.len
                );
                lists += u64::from(side.list);
                long += u64::from(used.len() > 32);
            }
        }
        assert!(
            crossing > 1000 && lists > 1000 && long > 10,
            "{crossing} {lists} {long}"
        );
    }
}
