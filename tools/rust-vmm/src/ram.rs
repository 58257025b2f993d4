// SPDX-License-Identifier: GPL-2.0

//! Guest memory, and all unsafe code of the VMM.
//!
//! `vfio-ioctls` maps guest memory for devices by an unsafe function, and gives the descriptors of its containers and
//! devices as numbers. This file keeps the promises that both ask for.

use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::sync::Arc;

use vfio_client::{Container, DirtyBitmap, Mapping, Protection};
use vfio_ioctls::{VfioContainer, VfioDevice};
use vm_memory::bitmap::AtomicBitmap;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use crate::error::{Error, Result};

/// Page size of guest memory and of the bitmaps.
const PAGE: u64 = 4096;

/// Returns another handle of a container, for the ioctls that `vfio-ioctls` lacks.
pub(crate) fn type1(container: &VfioContainer) -> Result<Container> {
    // SAFETY: `container` keeps the descriptor open during the borrow.
    let fd = unsafe { BorrowedFd::borrow_raw(container.as_raw_fd()) };
    Ok(Container::from_fd(fd.try_clone_to_owned()?))
}

/// Guest memory in ranges, each mapped for devices at its guest physical address.
///
/// It knows which pages were written through it, as KVM knows what a guest wrote. Drop it before the devices, because
/// the last device takes the address space with it.
pub(crate) struct Ram {
    container: Arc<VfioContainer>,
    memory: GuestMemoryMmap<AtomicBitmap>,
    /// Address and size of what is mapped.
    mapped: Vec<(u64, usize)>,
}

impl Ram {
    /// Allocates zeroed memory at these addresses and sizes, and maps it for the devices of `container`.
    pub(crate) fn map(container: &Arc<VfioContainer>, ranges: &[(u64, usize)]) -> Result<Self> {
        let guest: Vec<_> = ranges
            .iter()
            .map(|(at, size)| (GuestAddress(*at), *size))
            .collect();
        let memory = GuestMemoryMmap::from_ranges(&guest).map_err(|e| Error::new(e.to_string()))?;
        let mut ram = Ram {
            container: container.clone(),
            memory,
            mapped: Vec::new(),
        };
        for (at, size) in ranges {
            let address = ram
                .memory
                .get_host_address(GuestAddress(*at))
                .map_err(|e| Error::new(e.to_string()))?;
            // SAFETY: `address` begins `size` bytes that `memory` owns. `drop` unmaps them, or leaks `memory`. Nobody
            // else has `memory`, and this file accesses it only by the functions of `Bytes`, which make volatile and
            // atomic accesses by pointers.
            unsafe { ram.container.vfio_dma_map(*at, *size, address) }?;
            ram.mapped.push((*at, *size));
        }
        Ok(ram)
    }

    /// Returns address and size of each range.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (u64, usize)> + '_ {
        self.mapped.iter().copied()
    }

    /// Reads memory.
    ///
    /// # Panics
    ///
    /// If the memory does not exist, as in the other functions.
    pub(crate) fn read(&self, at: u64, out: &mut [u8]) {
        let result = self.memory.read_slice(out, GuestAddress(at));
        result.unwrap_or_else(|e| panic!("guest memory at {at:#x}: {e}"));
    }

    /// Writes memory.
    pub(crate) fn write(&self, at: u64, data: &[u8]) {
        let result = self.memory.write_slice(data, GuestAddress(at));
        result.unwrap_or_else(|e| panic!("guest memory at {at:#x}: {e}"));
    }

    /// Reads eight aligned bytes in one access, before any later read.
    pub(crate) fn load_acquire(&self, at: u64) -> u64 {
        let result = self.memory.load(GuestAddress(at), Ordering::Acquire);
        result.unwrap_or_else(|e| panic!("guest memory at {at:#x}: {e}"))
    }

    /// Returns the pages that were written through it since the last call, a bitmap for each range.
    pub(crate) fn take_written(&self) -> Vec<DirtyBitmap> {
        let of = |(at, size): (u64, usize)| {
            let region = self.memory.find_region(GuestAddress(at));
            let words = region.map_or(Vec::new(), |region| (**region).bitmap().get_and_reset());
            DirtyBitmap::new(at, size as u64, PAGE, words)
        };
        self.ranges().map(of).collect()
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        for (at, size) in &self.mapped {
            if self.container.vfio_dma_unmap(*at, *size).is_err() {
                // Devices may still reach it.
                mem::forget(self.memory.clone());
            }
        }
    }
}

/// Maps a region of a device as a whole, which must be mappable.
pub(crate) fn map_region(device: &VfioDevice, index: u32) -> Result<Mapping> {
    // SAFETY: `device` keeps the descriptor open during the borrow.
    let fd = unsafe { BorrowedFd::borrow_raw(device.as_raw_fd()) };
    let size = device.get_region_size(index) as usize;
    let offset = device.get_region_offset(index);
    Ok(Mapping::of_file(fd, offset, size, Protection::READ_WRITE)?)
}
