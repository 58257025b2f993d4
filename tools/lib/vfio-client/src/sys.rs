// SPDX-License-Identifier: GPL-2.0

//! The ioctls: one unsafe call, behind functions that cannot be misused.
//!
//! Every argument is copied into an [`Arena`], which ends at inaccessible memory. Whatever `argsz`, counts and offsets
//! an argument claims, the kernel accesses only the arena or fails with `EFAULT`. So arguments of arbitrary bytes are
//! safe unless they contain an address. The few ioctls whose arguments contain addresses have functions here that fill
//! in the address, and [`ioctl`] refuses them.

use std::io;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use rustix::mm::{mmap_anonymous, mprotect, munmap, MapFlags, MprotectFlags, ProtFlags};
use vfio_bindings::bindings::vfio::{
    vfio_bitmap, vfio_device_feature, vfio_device_feature_mig_state,
    vfio_iommu_type1_dirty_bitmap_get, vfio_iommu_type1_dma_map, vfio_iommu_type1_dma_unmap,
    VFIO_BASE, VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT, VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
    VFIO_DEVICE_FEATURE_GET, VFIO_DEVICE_FEATURE_MASK, VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
    VFIO_DEVICE_FEATURE_SET, VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP,
    VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP, VFIO_TYPE,
};

use crate::mapping::Mapping;

/// `_IO(VFIO_TYPE, VFIO_BASE + n)`.
pub const fn nr(n: u32) -> u32 {
    ((VFIO_TYPE as u32) << 8) | (VFIO_BASE + n)
}

/// Size of the inaccessible memory after an arena, larger than the fixed part of any argument.
const GUARD: usize = 1 << 20;
const PAGE: usize = 4096;

/// Bytes for the kernel to read and write, followed by inaccessible memory.
///
/// # Invariants
///
/// `base..base + total` is one private anonymous mapping that this object owns, of which the last [`GUARD`]
/// bytes are inaccessible and the rest is readable and writable; `len <= total - GUARD`.
pub(crate) struct Arena {
    base: *mut libc::c_void,
    total: usize,
    len: usize,
}

impl Arena {
    /// Creates an arena of `len` zeroed bytes. Untouched pages cost nothing.
    pub(crate) fn zeroed(len: usize) -> io::Result<Self> {
        let usable = len
            .checked_next_multiple_of(PAGE)
            .ok_or(io::ErrorKind::OutOfMemory)?
            .max(PAGE);
        let total = usable
            .checked_add(GUARD)
            .ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: A new mapping at an address of the kernel's choice cannot overlap memory in use.
        let base = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                total,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )?
        };
        // INVARIANT: The guard's protection is set below; on failure the object unmaps and is gone.
        let arena = Arena { base, total, len };
        // SAFETY: The range is the tail of the mapping made above, to which nothing refers.
        unsafe {
            mprotect(
                base.cast::<u8>().add(usable).cast(),
                GUARD,
                MprotectFlags::empty(),
            )?;
        }
        Ok(arena)
    }

    pub(crate) fn new(bytes: &[u8]) -> io::Result<Self> {
        let arena = Self::zeroed(bytes.len())?;
        // SAFETY: By the invariants `len` bytes at `start()` are writable, and only `arena` refers to them.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), arena.start(), bytes.len()) };
        Ok(arena)
    }

    /// Returns the first byte, placed so that the last one is next to the guard.
    fn start(&self) -> *mut u8 {
        // SAFETY: By the invariants the offset is within the mapping.
        unsafe { self.base.cast::<u8>().add(self.total - GUARD - self.len) }
    }

    fn addr(&self) -> u64 {
        self.start() as u64
    }

    /// Copies the first `out.len()` bytes out.
    ///
    /// # Panics
    ///
    /// If the arena is shorter.
    pub(crate) fn read(&self, out: &mut [u8]) {
        assert!(out.len() <= self.len);
        // SAFETY: By the invariants the bytes are readable; the kernel writes them only during an ioctl, and
        // those are made through `&mut self` or wait for the ioctl to return.
        unsafe { ptr::copy_nonoverlapping(self.start(), out.as_mut_ptr(), out.len()) };
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: By the invariants the mapping is owned, and no pointer to it leaves this module. Unmapping what
        // was mapped with this address and length does not fail.
        let _ = unsafe { munmap(self.base, self.total) };
    }
}

