// SPDX-License-Identifier: GPL-2.0

//! A device, as the workload uses it.

use std::io;

use mdma::{Bar, Buffer};

/// Device memory, as the processor sees it.
pub trait Window {
    /// Copies bytes out.
    fn read(&self, offset: u64, out: &mut [u8]);

    /// Copies bytes in.
    fn write(&self, offset: u64, data: &[u8]);
}

/// Maps a block for DMA at another address, and ends its mapping at the one before.
pub type Remap<M> = Box<dyn FnMut(M) -> io::Result<M>>;

/// A device, and memory for its DMA.
pub struct Parts<B, M, W> {
    /// BAR 0.
    pub registers: B,
    /// BAR 2.
    pub window: W,
    /// Blocks of guest memory. The first holds the queue, the second the scatter lists.
    pub blocks: Vec<M>,
    /// Changes the mapping of a block, if blocks are to move.
    pub remap: Option<Remap<M>>,
    /// A part of another device's memory that this device and the processor write, and nobody else.
    pub peer: Option<M>,
    /// Bytes at the end of this device's memory that another device writes.
    pub lent: u64,
}

impl<B: Bar, M: Buffer, W: Window> Parts<B, M, W> {
    /// Returns the size of all blocks.
    pub fn size(&self) -> u64 {
        self.blocks.iter().map(|block| block.size() as u64).sum()
    }
}
