// SPDX-License-Identifier: GPL-2.0

//! Bare descriptors, for users who do things in any order.
//!
//! [`Container`](crate::Container), [`Group`](crate::Group) and [`Device`](crate::Device) keep each other open and
//! close in the right order. A [`Node`] keeps nothing open: a container may close before its groups, a group before its
//! devices, and any call may be made on any node.
//!
//! Still, a device must never reach memory that was reused. So the addresses of memory mapped by [`Node::map`] stay
//! reserved until the process ends: see [`Mapping::reserve`].

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::fs::{Mode, OFlags};
use vfio_bindings::bindings::vfio::{
    vfio_device_feature, vfio_iommu_type1_dma_map, VFIO_DEVICE_FEATURE_MASK,
    VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, VFIO_DEVICE_FEATURE_PROBE, VFIO_DEVICE_FEATURE_SET,
    VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP,
};

use crate::eventfd::poll_fd;
use crate::mapping::{Mapping, Protection};
use crate::mapping_io;
use crate::sys;
use crate::type1::BitmapRequest;

/// A descriptor of a container, a group, a device or a stream.
#[derive(Debug)]
pub struct Node(OwnedFd);

impl Node {
    /// Opens a new container.
    pub fn container() -> io::Result<Self> {
        Self::open("/dev/vfio/vfio")
    }

    /// Opens the group of this number.
    pub fn group(number: u32) -> io::Result<Self> {
        Self::open(&format!("/dev/vfio/{number}"))
    }