/// # Safety
///
/// The kernel may read and write through every address that the bytes of `arg` hold.
unsafe fn call(fd: BorrowedFd<'_>, nr: u32, arg: u64) -> io::Result<i32> {
    // SAFETY: VFIO's ioctls access memory at `arg` and at the addresses inside the argument only, for which the
    // caller answers. `nr` fits the request type of every libc.
    let ret = unsafe { libc::ioctl(fd.as_raw_fd(), nr as libc::Ioctl, arg) };
    if ret < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(ret)
    }
}

/// Makes an ioctl whose argument is a number.
///
/// Panics for ioctls that take an address.
pub(crate) fn ioctl_value(fd: BorrowedFd<'_>, n: u32, value: i32) -> io::Result<i32> {
    // GET_API_VERSION, CHECK_EXTENSION, SET_IOMMU; GROUP_UNSET_CONTAINER; DEVICE_RESET.
    assert!(
        matches!(n, 0 | 1 | 2 | 5 | 11),
        "ioctl {n} takes an address"
    );
    // SAFETY: These ioctls do not access memory by their argument.
    unsafe { call(fd, nr(n), value as u64) }
}

/// An address that always faults: it is in the kernel's half of the address space.
const NOWHERE: u64 = 0xffff_8000_0000_0000;

/// Makes any VFIO ioctl with an address that is never mapped.
pub(crate) fn ioctl_nowhere(fd: BorrowedFd<'_>, request: u32) -> io::Result<i32> {
    // SAFETY: The kernel refuses to access user memory at an address that is not a user's. Ioctls that take a
    // number instead see one they do not know.
    unsafe { call(fd, request, NOWHERE) }
}

