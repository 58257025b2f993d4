// SPDX-License-Identifier: GPL-2.0

//! Guest memory and device memory, for the engine.
//!
//! The device accesses the ring and the completion records all the time. So it pins their pages if it
//! can, from the first job until the queue is disabled or the device is stopped. Registered memory is
//! pinned until the guest deregisters it; see `memory`. Everything else is copied by IOVA.

use crate::memory::Memory;
use kernel::prelude::*;
use mdma_model::{
    desc::{
        Error,
        Place,
        COMPLETION_SEQUENCE,
        COMPLETION_SIZE,
        DESCRIPTOR_SIZE, //
    },
    engine,
    key::{
        Progress,
        Registration, //
    },
    queue::Ring, //
};
use migratable::{
    dma::{
        Access,
        RingMemory, //
    },
    memory::DeviceMemory,
    Device, //
};

/// The guest memory of a queue.
#[derive(Default)]
pub(crate) struct Pages {
    descriptors: Option<RingMemory>,
    completions: Option<RingMemory>,
}

impl Pages {
    /// Unpins the pages.
    pub(crate) fn release(&mut self) {
        *self = Self::default();
    }
}

/// The bus of one device.
pub(crate) struct Bus<'a, T> {
    /// The device.
    pub(crate) dev: &'a Device<T>,
    /// The pages of the queue.
    pub(crate) pages: &'a mut Pages,
    /// [`engine::UNIT`] bytes, for data that cannot be copied directly.
    pub(crate) bounce: &'a mut [u8],
    /// Registered memory.
    pub(crate) memory: &'a mut Memory,
    /// Result of copying a completion record in advance.
    pub(crate) recorded: Option<Result<(), Error>>,
}

impl<T> Bus<'_, T> {
    /// Returns whether completion records are copied, which may wait for a page fault of the user.
    pub(crate) fn copies_records(&self) -> bool {
        matches!(&self.pages.completions, Some(memory) if !memory.is_pinned())
    }

    /// Copies the completion record at `index` in advance, its sequence last, because
    /// [`complete`](engine::Bus::complete) must not wait.
    pub(crate) fn record(&mut self, ring: &Ring, index: u32, record: &[u8; COMPLETION_SIZE]) {
        let (dma, at) = (self.dev.dma(), ring.completion_at(index));
        let (body, sequence) = record.split_at(COMPLETION_SEQUENCE);
        let memory = self.pages.completions.as_ref();
        let written = memory.ok_or(EINVAL).and_then(|memory| {
            memory.write_at(dma, at, body)?;
            memory.write_at(dma, at + COMPLETION_SEQUENCE, sequence)
        });
        self.recorded = Some(written.map_err(|_| Error::CompletionFault));
    }

    /// Returns the device memory.
    fn device_memory(&self) -> Result<&DeviceMemory, Error> {
        self.dev.memory().ok_or(Error::MemoryFault)
    }

    /// Reads into the first `len` bytes of the bounce buffer.
    fn read(&mut self, src: Place, len: usize) -> Result<(), Error> {
        let buf = self.bounce.get_mut(..len).ok_or(Error::BadLength)?;
        match src {
            Place::Guest(iova) => self.dev.dma().read(iova, buf).map_err(|_| Error::SrcFault),
            Place::Device(offset) => {
                let memory = self.dev.memory().ok_or(Error::MemoryFault)?;
                memory.read(offset, buf).map_err(|_| Error::MemoryFault)
            }
            Place::Key { key, offset } => self.memory.read(key, offset, buf),
        }
    }

    /// Writes the first `len` bytes of the bounce buffer.
    fn write(&mut self, dst: Place, len: usize) -> Result<(), Error> {
        let buf = self.bounce.get(..len).ok_or(Error::BadLength)?;
        match dst {
            Place::Guest(iova) => {
                let dma = self.dev.dma();
                dma.write(iova, buf).map_err(|_| Error::DstFault)
            }
            Place::Key { key, offset } => self.memory.write(key, offset, buf),
            Place::Device(offset) => self
                .device_memory()?
                .write(offset, buf)
                .map_err(|_| Error::MemoryFault),
        }
    }
}

