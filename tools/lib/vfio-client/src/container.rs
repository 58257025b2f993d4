// SPDX-License-Identifier: GPL-2.0

//! A VFIO container: an address space of IOVAs, and the memory mapped in it.

use std::fs::OpenOptions;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use vfio_bindings::bindings::vfio::{
    vfio_iommu_type1_dma_map, VFIO_TYPE1v2_IOMMU, VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE,
};

use crate::error::{Context, Result};
use crate::mapping::Mapping;
use crate::sys;

/// Access of devices to mapped memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read only.
    Read,
    /// Write only.
    Write,
    /// Read and write.
    ReadWrite,
}

impl Access {
    fn flags(self) -> u32 {
        match self {
            Access::Read => VFIO_DMA_MAP_FLAG_READ,
            Access::Write => VFIO_DMA_MAP_FLAG_WRITE,
            Access::ReadWrite => VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
        }
    }
}

/// An open `/dev/vfio/vfio`. A clone is the same container.
///
/// It closes with the last of its clones, groups and devices.
#[derive(Clone, Debug)]
pub struct Container(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    fd: OwnedFd,
    /// Held while an IOMMU is checked for and set.
    iommu: Mutex<()>,
    maps: Mutex<Maps>,
}

/// The mapped memory, kept alive while devices can access it.
///
/// An entry is added before the kernel maps, and removed after the kernel has unmapped, so it exists whenever the
/// kernel has the memory mapped. The lock is not held over the ioctls, so that callers can race them.
#[derive(Debug, Default)]
struct Maps {
    next_id: u64,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    iova: u64,
    size: u64,
    /// The kernel has mapped it. An unmap of the range before that does not concern it.
    live: bool,
    memory: Arc<Mapping>,
}

impl Container {
    /// Opens a new container.
    pub fn open() -> Result<Self> {
        let fd = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/vfio/vfio")
            .field(|| "open /dev/vfio/vfio".into())?;
        Ok(Self::from_fd(fd.into()))
    }

