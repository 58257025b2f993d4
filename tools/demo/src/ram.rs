// SPDX-License-Identifier: GPL-2.0

//! Guest memory: what a VMM gives to its guest, and lets devices reach.
//!
//! As in a VMM, dirty pages have two sources. type1 reports the pages that devices wrote, and this file records each
//! write of the processor, in place of KVM.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use mdma::Buffer;
use vfio_client::{Access, Container, DirtyBitmap, DmaBuffer, Mapping, Result};

/// Size of a page.
pub(crate) const PAGE: usize = 4096;

/// A range of guest memory, mapped for devices at an IOVA unrelated to its address.
#[derive(Clone, Debug)]
pub(crate) struct Ram(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    buffer: DmaBuffer,
    /// One bit for each page that the processor wrote since the last call of `take`.
    written: Vec<AtomicU64>,
}

impl Ram {
    pub(crate) fn new(container: &Container, iova: u64, size: usize) -> Result<Self> {
        let memory = Mapping::anonymous(size)
            .map_err(|e| vfio_client::Error::new("allocate guest memory", e))?;
        let buffer = DmaBuffer::of(container, iova, Arc::new(memory), Access::ReadWrite)?;
        let words = size.div_ceil(PAGE).div_ceil(64);
        Ok(Ram(Arc::new(Inner {
            buffer,
            written: (0..words).map(|_| AtomicU64::new(0)).collect(),
        })))
    }

    pub(crate) fn iova(&self) -> u64 {
        self.0.buffer.iova()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.buffer.len()
    }

    pub(crate) fn memory(&self) -> &Mapping {
        &self.0.buffer
    }

    /// Writes as the processor. It marks the page after the write: marked before, the page could be copied in between
    /// and lose the write.
    pub(crate) fn store(&self, offset: usize, data: &[u8]) {
        self.0.buffer.write(offset, data);
        if data.is_empty() {
            return;
        }
        for page in offset / PAGE..=(offset + data.len() - 1) / PAGE {
            self.0.written[page / 64].fetch_or(1 << (page % 64), Ordering::SeqCst);
        }
    }

    /// Returns the pages that the processor wrote since the last call.
    pub(crate) fn take_written(&self) -> DirtyBitmap {
        let words = self.0.written.iter();
        let words = words.map(|w| w.swap(0, Ordering::SeqCst)).collect();
        DirtyBitmap::new(self.iova(), self.len() as u64, PAGE as u64, words)
    }

    /// Copies the pages of a bitmap to the same IOVAs of another machine; returns their number.
    pub(crate) fn copy_dirty(&self, dirty: &DirtyBitmap, to: &Ram) -> u64 {
        let mut pages = 0;
        for (iova, size) in dirty.runs() {
            let at = (iova - self.iova()) as usize;
            self.memory().copy_to(at, to.memory(), at, size as usize);
            pages += size / PAGE as u64;
        }
        pages
    }
}

impl Buffer for Ram {
    fn iova(&self) -> u64 {
        Ram::iova(self)
    }

    fn size(&self) -> usize {
        self.len()
    }

    fn read(&self, offset: usize, out: &mut [u8]) {
        self.memory().read(offset, out);
    }

    fn write(&self, offset: usize, data: &[u8]) {
        self.store(offset, data);
    }

    fn load_acquire(&self, offset: usize) -> u64 {
        self.memory().load_u64(offset, Ordering::Acquire)
    }
}
