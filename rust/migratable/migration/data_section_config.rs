// SPDX-License-Identifier: GPL-2.0

//! The migration region, as far as a driver chooses it: its generation, and the size of its data section.

use kernel::{
    page::PAGE_SIZE,
    prelude::*, //
};
use migration::{
    generation::Generation,
    save,
    stream::Identity, //
};

/// Smallest data section, in bytes. It has room for a page and the headers before it, whatever the
/// kernel's page size is.
const SIZE_MIN: usize = if PAGE_SIZE < 32 << 10 {
    64 << 10
} else {
    2 * PAGE_SIZE
};

/// Largest data section, in bytes.
const SIZE_MAX: usize = 64 << 20;

/// The type of the v7 region in the posting. The kernel has since given this number to the regions of
/// channel devices, which no PCI device has.
const V7_TYPE: u32 = 2;

/// Size of the data section, and whether users may map it (P28); the generation of the region.
///
/// # Invariants
///
/// `size` is a multiple of the page size, at least [`SIZE_MIN`] and at most [`SIZE_MAX`].
#[derive(Clone, Copy, Debug)]
pub struct DataSectionConfig {
    size: usize,
    mmap: bool,
    generation: Generation,
    v7_type: u32,
}

impl DataSectionConfig {
    /// Returns a data section of `size` bytes.
    ///
    /// Without `mmap` users read and write all data by `read()` and `write()`. `EINVAL` unless the size is a
    /// multiple of the page size, at least 64 KiB and two pages, and at most 64 MiB.
    pub fn new(size: usize, mmap: bool) -> Result<Self> {
        Self::check_size(size)?;
        // INVARIANT: Checked above.
        Ok(Self {
            size,
            mmap,
            ..Self::default()
        })
    }

    /// Checks what [`DataSectionConfig::new`] says of a size.
    pub(super) fn check_size(size: usize) -> Result {
        match (SIZE_MIN..=SIZE_MAX).contains(&size) && size % PAGE_SIZE == 0 {
            true => Ok(()),
            false => Err(EINVAL),
        }
    }

    /// Sets the generation that new instances have, and the type of the v7 region, which is 2 in its
    /// posting.
    pub fn with_generation(self, generation: Generation, v7_type: u32) -> Self {
        Self {
            generation,
            v7_type,
            ..self
        }
    }

    /// Returns the generation that new instances have.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Returns the type of the v7 region.
    pub(crate) fn v7_type(&self) -> u32 {
        self.v7_type
    }

    /// Returns the size of the first part of the data section: the place of bitmaps in the older
    /// generations. Data has the rest.
    pub(super) fn bitmap_size(size: usize) -> usize {
        (size / 8 / PAGE_SIZE * PAGE_SIZE).max(PAGE_SIZE)
    }

    /// Checks that a buffer of a data section of `size` bytes is large enough for a device of this identity.
    /// `EINVAL` if not.
    pub(super) fn check_room(size: usize, generation: Generation, identity: &Identity) -> Result {
        let room = match generation {
            Generation::V1 => size,
            Generation::V7 | Generation::V2018 => size - Self::bitmap_size(size),
        };
        match save::min_output(identity) <= room as u64 {
            true => Ok(()),
            false => Err(EINVAL),
        }
    }

    /// Returns the size in bytes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Returns whether users may map it.
    pub fn mmap(&self) -> bool {
        self.mmap
    }
}

impl Default for DataSectionConfig {
    /// Returns 1 MiB that users may map.
    fn default() -> Self {
        // INVARIANT: 1 MiB is a multiple of every page size, and inside the limits.
        Self {
            size: 1 << 20,
            mmap: true,
            generation: Generation::V1,
            v7_type: V7_TYPE,
        }
    }
}