impl<T> engine::Bus for Bus<'_, T> {
    fn prepare(&mut self, ring: &Ring) -> Result<(), Error> {
        let pages = &mut *self.pages;
        let (iova, len) = (ring.base(), ring.descriptors_len());
        (self
            .dev
            .access_ring(&mut pages.descriptors, iova, len, Access::Read))
        .map_err(|_| Error::RingFault)?;
        let (iova, len) = (ring.completions(), ring.completions_len());
        (self
            .dev
            .access_ring(&mut pages.completions, iova, len, Access::ReadWrite))
        .map_err(|_| Error::CompletionFault)
    }

    fn fetch(&mut self, ring: &Ring, index: u32) -> Result<[u8; DESCRIPTOR_SIZE], Error> {
        let range = self.pages.descriptors.as_ref().ok_or(Error::RingFault)?;
        let mut bytes = [0; DESCRIPTOR_SIZE];
        range
            .read_at(self.dev.dma(), ring.descriptor_at(index), &mut bytes)
            .map_err(|_| Error::RingFault)?;
        Ok(bytes)
    }

    fn complete(
        &mut self,
        ring: &Ring,
        index: u32,
        record: &[u8; COMPLETION_SIZE],
    ) -> Result<(), Error> {
        if let Some(recorded) = self.recorded.take() {
            return recorded;
        }
        let memory = self.pages.completions.as_ref();
        let memory = memory.ok_or(Error::CompletionFault)?;
        let at = ring.completion_at(index);
        let (body, sequence) = record.split_last_chunk().ok_or(Error::CompletionFault)?;

        memory
            .write_at_pinned(at, body)
            // Ordered after the writes before it.
            .and_then(|()| {
                memory.write_u64_pinned(at + COMPLETION_SEQUENCE, u64::from_le_bytes(*sequence))
            })
            .map_err(|_| Error::CompletionFault)
    }

    fn check_key(&mut self, key: u32, offset: u64, len: u64, write: bool) -> Result<(), Error> {
        self.memory.check(key, offset, len, write)
    }

    fn register(&mut self, memory: &Registration) -> Result<Progress, Error> {
        self.memory.register(self.dev, memory)
    }

    fn deregister(&mut self, key: u64) -> Result<bool, Error> {
        self.memory.deregister(key)
    }

    fn entries(&mut self, iova: u64, bytes: &mut [u8]) -> Result<(), Error> {
        let dma = self.dev.dma();
        dma.read(iova, bytes).map_err(|_| Error::ListFault)
    }

    fn copy(&mut self, src: Place, dst: Place, len: usize) -> Result<(), Error> {
        let dma = self.dev.dma();
        match (src, dst) {
            (Place::Device(offset), Place::Guest(iova)) => self
                .device_memory()?
                .to_guest(dma, offset, iova, len)
                .map_err(|_| Error::DstFault),
            (Place::Device(from), Place::Key { key, offset }) => {
                let memory = self.memory.find(key, offset, len, true)?;
                self.device_memory()?
                    .to_registered(memory, offset, from, len)
                    .map_err(|_| Error::KeyUnmapped)
            }
            (Place::Key { key, offset }, Place::Device(to)) => {
                let memory = self.memory.find(key, offset, len, false)?;
                self.device_memory()?
                    .from_registered(memory, offset, to, len)
                    .map_err(|error| match error {
                        error if error == ENOMEM => Error::MemoryFault,
                        _ => Error::KeyUnmapped,
                    })
            }
            (Place::Guest(iova), Place::Device(offset)) => self
                .device_memory()?
                .from_guest(dma, iova, offset, len)
                .map_err(|error| match error {
                    error if error == ENOMEM => Error::MemoryFault,
                    _ => Error::SrcFault,
                }),
            // The ranges may overlap.
            (Place::Device(_), Place::Device(_)) | (Place::Guest(_) | Place::Key { .. }, _) => {
                self.read(src, len)?;
                self.write(dst, len)
            }
        }
    }

    fn fill(&mut self, dst: Place, value: u64, len: usize) -> Result<(), Error> {
        if let Place::Key { key, offset } = dst {
            return self.memory.fill(key, offset, value, len);
        }
        let buf = self.bounce.get_mut(..len).ok_or(Error::BadLength)?;
        let value = value.to_le_bytes();
        let mut words = buf.chunks_exact_mut(value.len());
        // The length is a constant, so this compiles to a store.
        for word in &mut words {
            word.copy_from_slice(&value);
        }
        let rest = words.into_remainder();
        rest.copy_from_slice(&value[..rest.len()]);
        self.write(dst, len)
    }

    fn crc32c(&mut self, src: Place, crc: u32, len: usize) -> Result<u32, Error> {
        if let Place::Key { key, offset } = src {
            return self.memory.crc32c(key, offset, crc, len);
        }
        self.read(src, len)?;
        let buf = self.bounce.get(..len).ok_or(Error::BadLength)?;
        Ok(migratable::crc32c(crc, buf))
    }
}