    fn open(path: &str) -> io::Result<Self> {
        let fd = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Node(fd))
    }

    /// Duplicates the descriptor.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Node)
    }

    /// Makes an ioctl that takes a number: `VFIO_BASE` and 0, 1, 2 of a container, 5 of a group, 11 of a device.
    ///
    /// # Panics
    ///
    /// If `n` is any other number.
    pub fn value(&self, n: u32, value: i32) -> io::Result<i32> {
        sys::ioctl_value(self.as_fd(), n, value)
    }

    /// Makes any VFIO ioctl with the bytes as given; see [`crate::raw`].
    ///
    /// # Errors
    ///
    /// The kernel's, and `EPERM` without a call for an ioctl that returns a descriptor.
    pub fn ioctl(&self, n: u32, argument: &mut [u8]) -> io::Result<i32> {
        if n == 6 {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
        sys::ioctl(self.as_fd(), sys::nr(n), argument)
    }

    /// Makes any VFIO ioctl with an address that is never mapped.
    pub fn ioctl_bad_address(&self, n: u32) -> io::Result<i32> {
        sys::ioctl_nowhere(self.as_fd(), sys::nr(n))
    }

    /// `VFIO_GROUP_SET_CONTAINER`.
    pub fn set_container(&self, container: &Node) -> io::Result<()> {
        sys::set_container(self.as_fd(), container.as_fd())
    }

    /// `VFIO_GROUP_GET_DEVICE_FD`.
    pub fn device(&self, name: &str) -> io::Result<Node> {
        sys::device_fd(self.as_fd(), name).map(Node)
    }

    /// `VFIO_DEVICE_FEATURE` with every value as given. Returns the value, and the descriptor if there is one.
    pub fn feature(
        &self,
        argsz: u32,
        flags: u32,
        data: &mut [u8],
    ) -> io::Result<(i32, Option<Node>)> {
        let made = VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE;
        let mask = VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_PROBE | VFIO_DEVICE_FEATURE_MASK;
        if flags & mask == made && data.len() >= 8 {
            let state = u32::from_ne_bytes(data[0..4].try_into().unwrap());
            return sys::set_mig_state_raw(self.as_fd(), argsz, flags, state)
                .map(|fd| (0, fd.map(Node)));
        }
        const HEADER: usize = size_of::<vfio_device_feature>();
        let mut arg = Vec::with_capacity(HEADER + data.len());
        arg.extend(argsz.to_ne_bytes());
        arg.extend(flags.to_ne_bytes());
        arg.extend_from_slice(data);
        let result = sys::ioctl(self.as_fd(), sys::nr(17), &mut arg);
        data.copy_from_slice(&arg[HEADER..]);
        result.map(|value| (value, None))
    }

    /// `VFIO_IOMMU_MAP_DMA` of `memory[offset..offset + size]`. The addresses stay reserved from now on.
    ///
    /// # Panics
    ///
    /// If the range is not inside `memory`.
    pub fn map(
        &self,
        flags: u32,
        iova: u64,
        size: u64,
        memory: &Mapping,
        offset: usize,
    ) -> io::Result<()> {
        let argsz = size_of::<vfio_iommu_type1_dma_map>() as u32;
        memory.reserve();
        // SAFETY: What is at these addresses is either this mapping, which is only accessed through raw pointers and
        // atomics, or, once it is dropped, nothing.
        unsafe { sys::map_dma(self.as_fd(), argsz, flags, iova, size, memory, offset) }
    }

    /// `VFIO_IOMMU_UNMAP_DMA` with a bitmap, with every value as given; returns the words of the bitmap.
    pub fn unmap_dirty(&self, request: &BitmapRequest) -> io::Result<Vec<u64>> {
        self.bitmap(14, request)
    }

    /// `VFIO_IOMMU_DIRTY_PAGES` with a range, with every value as given; returns the words of the bitmap.
    pub fn dirty_bitmap(&self, request: &BitmapRequest) -> io::Result<Vec<u64>> {
        self.bitmap(17, request)
    }

    fn bitmap(&self, n: u32, request: &BitmapRequest) -> io::Result<Vec<u64>> {
        let mut head = request.head();
        sys::with_bitmap(self.as_fd(), sys::nr(n), &mut head, request.bitmap())
    }

    /// [`unmap_dirty`](Self::unmap_dirty) or [`dirty_bitmap`](Self::dirty_bitmap), depending on the request's flags,
    /// into a mapping.
    ///
    /// # Panics
    ///
    /// If the bitmap is not inside the mapping.
    pub fn bitmap_in(
        &self,
        request: &BitmapRequest,
        memory: &Mapping,
        at: usize,
    ) -> io::Result<()> {
        let n = match request.flags & VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP {
            0 => 17,
            _ => 14,
        };
        let (fd, nr, mut head) = (self.as_fd(), sys::nr(n), request.head());
        sys::with_bitmap_in(fd, nr, &mut head, request.bitmap(), memory, at)
    }

    /// Reads once and returns the result unchanged.
    pub fn read(&self, out: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.0, out)?)
    }

    /// Writes once and returns the result unchanged.
    pub fn write(&self, data: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(&self.0, data)?)
    }

    /// Reads at an offset once and returns the result unchanged.
    pub fn pread(&self, offset: u64, out: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::pread(&self.0, out, offset)?)
    }

    /// Writes at an offset once and returns the result unchanged.
    pub fn pwrite(&self, offset: u64, data: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::pwrite(&self.0, data, offset)?)
    }

    /// Reads into a mapping once. The mapping may be of the same device.
    pub fn read_mapping(&self, memory: &Mapping, at: usize, len: usize) -> io::Result<usize> {
        mapping_io::read(self.as_fd(), memory, at, len)
    }

    /// Writes from a mapping once. The mapping may be of the same device.
    pub fn write_mapping(&self, memory: &Mapping, at: usize, len: usize) -> io::Result<usize> {
        mapping_io::write(self.as_fd(), memory, at, len)
    }

    /// Maps any part of it and returns the result unchanged.
    pub fn mmap(&self, offset: u64, len: usize, protection: Protection) -> io::Result<Mapping> {
        Mapping::of_file(self.as_fd(), offset, len, protection)
    }

    /// Waits for any of these events, as `poll()` does; empty after the timeout.
    pub fn poll(&self, events: PollFlags, timeout: Duration) -> io::Result<PollFlags> {
        poll_fd(self.as_fd(), events, timeout)
    }
}

impl From<OwnedFd> for Node {
    fn from(fd: OwnedFd) -> Self {
        Node(fd)
    }
}

impl AsFd for Node {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
