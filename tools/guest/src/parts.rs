// SPDX-License-Identifier: GPL-2.0

//! A device, as the workload uses it.

use mdma::{Bar, Buffer};

/// Device memory, as the processor sees it.
pub trait Window {
    /// Copies bytes out.
    fn read(&self, offset: u64, out: &mut [u8]);

    /// Copies bytes in.
    fn write(&self, offset: u64, data: &[u8]);
}

/// A device, and memory for its DMA.
#[derive(Debug)]
pub struct Parts<B, M, W> {
    /// BAR 0.
    pub registers: B,
    /// BAR 2.
    pub window: W,
    /// Blocks of guest memory. The first holds the queue, the second the scatter lists.
    pub blocks: Vec<M>,
}

impl<B: Bar, M: Buffer, W: Window> Parts<B, M, W> {
    /// Returns the size of all blocks.
    pub fn size(&self) -> u64 {
        self.blocks.iter().map(|block| block.size() as u64).sum()
    }
}
