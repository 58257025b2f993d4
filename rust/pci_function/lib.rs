// SPDX-License-Identifier: GPL-2.0

//! An emulated PCI function.
//!
//! A driver returns a [`Function`] for each of its types: what the device looks like on the PCI bus.
//! The configuration space ([`config`]) and the BAR of MSI-X ([`msix`]) are derived from it.

pub mod config;
pub mod msix;

use kernel::{
    page::PAGE_SIZE,
    prelude::*, //
};

use vfio::irq::VECTORS_MAX;

/// Number of base address registers.
pub const NUM_BARS: usize = 6;

/// Size of the BAR that holds the MSI-X table and the pending bits.
pub const MSIX_BAR_SIZE: u64 = 4096;

/// The most MSI-X vectors: their pending bits are one register.
pub const MSIX_VECTORS_MAX: u16 = 64;

/// The most MSI vectors the capability can count.
pub const MSI_VECTORS_MAX: u8 = 32;

const _: () = assert!(MSIX_VECTORS_MAX as usize <= VECTORS_MAX);
const _: () = assert!(MSI_VECTORS_MAX as usize <= VECTORS_MAX);

/// The most bytes of device memory.
const MEMORY_MAX: u64 = 1 << 39;

/// What is behind a base address register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bar {
    /// Nothing, or the upper half of the 64-bit BAR before it.
    #[default]
    None,
    /// Registers of the driver: 32-bit memory, each access trapped.
    Registers {
        /// Bytes, a power of two from 16.
        size: u32,
    },
    /// Registers of the driver: I/O ports, each access trapped.
    Io {
        /// Bytes, a power of two from 4 to 256.
        size: u32,
    },
    /// Device memory, which the framework allocates, lets guests map, and migrates: 64-bit
    /// prefetchable memory. Takes the next BAR too. A device has at most one.
    Memory {
        /// Bytes, a power of two of pages up to 512 GiB.
        size: u64,
    },
    /// The MSI-X table and pending bits, which the framework handles: 32-bit memory.
    Msix,
}

/// The largest I/O BAR that the PCI specification allows.
const IO_SIZE_MAX: u32 = 256;

/// A PCI function. The default has no BARs and no interrupts, and may become bus master.
#[derive(Clone, Debug)]
pub struct Function {
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
    /// Bytes of device memory that no BAR exposes, a multiple of the page size up to 512 GiB, or 0 for
    /// none. Only for a device without a [`Bar::Memory`].
    ///
    /// It is storage, so a reset keeps its contents.
    pub storage: u64,
    /// Whether the device does DMA. If so, it works only while it is bus master. If not, the bus master
    /// bit reads 0, and it works as soon as its user has enabled I/O or memory.
    pub bus_master: bool,
}

impl Default for Function {
    fn default() -> Self {
        Self {
            vendor: 0,
            device: 0,
            subsystem_vendor: 0,
            subsystem: 0,
            revision: 0,
            class: 0,
            bars: [Bar::None; NUM_BARS],
            intx: false,
            msi: 0,
            msix: 0,
            storage: 0,
            bus_master: true,
        }
    }
}

impl Function {
    /// Returns why there can be no such function.
    pub fn check(&self) -> Result<(), &'static str> {
        let count = |is: fn(&Bar) -> bool| self.bars.iter().filter(|bar| is(bar)).count();

        for (i, bar) in self.bars.iter().enumerate() {
            match *bar {
                Bar::None | Bar::Msix => {}
                Bar::Registers { size } => {
                    if !size.is_power_of_two() || size < 16 {
                        return Err("the size of a register BAR is no power of two from 16");
                    }
                }
                Bar::Io { size } => {
                    if !size.is_power_of_two() || !(4..=IO_SIZE_MAX).contains(&size) {
                        return Err("the size of an I/O BAR is no power of two from 4 to 256");
                    }
                }
                Bar::Memory { size } => {
                    if !size.is_power_of_two() || size < PAGE_SIZE as u64 || size > MEMORY_MAX {
                        return Err(
                            "the size of device memory is no power of two of pages up to 512 GiB",
                        );
                    }
                    if self.bars.get(i + 1) != Some(&Bar::None) {
                        return Err("a 64-bit BAR needs the next one");
                    }
                }
            }
        }

        if count(|bar| matches!(bar, Bar::Memory { .. })) > 1 {
            return Err("more than one memory BAR");
        }
        if self.storage != 0 && self.memory_size() != self.storage {
            return Err("storage and a memory BAR");
        }
        if self.storage % PAGE_SIZE as u64 != 0 || self.storage > MEMORY_MAX {
            return Err("the size of storage is no multiple of the page size up to 512 GiB");
        }
        let msix = count(|bar| matches!(bar, Bar::Msix));
        if msix > 1 || (msix == 1) != (self.msix != 0) {
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

    /// Returns the bytes of device memory, in a BAR or not; 0 for none.
    pub fn memory_size(&self) -> u64 {
        self.bars
            .iter()
            .find_map(|bar| match bar {
                Bar::Memory { size } => Some(*size),
                _ => None,
            })
            .unwrap_or(self.storage)
    }

    /// Returns the index of the BAR with the MSI-X table.
    pub fn msix_bar(&self) -> Option<usize> {
        self.bars.iter().position(|bar| *bar == Bar::Msix)
    }
}
