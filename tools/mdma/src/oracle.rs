// SPDX-License-Identifier: GPL-2.0

//! What a job must result in.
//!
//! A [`World`] is a copy of guest and device memory. [`World::apply`] does a job on it the obvious
//! way, all at once and without units, so that it shares no mistake with the engine.

use crate::desc::{Completion, Descriptor, Error, Op, Place};
use crate::sparse::Sparse;

/// The memory that jobs work on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    /// Guest memory by IOVA. What is mapped is for the caller to know.
    pub guest: Sparse,
    /// Device memory by offset.
    pub device: Sparse,
    /// Size of the device memory in bytes.
    pub memory_size: u64,
}

/// What the completion record of a job must say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The cookie of the job.
    pub cookie: u64,
    /// How it ends.
    pub error: Error,
    /// The result.
    pub crc: u32,
    /// Bytes processed.
    pub bytes: u64,
}

impl World {
    /// Memory of zeroes.
    pub fn new(memory_size: u64) -> Self {
        World {
            memory_size,
            ..World::default()
        }
    }

    /// Reads memory.
    pub fn read(&self, place: Place, len: usize) -> Vec<u8> {
        match place {
            Place::Guest(iova) => self.guest.to_vec(iova, len),
            Place::Device(offset) => self.device.to_vec(offset, len),
        }
    }

    /// Writes memory.
    pub fn write(&mut self, place: Place, data: &[u8]) {
        match place {
            Place::Guest(iova) => self.guest.write(iova, data),
            Place::Device(offset) => self.device.write(offset, data),
        }
    }

    /// Does a job of a length that fits into this process.
    ///
    /// All guest memory counts as mapped.
    pub fn apply(&mut self, job: &Descriptor) -> Expected {
        let mut expected = Expected {
            cookie: job.cookie,
            error: Error::None,
            crc: 0,
            bytes: 0,
        };
        if let Err(error) = Descriptor::decode(&job.encode()).and(job.check(self.memory_size)) {
            expected.error = error;
            return expected;
        }

        let len = usize::try_from(job.len).expect("a length that fits into memory");
        expected.bytes = job.len;
        match (job.op, job.source(), job.destination()) {
            (Op::Copy, Some(src), Some(dst)) => {
                let data = self.read(src, len);
                self.write(dst, &data);
            }
            (Op::Fill, _, Some(dst)) => {
                let data: Vec<u8> = job
                    .value
                    .to_le_bytes()
                    .into_iter()
                    .cycle()
                    .take(len)
                    .collect();
                self.write(dst, &data);
            }
            (Op::Crc32c, Some(src), _) => expected.crc = crc32c::crc32c(&self.read(src, len)),
            _ => (),
        }
        expected
    }
}

impl Expected {
    /// Compares with what the device wrote; the sequence number is not looked at.
    pub fn check(&self, completion: &Completion) -> Result<(), String> {
        let found = Expected {
            cookie: completion.cookie,
            error: Error::from_raw(completion.error)
                .ok_or_else(|| format!("error code {} does not exist", completion.error))?,
            crc: completion.crc,
            bytes: completion.bytes,
        };
        if found == *self {
            Ok(())
        } else {
            Err(format!("expected {self:?}, found {found:?}"))
        }
    }
}
