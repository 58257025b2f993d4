// SPDX-License-Identifier: GPL-2.0

//! The size of the v1 data section, which a driver chooses.

use kernel::{
    page::PAGE_SIZE,
    prelude::*, //
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

/// Size of the v1 data section, and whether users may map it (P28).
///
/// # Invariants
///
/// `size` is a multiple of the page size, at least [`SIZE_MIN`] and at most [`SIZE_MAX`].
#[derive(Clone, Copy, Debug)]
pub struct DataSectionConfig {
    size: usize,
    mmap: bool,
}

impl DataSectionConfig {
    /// Returns a data section of `size` bytes.
    ///
    /// Without `mmap` users read and write all data by `read()` and `write()`. `EINVAL` unless the size is a
    /// multiple of the page size, at least 64 KiB and two pages, and at most 64 MiB.
    pub fn new(size: usize, mmap: bool) -> Result<Self> {
        if !(SIZE_MIN..=SIZE_MAX).contains(&size) || size % PAGE_SIZE != 0 {
            return Err(EINVAL);
        }
        // INVARIANT: Checked above.
        Ok(Self { size, mmap })
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
        }
    }
}
