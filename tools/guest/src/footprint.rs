// SPDX-License-Identifier: GPL-2.0

//! The memory that jobs in flight use.
//!
//! The processor must not access what a job writes, and must not write what a job reads. Jobs may overlap each other in
//! any way, because the device runs them in order.

use mdma::{Entry, Place};

/// A range of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Its start.
    pub place: Place,
    /// Its size in bytes.
    pub len: u64,
}

/// Returns the place `offset` bytes further on.
pub fn plus(place: Place, offset: u64) -> Place {
    match place {
        Place::Guest(iova) => Place::Guest(iova + offset),
        Place::Device(at) => Place::Device(at + offset),
        Place::Key { key, offset: at } => Place::Key {
            key,
            offset: at + offset,
        },
    }
}

/// What one job reads and writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Ranges read.
    pub reads: Vec<Range>,
    /// Ranges written.
    pub writes: Vec<Range>,
}

impl Range {
    /// A range.
    pub fn new(place: Place, len: u64) -> Self {
        Range { place, len }
    }

    /// Returns the entry of a scatter list.
    pub fn entry(&self) -> Entry {
        Entry {
            place: self.place,
            len: u32::try_from(self.len).expect("a range of less than 4 GiB"),
        }
    }

    fn start(&self) -> (bool, u64) {
        match self.place {
            Place::Guest(iova) => (false, iova),
            Place::Device(offset) => (true, offset),
            Place::Key { .. } => unreachable!("footprints have IOVAs"),
        }
    }

    /// Returns whether two ranges have a byte in common.
    pub fn overlaps(&self, other: &Range) -> bool {
        let ((device, a), (other_device, b)) = (self.start(), other.start());
        device == other_device && a < b + other.len && b < a + self.len
    }

    /// Returns the parts outside `other`.
    fn without(&self, other: &Range) -> impl Iterator<Item = Range> {
        let mut left = [None; 2];
        if self.overlaps(other) {
            let ((_, a), (_, b)) = (self.start(), other.start());
            if b > a {
                left[0] = Some(Range::new(self.place, b - a));
            }
            let (end, other_end) = (a + self.len, b + other.len);
            if other_end < end {
                left[1] = Some(Range::new(plus(self.place, other_end - a), end - other_end));
            }
        } else {
            left[0] = Some(*self);
        }
        left.into_iter().flatten()
    }

    /// Returns the parts outside all of `others`.
    pub fn without_all<'a>(self, others: impl Iterator<Item = &'a Range>) -> Vec<Range> {
        let mut left = vec![self];
        for other in others {
            left = left.iter().flat_map(|range| range.without(other)).collect();
        }
        left
    }
}

impl Footprint {
    /// Returns whether the processor must wait before it reads `range`.
    pub fn blocks_read(&self, range: &Range) -> bool {
        self.writes.iter().any(|other| other.overlaps(range))
    }

    /// Returns whether the processor must wait before it writes `range`.
    pub fn blocks_write(&self, range: &Range) -> bool {
        self.blocks_read(range) || self.reads.iter().any(|other| other.overlaps(range))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest(at: u64, len: u64) -> Range {
        Range::new(Place::Guest(at), len)
    }

    #[test]
    fn the_two_memories_are_apart() {
        let device = Range::new(Place::Device(0), 100);
        assert!(!guest(0, 100).overlaps(&device));
        assert!(device.overlaps(&Range::new(Place::Device(99), 1)));
        assert!(!device.overlaps(&Range::new(Place::Device(100), 1)));
    }

    #[test]
    fn what_is_left_is_what_no_other_covers() {
        // Compares with a byte-by-byte computation, for every pair of ranges in a small space.
        for a in 0..6 {
            for len in 1..6 {
                for b in 0..8 {
                    for other in 1..6 {
                        let left = guest(a, len).without_all([guest(b, other)].iter());
                        let bytes: Vec<u64> = left
                            .iter()
                            .flat_map(|r| (0..r.len).map(|i| r.start().1 + i))
                            .collect();
                        let expected: Vec<u64> = (a..a + len)
                            .filter(|at| !(b..b + other).contains(at))
                            .collect();
                        assert_eq!(bytes, expected, "{a}+{len} without {b}+{other}");
                    }
                }
            }
        }
    }
}
