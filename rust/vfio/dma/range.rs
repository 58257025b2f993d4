// SPDX-License-Identifier: GPL-2.0

//! A range of guest memory: its access and its pages.

use super::device::OpenDevice;
use crate::trace;
use core::sync::atomic::{
    AtomicBool,
    Ordering, //
};
use kernel::{
    error::to_result,
    new_spinlock,
    page::PAGE_SIZE,
    prelude::*,
    sync::SpinLock, //
};
use vfio_bindings as bindings;

/// The access that a range is pinned for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading only.
    Read,
    /// Reading and writing.
    ReadWrite,
}

/// The pages of a range.
///
/// # Invariants
///
/// All are pinned until [`Range::withdraw`].
struct Pages(KVVec<*mut bindings::page>);

// SAFETY: A `struct page` is not tied to a thread.
unsafe impl Send for Pages {}

/// The most pages that are accessed in one piece.
const RUN: usize = 4;

impl Pages {
    /// Returns the address of page number `index`.
    #[inline]
    fn address(&self, index: usize) -> Option<*mut u8> {
        let page = *self.0.get(index)?;
        // SAFETY: The page is pinned by the invariant of `Pages`, and stays so while this is locked. Pages
        // that type1 pins are in the direct mapping; its own `dma_rw` relies on that too.
        Some(unsafe { bindings::vfio_rs_page_address(page) }.cast::<u8>())
    }

    /// Returns the address of byte `at`, and how many of the next `len` bytes follow it in the direct
    /// mapping. Pages that belong to one folio follow each other there.
    #[inline]
    fn run(&self, at: usize, len: usize) -> Option<(*mut u8, usize)> {
        let (first, within) = (at / PAGE_SIZE, at % PAGE_SIZE);
        let address = self.address(first)?;
        let mut n = PAGE_SIZE - within;
        let mut pages = 1;
        while n < len
            && pages < RUN
            && self.address(first + pages) == Some(address.wrapping_add(pages * PAGE_SIZE))
        {
            n += PAGE_SIZE;
            pages += 1;
        }
        Some((address.wrapping_add(within), n.min(len)))
    }
}

/// A range that is pinned for a device, or about to be.
#[pin_data]
pub(super) struct Range {
    /// The device that it is pinned for.
    device: OpenDevice,
    /// IOVA of the first page.
    pub(super) start: u64,
    /// Number of pages.
    count: usize,
    /// Bytes of the first page before the range.
    head: usize,
    /// Bytes in the range.
    len: usize,
    /// The access that it is pinned for.
    access: Access,
    /// The pages while they are pinned. Locked over each access to them.
    #[pin]
    contents: SpinLock<Option<Pages>>,
    /// Whether `contents` has pages. Changed with `contents` locked, and read without.
    published: AtomicBool,
}

impl Range {
    /// Returns a range without contents.
    pub(super) fn new(
        device: OpenDevice,
        start: u64,
        count: usize,
        head: usize,
        len: usize,
        access: Access,
    ) -> impl PinInit<Self> {
        pin_init!(Self {
            device,
            start,
            count,
            head,
            len,
            access,
            contents <- new_spinlock!(None, "dma contents"),
            published: AtomicBool::new(false),
        })
    }

    /// Returns the IOVA of the range's first byte.
    pub(super) fn iova(&self) -> u64 {
        self.start + self.head as u64
    }

    /// Returns whether the pages are inaccessible.
    pub(super) fn is_withdrawn(&self) -> bool {
        !self.published.load(Ordering::Relaxed)
    }

    /// Returns the protection to ask type1 for.
    fn prot(&self) -> i32 {
        (match self.access {
            Access::Read => bindings::IOMMU_READ,
            Access::ReadWrite => bindings::IOMMU_READ | bindings::IOMMU_WRITE,
        }) as i32
    }

    /// Returns whether a page of the range has a byte in `first..=last`.
    pub(super) fn overlaps(&self, first: u64, last: u64) -> bool {
        let (start, end) = self.span();
        start <= last && first <= end
    }