    /// Takes over a container that another process has opened. It does not know that process's mappings.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Container(Arc::new(Inner {
            fd,
            iommu: Mutex::default(),
            maps: Mutex::default(),
        }))
    }

    /// `VFIO_GET_API_VERSION`.
    pub fn api_version(&self) -> Result<i32> {
        sys::ioctl_value(self.as_fd(), 0, 0).field(|| "VFIO_GET_API_VERSION".into())
    }

    /// `VFIO_CHECK_EXTENSION`.
    pub fn check_extension(&self, extension: u32) -> Result<bool> {
        sys::ioctl_value(self.as_fd(), 1, extension as i32)
            .map(|r| r != 0)
            .field(|| format!("VFIO_CHECK_EXTENSION {extension}"))
    }

    /// `VFIO_SET_IOMMU`. [`Group::open`](crate::Group::open) sets type1 v2 for the first group.
    pub fn set_iommu(&self, iommu: u32) -> Result<()> {
        sys::ioctl_value(self.as_fd(), 2, iommu as i32)
            .map(drop)
            .field(|| format!("VFIO_SET_IOMMU {iommu}"))
    }

    /// Sets type1 v2 unless an IOMMU is set. The IOMMU goes away with the last group, so this asks the kernel for every
    /// group.
    pub(crate) fn ensure_iommu(&self) -> Result<()> {
        let _guard = self.0.iommu.lock().unwrap();
        if self.0.has_iommu() {
            return Ok(());
        }
        sys::ioctl_value(self.as_fd(), 2, VFIO_TYPE1v2_IOMMU as i32)
            .map(drop)
            .field(|| "VFIO_SET_IOMMU TYPE1v2".into())
    }

    /// Maps all of `memory` at `iova`. It stays alive until it is unmapped or the container is closed.
    pub fn map(&self, iova: u64, memory: &Arc<Mapping>, access: Access) -> Result<()> {
        self.map_range(iova, memory, 0, memory.len(), access)
    }

    /// Maps a range of `memory` at `iova`.
    ///
    /// # Panics
    ///
    /// If the range is not inside `memory`.
    pub fn map_range(
        &self,
        iova: u64,
        memory: &Arc<Mapping>,
        offset: usize,
        size: usize,
        access: Access,
    ) -> Result<()> {
        let argsz = size_of::<vfio_iommu_type1_dma_map>() as u32;
        self.map_raw(argsz, access.flags(), iova, size as u64, memory, offset)
    }

    /// `VFIO_IOMMU_MAP_DMA` with every value as given, for tests of refusals.
    ///
    /// # Panics
    ///
    /// If the range is not inside `memory`.
    pub fn map_raw(
        &self,
        argsz: u32,
        flags: u32,
        iova: u64,
        size: u64,
        memory: &Arc<Mapping>,
        offset: usize,
    ) -> Result<()> {
        let id = {
            let mut maps = self.0.maps.lock().unwrap();
            maps.next_id += 1;
            let id = maps.next_id;
            maps.entries.push(Entry {
                id,
                iova,
                size,
                live: false,
                memory: memory.clone(),
            });
            id
        };
        // SAFETY: The entry made above keeps the memory until the kernel has unmapped it: see `Maps`.
        let result =
            unsafe { sys::map_dma(self.as_fd(), argsz, flags, iova, size, memory, offset) };
        let mut maps = self.0.maps.lock().unwrap();
        match result {
            Ok(()) => {
                if let Some(entry) = maps.entries.iter_mut().find(|e| e.id == id) {
                    entry.live = true;
                }
            }
            Err(_) => maps.entries.retain(|e| e.id != id),
        }
        result.field(|| format!("VFIO_IOMMU_MAP_DMA iova {iova:#x} size {size:#x}"))
    }

    /// Returns the mappings as (iova, size), sorted.
    pub fn mapped(&self) -> Vec<(u64, u64)> {
        let maps = self.0.maps.lock().unwrap();
        let mut out: Vec<_> = maps
            .entries
            .iter()
            .filter(|e| e.live)
            .map(|e| (e.iova, e.size))
            .collect();
        out.sort_unstable();
        out
    }

    /// Runs an unmapping call for the range, which returns the bytes unmapped, and releases the memory of the range.
    ///
    /// The memory is released only if the kernel has unmapped at least all of it. Otherwise some of it may still be
    /// mapped, and all of it is kept until the container closes.
    pub(crate) fn release_after<T>(
        &self,
        iova: u64,
        size: u64,
        unmap: impl FnOnce() -> Result<(u64, T)>,
    ) -> Result<(u64, T)> {
        let inside = |e: &Entry| {
            // A range may end at the end of the address space.
            let end = iova.saturating_add(size);
            e.iova >= iova && e.iova.saturating_add(e.size) <= end
        };
        let (ids, bytes) = {
            let maps = self.0.maps.lock().unwrap();
            let live = || maps.entries.iter().filter(|e| e.live && inside(e));
            let ids: Vec<u64> = live().map(|e| e.id).collect();
            (ids, live().map(|e| e.size).sum::<u64>())
        };
        let (unmapped, result) = unmap()?;
        if unmapped >= bytes {
            let mut maps = self.0.maps.lock().unwrap();
            let (gone, kept): (Vec<_>, _) = std::mem::take(&mut maps.entries)
                .into_iter()
                .partition(|e| ids.contains(&e.id));
            maps.entries = kept;
            drop(maps);
            // Freed without the lock.
            drop(gone);
        }
        Ok((unmapped, result))
    }

    /// Makes any ioctl with the bytes as given; see [`crate::raw`].
    pub fn raw_ioctl(&self, request: u32, argument: &mut [u8]) -> Result<i32> {
        sys::ioctl(self.as_fd(), request, argument).field(|| format!("ioctl {request:#x}"))
    }
}

impl AsFd for Container {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}

impl Inner {
    /// Returns whether an IOMMU is set. Without one its ioctls do not exist.
    fn has_iommu(&self) -> bool {
        let mut info = [0; 24];
        info[0..4].copy_from_slice(&24u32.to_ne_bytes());
        sys::ioctl(self.fd.as_fd(), sys::nr(12), &mut info).is_ok()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The last user of the descriptor is gone, and normally the address space with it. Duplicated descriptors may
        // keep the address space, so unmap, and leak the memory where that fails.
        let maps = std::mem::take(&mut *self.maps.lock().unwrap());
        if maps.entries.is_empty() || !self.has_iommu() {
            return;
        }
        for entry in maps.entries {
            if sys::unmap_dma(self.fd.as_fd(), 0, entry.iova, entry.size).is_err() {
                std::mem::forget(entry.memory);
            }
        }
    }
}
