// SPDX-License-Identifier: GPL-2.0

//! How a device looks on the PCI bus.
//!
//! A driver declares a [`Layout`] for each of its types. The framework makes of it the
//! configuration space (`config.rs`), the VFIO regions (`region.rs`) and the interrupts
//! (`irq.rs`), none of which the driver sees again.

use kernel::{
    page::PAGE_SIZE,
    prelude::*, //
};

/// Number of base address registers.
pub const NUM_BARS: usize = 6;

/// Size of the BAR that holds the MSI-X table and the pending bits.
pub const MSIX_BAR_SIZE: u64 = 4096;

/// The most MSI-X vectors: their pending bits are one register.
pub const MSIX_VECTORS_MAX: u16 = 64;

/// The most MSI vectors the capability can count.
pub const MSI_VECTORS_MAX: u8 = 32;

/// What is behind a base address register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bar {
    /// Nothing, or the upper half of the 64-bit BAR before it.
    None,
    /// Registers of the driver: 32-bit memory, each access trapped.
    Registers {
        /// Bytes, a power of two from 16.
        size: u32,
    },
    /// The device memory, which the framework handles: 64-bit prefetchable, mappable. Its size is
    /// that of [`Device::memory_size`](crate::Device::memory_size). Takes the next BAR too.
    Memory,
    /// The MSI-X table and pending bits, which the framework handles: 32-bit memory.
    Msix,
}

/// How a device looks on the PCI bus.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Subsystem vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem: u16,
    /// Revision.
    pub revision: u8,
    /// Base class, subclass and programming interface: 24 bits.
    pub class: u32,
    /// The base address registers.
    pub bars: [Bar; NUM_BARS],
    /// Whether the device has INTx (always pin A).
    pub intx: bool,
    /// Number of MSI vectors: a power of two up to 32, or 0 for none.
    pub msi: u8,
    /// Number of MSI-X vectors up to 64, or 0 for none; needs a [`Bar::Msix`].
    pub msix: u16,
}

impl Layout {
    /// Why this layout describes no device, if it does not.
    pub(crate) fn check(&self, memory_size: u64) -> Result<(), &'static str> {
        let count = |bar| self.bars.iter().filter(|b| **b == bar).count();

        for (i, bar) in self.bars.iter().enumerate() {
            match *bar {
                Bar::None | Bar::Msix => {}
                Bar::Registers { size } => {
                    if !size.is_power_of_two() || size < 16 {
                        return Err("the size of a register BAR is no power of two from 16");
                    }
                }
                Bar::Memory => {
                    if self.bars.get(i + 1) != Some(&Bar::None) {
                        return Err("a 64-bit BAR needs the next one");
                    }
                }
            }
        }

        if count(Bar::Memory) > 1 || (count(Bar::Memory) == 1) != (memory_size != 0) {
            return Err("device memory and memory BARs do not match");
        }
        if memory_size != 0
            && (!memory_size.is_power_of_two()
                || memory_size < PAGE_SIZE as u64
                || memory_size > 1 << 39)
        {
            return Err("the size of device memory is no power of two of pages up to 512 GiB");
        }
        if count(Bar::Msix) > 1 || (count(Bar::Msix) == 1) != (self.msix != 0) {
            return Err("MSI-X vectors and MSI-X BARs do not match");
        }
        if self.msix > MSIX_VECTORS_MAX {
            return Err("too many MSI-X vectors");
        }
        if self.msi != 0 && (!self.msi.is_power_of_two() || self.msi > MSI_VECTORS_MAX) {
            return Err("the number of MSI vectors is no power of two up to 32");
        }
        if self.class >= 1 << 24 {
            return Err("the class has more than 24 bits");
        }
        Ok(())
    }

    /// The index of the BAR with the MSI-X table.
    pub(crate) fn msix_bar(&self) -> Option<usize> {
        self.bars.iter().position(|bar| *bar == Bar::Msix)
    }
}