    /// Returns the IOVAs of the first and the last byte of the range's pages.
    pub(super) fn span(&self) -> (u64, u64) {
        // The range does not wrap, so its last page has a last byte.
        (
            self.start,
            self.start + ((self.count * PAGE_SIZE) as u64 - 1),
        )
    }

    /// Makes the pages accessible.
    ///
    /// # Safety
    ///
    /// All must be pinned, and stay so until [`Range::withdraw`].
    pub(super) unsafe fn publish(&self, pages: KVVec<*mut bindings::page>) {
        // INVARIANT: By the requirements of this function.
        let mut contents = self.contents.lock();
        *contents = Some(Pages(pages));
        self.published.store(true, Ordering::Relaxed);
    }

    /// Makes the pages inaccessible and returns how many there were. Waits for accesses in flight.
    pub(super) fn withdraw(&self) -> usize {
        let mut contents = self.contents.lock();
        self.published.store(false, Ordering::Relaxed);
        let pages = contents.take();
        drop(contents);
        pages.map_or(0, |pages| pages.0.len())
    }

    /// Splits `len` bytes at `offset` of the range into pieces. Calls `access` with the index of the first
    /// byte of each piece, its address and its length. Returns how many bytes were accessed, and the error
    /// that ended it.
    ///
    /// The error is `ENODEV` if the range was revoked, and `EINVAL` if the bytes are outside it.
    pub(super) fn each(
        &self,
        offset: usize,
        len: usize,
        mut access: impl FnMut(usize, *mut u8, usize),
    ) -> (usize, Result) {
        match offset.checked_add(len) {
            Some(end) if end <= self.len => (),
            _ => return (0, Err(EINVAL)),
        }
        let mut done = 0;
        while done < len {
            let at = self.head + offset + done;
            // Lock for a few pages at a time, so that an unmap waits no longer than that.
            let contents = self.contents.lock();
            let Some(pages) = contents.as_ref() else {
                return (done, Err(ENODEV));
            };
            let Some((address, n)) = pages.run(at, len - done) else {
                return (done, Err(EINVAL));
            };
            access(done, address, n);
            done += n;
        }
        (len, Ok(()))
    }

    /// Calls `access` with the address of a naturally aligned 64-bit word.
    pub(super) fn word(&self, offset: usize, mut access: impl FnMut(*mut u64)) -> Result {
        if self.head.wrapping_add(offset) % size_of::<u64>() != 0 {
            return Err(EINVAL);
        }
        // CAST: Aligned, so it is in one piece.
        let (_, result) = self.each(offset, size_of::<u64>(), |_, address, _| {
            access(address.cast::<u64>())
        });
        result
    }

    /// Refuses to write a range that is pinned for reading.
    pub(super) fn writable(&self) -> Result {
        match self.access {
            Access::Read => Err(EPERM),
            Access::ReadWrite => Ok(()),
        }
    }

    /// Pins the pages. Returns how many type1 pinned.
    ///
    /// # Safety
    ///
    /// The device must be open for the length of the call.
    pub(super) unsafe fn pin(&self, pages: &mut [*mut bindings::page]) -> Result<usize> {
        // SAFETY: By the requirement of this function; the array has this many places.
        let ret = unsafe {
            bindings::vfio_pin_pages(
                self.device.0.as_ptr(),
                self.start,
                pages.len() as i32,
                self.prot(),
                pages.as_mut_ptr(),
            )
        };
        let writable = self.access == Access::ReadWrite;
        // SAFETY: By the requirement of this function.
        unsafe {
            trace::pin(
                self.device.0.as_ptr(),
                self.start,
                pages.len(),
                writable,
                ret,
            )
        };
        to_result(ret)?;
        Ok(ret as usize)
    }

    /// Unpins the first `count` pages.
    ///
    /// # Safety
    ///
    /// These pages must be pinned, and nobody may use them any more. The device must be open.
    pub(super) unsafe fn unpin(&self, count: usize) {
        if count != 0 {
            // SAFETY: By the requirements of this function.
            unsafe {
                bindings::vfio_unpin_pages(self.device.0.as_ptr(), self.start, count as i32);
                trace::unpin(self.device.0.as_ptr(), self.start, count);
            }
        }
    }
}
