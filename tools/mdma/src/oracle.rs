// SPDX-License-Identifier: GPL-2.0

//! The expected result of a job.
//!
//! A [`World`] is a copy of guest and device memory. [`World::apply`] runs a job on it in the simplest way, at once and
//! without units, so that it shares no bug with the engine.

use mdma_model::desc::{Completion, Descriptor, Error, Op, Operand, Place};
use mdma_model::list::{Entry, List, ENTRY_SIZE};

use crate::sparse::Sparse;
use std::collections::BTreeMap;

/// The memory that jobs work on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    /// Guest memory by IOVA. The caller keeps track of what is mapped.
    pub guest: Sparse,
    /// Device memory by offset.
    pub device: Sparse,
    /// Size of the device memory in bytes.
    pub memory_size: u64,
    /// Registered memory: its IOVA, by key.
    pub keys: BTreeMap<u32, u64>,
}

/// The expected completion record of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The cookie of the job.
    pub cookie: u64,
    /// How the job ends.
    pub error: Error,
    /// The result.
    pub result: u32,
    /// Bytes processed.
    pub bytes: u64,
}

impl World {
    /// Creates memory of zeroes.
    pub fn new(memory_size: u64) -> Self {
        World {
            memory_size,
            ..World::default()
        }
    }

    /// Returns a place with the IOVA of registered memory. The key must be known.
    pub fn resolve(&self, place: Place) -> Place {
        match place {
            Place::Key { key, offset } => Place::Guest(self.keys[&key].wrapping_add(offset)),
            place => place,
        }
    }

    /// Reads memory.
    pub fn read(&self, place: Place, len: usize) -> Vec<u8> {
        match self.resolve(place) {
            Place::Guest(iova) => self.guest.to_vec(iova, len),
            Place::Device(offset) => self.device.to_vec(offset, len),
            Place::Key { .. } => unreachable!("it is resolved"),
        }
    }

    /// Writes memory.
    pub fn write(&mut self, place: Place, data: &[u8]) {
        match self.resolve(place) {
            Place::Guest(iova) => self.guest.write(iova, data),
            Place::Device(offset) => self.device.write(offset, data),
            Place::Key { .. } => unreachable!("it is resolved"),
        }
    }

    /// Writes a scatter list to guest memory.
    pub fn write_list(&mut self, iova: u64, entries: &[Entry]) -> List {
        for (entry, at) in entries.iter().zip((iova..).step_by(ENTRY_SIZE)) {
            self.guest.write(at, &entry.encode());
        }
        List {
            base: iova,
            entries: entries.len() as u32,
        }
    }

    /// Returns the ranges of an operand of `len` bytes, in order. An illegal entry ends them with its error.
    pub fn ranges(
        &self,
        operand: Operand,
        len: u64,
        range: Error,
        fault: Error,
    ) -> (Vec<(Place, u64)>, Error) {
        let list = match operand {
            Operand::At(place) => return (vec![(self.resolve(place), len)], Error::None),
            Operand::List(list) => list,
        };
        let mut ranges = Vec::new();
        let mut left = len;
        for index in 0..list.entries {
            if left == 0 {
                return (ranges, Error::None);
            }
            let mut bytes = [0; ENTRY_SIZE];
            self.guest.read(list.entry_at(index), &mut bytes);
            let entry = Entry::decode(&bytes).and_then(|entry| {
                let len = entry.len.into();
                entry.place.check(len, self.memory_size, range, fault)?;
                Ok(entry)
            });
            match entry {
                Ok(entry) => {
                    let used = left.min(entry.len.into());
                    ranges.push((entry.place, used));
                    left -= used;
                }
                Err(error) => return (ranges, error),
            }
        }
        let error = if left == 0 {
            Error::None
        } else {
            Error::BadList
        };
        (ranges, error)
    }

    /// Returns the ranges that a job reads, and those that it writes.
    pub fn reads_and_writes(&self, job: &Descriptor) -> [Vec<(Place, u64)>; 2] {
        let ranges = |operand: Option<Operand>, range, fault| {
            operand.map_or(Vec::new(), |operand| {
                self.ranges(operand, job.len, range, fault).0
            })
        };
        [
            ranges(job.source(), Error::SrcRange, Error::SrcFault),
            ranges(job.destination(), Error::DstRange, Error::DstFault),
        ]
    }

    /// Runs a job of a length that fits into this process, but not a registration.
    ///
    /// All guest memory counts as mapped. If one side of the job has a list, source and destination must not overlap.
    pub fn apply(&mut self, job: &Descriptor) -> Expected {
        let mut expected = Expected {
            cookie: job.cookie,
            error: Error::None,
            result: 0,
            bytes: 0,
        };
        if let Err(error) = Descriptor::decode(&job.encode()).and(job.check(self.memory_size)) {
            expected.error = error;
            return expected;
        }

        // A job ends at the end of its shorter side.
        let mut bytes = job.len;
        let mut ranges = |operand: Option<Operand>, range, fault| {
            let Some(operand) = operand else {
                return Vec::new();
            };
            let (ranges, error) = self.ranges(operand, job.len, range, fault);
            let there = ranges.iter().map(|(_, len)| len).sum();
            if error != Error::None && (expected.error == Error::None || there < bytes) {
                expected.error = error;
                bytes = there;
            }
            ranges
        };
        let sources = ranges(job.source(), Error::SrcRange, Error::SrcFault);
        let destinations = ranges(job.destination(), Error::DstRange, Error::DstFault);
        expected.bytes = bytes;

        let mut data = match job.op {
            Op::Nop | Op::Register | Op::Deregister => Vec::new(),
            Op::Fill => job.value.to_le_bytes().repeat(job.len.div_ceil(8) as usize),
            Op::Copy | Op::Crc32c => sources
                .iter()
                .flat_map(|&(place, len)| self.read(place, len as usize))
                .collect(),
        };
        data.truncate(bytes as usize);
        if job.op == Op::Crc32c && expected.error == Error::None {
            expected.result = crc32c::crc32c(&data);
        }
        let mut rest = &data[..];
        for (place, len) in destinations {
            let (data, behind) = rest.split_at(rest.len().min(len as usize));
            self.write(place, data);
            rest = behind;
        }
        expected
    }
}

impl Expected {
    /// Compares with a completion record, except for its sequence number.
    pub fn check(&self, completion: &Completion) -> Result<(), String> {
        let found = Expected {
            cookie: completion.cookie,
            error: Error::from_raw(completion.error)
                .ok_or_else(|| format!("error code {} does not exist", completion.error))?,
            result: completion.result,
            bytes: completion.bytes,
        };
        if found == *self {
            Ok(())
        } else {
            Err(format!("expected {self:?}, found {found:?}"))
        }
    }
}