/// Makes any VFIO ioctl whose argument holds no address. The kernel may change `bytes`.
///
/// # Errors
///
/// `EPERM` without a call if the kernel would use some of the bytes as an address, or if `request` is not VFIO's.
pub(crate) fn ioctl(fd: BorrowedFd<'_>, request: u32, bytes: &mut [u8]) -> io::Result<i32> {
    let foreign = request & 0xffff_ff00 != u32::from(VFIO_TYPE) << 8;
    if foreign || holds_address(request, bytes) {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    let arena = Arena::new(bytes)?;
    // SAFETY: The argument is an arena, so that accesses from its start on stay inside it or fault, and the checks
    // above have kept away the requests that follow an address inside it.
    let ret = unsafe { call(fd, request, arena.addr()) };
    arena.read(bytes);
    ret
}

/// Makes an ioctl several times with the same memory for its argument, for measurements: [`ioctl`] maps memory for
/// each call. The kernel may change `bytes`.
pub(crate) fn ioctl_times(
    fd: BorrowedFd<'_>,
    request: u32,
    bytes: &mut [u8],
    times: u64,
) -> io::Result<()> {
    let foreign = request & 0xffff_ff00 != u32::from(VFIO_TYPE) << 8;
    if foreign || holds_address(request, bytes) {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    let arena = Arena::new(bytes)?;
    for _ in 0..times {
        // SAFETY: As in `ioctl`. No request that passes its checks makes its own argument one that does not.
        unsafe { call(fd, request, arena.addr()) }?;
    }
    arena.read(bytes);
    Ok(())
}

/// `IOMMU_IOAS_ALLOC`, an ioctl of an iommufd, which has the type of VFIO's.
pub(crate) const IOAS_ALLOC: u32 = nr(29);

/// Returns whether the kernel would follow an address inside this argument.
///
/// Container, group and device share numbers, and this function does not know the kind of file. So a number counts as
/// the most dangerous ioctl that it stands for.
fn holds_address(request: u32, bytes: &[u8]) -> bool {
    let flags = bytes
        .get(4..8)
        .map_or(u32::MAX, |b| u32::from_ne_bytes(b.try_into().unwrap()));
    const MAP_DMA: u32 = nr(13);
    const UNMAP_DMA: u32 = nr(14);
    /// `DIRTY_PAGES` of a container and `FEATURE` of a device.
    const DIRTY_PAGES_FEATURE: u32 = nr(17);
    const BIND_IOMMUFD: u32 = nr(18);
    match request {
        MAP_DMA => true,
        UNMAP_DMA => flags & VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP != 0,
        // A request too short for its address is safe: the kernel would fault first.
        DIRTY_PAGES_FEATURE if bytes.len() <= 16 => false,
        DIRTY_PAGES_FEATURE => {
            let bitmap = flags & VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP != 0 && bytes.len() >= 48;
            let feature = flags & VFIO_DEVICE_FEATURE_MASK;
            bitmap
                || feature == VFIO_DEVICE_FEATURE_DMA_LOGGING_START
                || feature == VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT
        }
        // Its address is optional.
        BIND_IOMMUFD => flags != 0,
        IOAS_ALLOC => false,
        // This list was checked up to VFIO_DEVICE_ATTACH_IOMMUFD_PT and VFIO_MIG_GET_PRECOPY_INFO.
        _ => request > nr(21),
    }
}

/// `VFIO_GROUP_SET_CONTAINER`.
pub(crate) fn set_container(group: BorrowedFd<'_>, container: BorrowedFd<'_>) -> io::Result<()> {
    ioctl(group, nr(4), &mut container.as_raw_fd().to_ne_bytes()).map(drop)
}

/// `VFIO_GROUP_GET_DEVICE_FD`.
pub(crate) fn device_fd(group: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    let fd = ioctl(group, nr(6), &mut bytes)?;
    // SAFETY: This ioctl returns a new descriptor that belongs to its caller.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `VFIO_DEVICE_FEATURE_SET | MIG_DEVICE_STATE`. Returns the new data descriptor, if there is one.
pub(crate) fn set_mig_state(device: BorrowedFd<'_>, state: u32) -> io::Result<Option<OwnedFd>> {
    let flags = VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE;
    set_mig_state_raw(device, MIG_STATE as u32, flags, state)
}

const FEATURE: usize = size_of::<vfio_device_feature>();
const MIG_STATE: usize = FEATURE + size_of::<vfio_device_feature_mig_state>();

/// [`set_mig_state`] with any `argsz`, and with additional flags.
///
/// # Panics
///
/// If `flags` name another feature or lack `VFIO_DEVICE_FEATURE_SET`.
pub(crate) fn set_mig_state_raw(
    device: BorrowedFd<'_>,
    argsz: u32,
    flags: u32,
    state: u32,
) -> io::Result<Option<OwnedFd>> {
    assert_eq!(
        flags & VFIO_DEVICE_FEATURE_MASK,
        VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE
    );
    assert_ne!(flags & VFIO_DEVICE_FEATURE_SET, 0);
    let mut arg = [0u8; MIG_STATE];
    arg[0..4].copy_from_slice(&argsz.to_ne_bytes());
    arg[4..8].copy_from_slice(&flags.to_ne_bytes());
    arg[8..12].copy_from_slice(&state.to_ne_bytes());
    arg[12..16].copy_from_slice(&(-1i32).to_ne_bytes());
    ioctl(device, nr(17), &mut arg)?;
    let fd = i32::from_ne_bytes(arg[12..16].try_into().unwrap());
    // SAFETY: On success the kernel stores a new descriptor of the caller's, or leaves or stores -1; nobody else
    // knows it.
    Ok((fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// `VFIO_DEVICE_FEATURE` whose structure is `head` followed by the address of `buffer`. The kernel may change both;
/// `head` says how much of `buffer` it accesses.
///
/// # Safety
///
/// `head` must not let the kernel go beyond the end of `buffer`.
unsafe fn feature_with_buffer(
    device: BorrowedFd<'_>,
    flags: u32,
    head: &mut [u8],
    buffer: &mut [u8],
) -> io::Result<()> {
    let memory = Arena::new(buffer)?;
    let mut arg = Vec::with_capacity(FEATURE + head.len() + 8);
    arg.extend(((FEATURE + head.len() + 8) as u32).to_ne_bytes());
    arg.extend(flags.to_ne_bytes());
    arg.extend_from_slice(head);
    arg.extend(memory.addr().to_ne_bytes());
    let arena = Arena::new(&arg)?;
    // SAFETY: The one address in the argument is that of an arena, of which the caller says that it is large enough.
    let ret = unsafe { call(device, nr(17), arena.addr()) };
    arena.read(&mut arg);
    head.copy_from_slice(&arg[FEATURE..FEATURE + head.len()]);
    memory.read(buffer);
    ret.map(drop)
}

/// `VFIO_DEVICE_FEATURE_DMA_LOGGING_START` of ranges of IOVA and length. Returns the page size that the device chose.
pub(crate) fn logging_start(
    device: BorrowedFd<'_>,
    page_size: u64,
    ranges: &[(u64, u64)],
) -> io::Result<u64> {
    let flags = VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_START;
    let mut head = page_size.to_ne_bytes().to_vec();
    head.extend((ranges.len() as u64).to_ne_bytes());
    let mut list: Vec<u8> = ranges
        .iter()
        .flat_map(|(iova, length)| [iova.to_ne_bytes(), length.to_ne_bytes()].concat())
        .collect();
    // SAFETY: The kernel reads as many ranges as the head says, and these are there.
    unsafe { feature_with_buffer(device, flags, &mut head, &mut list)? };
    Ok(u64::from_ne_bytes(head[..8].try_into().unwrap()))
}

/// `VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT`. Returns the words of the bitmap.
///
/// # Panics
///
/// If the bitmap would exceed 16 MiB.
pub(crate) fn logging_report(
    device: BorrowedFd<'_>,
    iova: u64,
    length: u64,
    page_size: u64,
) -> io::Result<Vec<u64>> {
    let flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT;
    let mut head = [iova, length, page_size].map(u64::to_ne_bytes).concat();
    // The kernel refuses other page sizes. An unaligned range has one more page.
    let pages = length / page_size.clamp(1 << 12, 1 << 63) + 2;
    assert!(pages <= 1 << 27, "a bitmap of {pages} pages");
    let mut words = vec![0; (pages as usize).div_ceil(64) * 8];
    // SAFETY: The kernel writes a bit for each page of the range, and each has one.
    unsafe { feature_with_buffer(device, flags, &mut head, &mut words)? };
    Ok(words
        .chunks_exact(8)
        .map(|b| u64::from_ne_bytes(b.try_into().unwrap()))
        .collect())
}

/// `VFIO_IOMMU_MAP_DMA` of `memory[offset..offset + size]`.
///
/// # Safety
///
/// Devices may access the memory until it is unmapped from this container. `memory` must not be dropped before.
///
/// # Panics
///
/// If the range is not inside `memory`.
pub(crate) unsafe fn map_dma(
    container: BorrowedFd<'_>,
    argsz: u32,
    flags: u32,
    iova: u64,
    size: u64,
    memory: &Mapping,
    offset: usize,
) -> io::Result<()> {
    memory.check(offset, size.try_into().unwrap());
    let mut arg = [0u8; size_of::<vfio_iommu_type1_dma_map>()];
    arg[0..4].copy_from_slice(&argsz.to_ne_bytes());
    arg[4..8].copy_from_slice(&flags.to_ne_bytes());
    arg[8..16].copy_from_slice(&(memory.address() + offset as u64).to_ne_bytes());
    arg[16..24].copy_from_slice(&iova.to_ne_bytes());
    arg[24..32].copy_from_slice(&size.to_ne_bytes());
    let arena = Arena::new(&arg)?;
    // SAFETY: The address in the argument is that of a range inside `memory`, checked above, which is only ever
    // accessed through raw pointers and atomics; the caller keeps it mapped.
    unsafe { call(container, nr(13), arena.addr()) }.map(drop)
}

/// `VFIO_IOMMU_UNMAP_DMA` without a bitmap; returns the bytes unmapped.
pub(crate) fn unmap_dma(
    container: BorrowedFd<'_>,
    flags: u32,
    iova: u64,
    size: u64,
) -> io::Result<u64> {
    const ARGSZ: usize = offset_of!(vfio_iommu_type1_dma_unmap, data);
    let mut arg = [0; ARGSZ];
    arg[0..4].copy_from_slice(&(ARGSZ as u32).to_ne_bytes());
    arg[4..8].copy_from_slice(&flags.to_ne_bytes());
    arg[8..16].copy_from_slice(&iova.to_ne_bytes());
    arg[16..24].copy_from_slice(&size.to_ne_bytes());
    ioctl(container, nr(14), &mut arg)?;
    Ok(u64::from_ne_bytes(arg[16..24].try_into().unwrap()))
}

/// The fields of `struct vfio_bitmap`, unchecked.
#[derive(Clone, Copy)]
pub(crate) struct BitmapArg {
    pub(crate) pgsize: u64,
    pub(crate) size: u64,
    /// Pass an address that always faults.
    pub(crate) nowhere: bool,
}

/// Makes an ioctl whose argument is `head` followed by a `struct vfio_bitmap`: `UNMAP_DMA` with the bitmap flag, or
/// `DIRTY_PAGES` with `GET_BITMAP`. Returns the bitmap. The kernel may change `head`.
pub(crate) fn with_bitmap(
    container: BorrowedFd<'_>,
    request: u32,
    head: &mut [u8],
    bitmap: BitmapArg,
) -> io::Result<Vec<u64>> {
    /// The kernel's limit on one bitmap. It refuses a larger `size` before it uses the address.
    const MAX: u64 = 1 << 28;
    let words = if bitmap.nowhere || bitmap.size > MAX {
        None
    } else {
        Some(Arena::zeroed(
            (bitmap.size as usize).next_multiple_of(size_of::<u64>()),
        )?)
    };
    let address = words.as_ref().map_or(NOWHERE, Arena::addr);
    // SAFETY: The bytes are an arena's, or the address is one that always faults.
    unsafe { bitmap_at(container, request, head, bitmap, address)? };
    let mut out = vec![0; words.as_ref().map_or(0, |w| w.len)];
    if let Some(words) = words {
        words.read(&mut out);
    }
    Ok(out
        .chunks_exact(8)
        .map(|b| u64::from_ne_bytes(b.try_into().unwrap()))
        .collect())
}

/// [`with_bitmap`] with the bitmap inside a mapping.
///
/// # Panics
///
/// If it is not inside the mapping.
pub(crate) fn with_bitmap_in(
    container: BorrowedFd<'_>,
    request: u32,
    head: &mut [u8],
    bitmap: BitmapArg,
    memory: &Mapping,
    at: usize,
) -> io::Result<()> {
    memory.check(at, bitmap.size.try_into().unwrap_or(usize::MAX));
    let address = memory.address() + at as u64;
    // SAFETY: The bytes are inside `memory`, which is only accessed through raw pointers and atomics.
    unsafe { bitmap_at(container, request, head, bitmap, address) }
}

/// Makes the ioctl of [`with_bitmap`], with the bitmap at an address.
///
/// # Safety
///
/// The kernel may write `bitmap.size` bytes there.
unsafe fn bitmap_at(
    container: BorrowedFd<'_>,
    request: u32,
    head: &mut [u8],
    bitmap: BitmapArg,
    address: u64,
) -> io::Result<()> {
    assert!(request == nr(14) || request == nr(17));
    let mut arg = head.to_vec();
    arg.extend(bitmap.pgsize.to_ne_bytes());
    arg.extend(bitmap.size.to_ne_bytes());
    arg.extend(address.to_ne_bytes());
    let arena = Arena::new(&arg)?;
    // SAFETY: The one address that the kernel follows in these arguments is the bitmap's. It writes at most `size`
    // bytes there, which the caller answers for.
    let ret = unsafe { call(container, request, arena.addr()) };
    arena.read(head);
    ret.map(drop)
}

/// Makes any VFIO ioctl whose argument is inside a mapping, so that the kernel waits for a page of it. The argument may
/// change at any time and cannot be checked, so the process aborts if the call succeeds.
pub(crate) fn ioctl_in(
    fd: BorrowedFd<'_>,
    request: u32,
    memory: &Mapping,
    at: usize,
) -> io::Result<std::convert::Infallible> {
    if request & 0xffff_ff00 != u32::from(VFIO_TYPE) << 8 {
        return Err(io::Error::from_raw_os_error(libc::EPERM));
    }
    memory.check(at, GUARD);
    // SAFETY: The kernel writes at the argument no further than the guard's size, which `memory` has there. Whatever the
    // argument makes it do to other memory, it reports success, and no code of this process can see it after that.
    match unsafe { call(fd, request, memory.address() + at as u64) } {
        Ok(_) => std::process::abort(),
        Err(e) => Err(e),
    }
}

// The offsets used above.
const _: () = {
    assert!(size_of::<vfio_bitmap>() == 24);
    assert!(size_of::<vfio_iommu_type1_dirty_bitmap_get>() == 40);
    assert!(offset_of!(vfio_iommu_type1_dma_map, vaddr) == 8);
    assert!(offset_of!(vfio_iommu_type1_dma_map, iova) == 16);
};

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    #[test]
    fn arena_ends_at_the_guard() {
        for len in [0, 1, 7, 8, 4095, 4096, 4097] {
            let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let arena = Arena::new(&bytes).unwrap();
            assert_eq!((arena.start() as usize + len) % PAGE, 0);
            let mut back = vec![0xff; len];
            arena.read(&mut back);
            assert_eq!(back, bytes);
        }
    }

    #[test]
    fn arguments_that_hold_addresses_are_not_sent() {
        let file = File::open("/dev/null").unwrap();
        let refused = |n: u32, bytes: &[u8]| {
            let e = ioctl(file.as_fd(), n, &mut bytes.to_vec()).unwrap_err();
            e.raw_os_error() == Some(libc::EPERM)
        };
        let with_flags = |len: usize, flags: u32| {
            let mut b = vec![0; len];
            b[4..8].copy_from_slice(&flags.to_ne_bytes());
            b
        };
        assert!(refused(nr(13), &[0; 32]));
        assert!(refused(nr(14), &with_flags(48, 1)));
        assert!(!refused(nr(14), &with_flags(24, 2)));
        assert!(refused(nr(17), &with_flags(48, 4)));
        assert!(!refused(nr(17), &with_flags(8, 1)));
        assert!(refused(nr(17), &with_flags(40, 0x2_0008)));
        assert!(refused(nr(17), &with_flags(40, 0x2_0006)));
        assert!(!refused(nr(17), &with_flags(16, 0x2_0002)));
        assert!(refused(nr(18), &with_flags(24, 1)));
        assert!(!refused(nr(18), &[0; 16]));
        assert!(!refused(IOAS_ALLOC, &[0; 12]));
        assert!(refused(nr(22), &[0; 24]));
        // Not VFIO's: FIONREAD.
        assert!(refused(0x541b, &[0; 4]));
    }

    #[test]
    fn an_address_outside_user_memory_faults() {
        let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
        // FIONREAD writes an int to its argument.
        let e = ioctl_nowhere(a.as_fd(), 0x541b).unwrap_err();
        assert_eq!(e.raw_os_error(), Some(libc::EFAULT));
    }
}
