// SPDX-License-Identifier: GPL-2.0

//! A pinned range of guest memory.

use super::{
    pins::Pins,
    Access,
    OpenDevice, //
};
use crate::bindings;
use core::sync::atomic::{
    AtomicBool,
    AtomicU32,
    AtomicU64,
    Ordering, //
};
use kernel::{
    ffi::c_void,
    new_spinlock,
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        Arc,
        SpinLock, //
    },
    workqueue::{
        impl_has_work,
        new_work,
        Work,
        WorkItem, //
    },
};

/// The pages of a range.
///
/// # Invariants
///
/// All are pinned, until [`Range::withdraw`] takes them away.
struct Pages(KVVec<*mut bindings::page>);

// SAFETY: A `struct page` is not tied to a thread.
unsafe impl Send for Pages {}

/// A range, as the list of pinned ranges and its holder share it.
#[pin_data]
pub(super) struct Range {
    /// The device it was pinned for.
    pub(super) device: OpenDevice,
    /// IOVA of the first page.
    pub(super) start: u64,
    /// Number of pages.
    count: usize,
    /// Bytes of the first page before the range.
    head: usize,
    /// Bytes in the range.
    len: usize,
    /// What it is pinned for.
    access: Access,
    /// The pages while they are pinned. Locked over each access to them.
    #[pin]
    contents: SpinLock<Option<Pages>>,
    /// Whether `contents` has pages. Changed with `contents` locked, and read without.
    published: AtomicBool,
    /// The list that the range is in.
    pub(super) pins: Arc<Pins>,
    /// Unpins the range when its memory is unmapped.
    #[pin]
    work: Work<Self>,
}

impl_has_work! {
    impl HasWork<Self> for Range { self.work }
}

impl WorkItem for Range {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        this.pins.unpin_condemned(&this);
    }
}

impl Range {
    /// A range without contents.
    pub(super) fn new(
        pins: Arc<Pins>,
        device: OpenDevice,
        start: u64,
        count: usize,
        head: usize,
        len: usize,
        access: Access,
    ) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                device,
                start,
                count,
                head,
                len,
                access,
                contents <- new_spinlock!(None, "dma contents"),
                published: AtomicBool::new(false),
                pins,
                work <- new_work!("dma unpin"),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// The protection to ask type1 for.
    pub(super) fn prot(&self) -> i32 {
        (match self.access {
            Access::Read => bindings::IOMMU_READ,
            Access::ReadWrite => bindings::IOMMU_READ | bindings::IOMMU_WRITE,
        }) as i32
    }

    /// Whether the range has a byte in `first..=last`, counted in whole pages.
    pub(super) fn overlaps(&self, first: u64, last: u64) -> bool {
        let (start, end) = self.span();
        start <= last && first <= end
    }

    /// The IOVAs of the first and the last byte of the range's pages.
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

    /// Makes the pages inaccessible, and returns how many there were. No access is in flight then.
    pub(super) fn withdraw(&self) -> usize {
        let mut contents = self.contents.lock();
        self.published.store(false, Ordering::Relaxed);
        let pages = contents.take();
        drop(contents);
        pages.map_or(0, |pages| pages.0.len())
    }

    /// Hands `access` the address of `len` bytes at `offset` of the range, in pieces that each lie in
    /// one page, with the index of a piece's first byte.
    ///
    /// Fails with `ENODEV` if the range was revoked, and `EINVAL` if it has no such bytes.
    fn each(
        &self,
        offset: usize,
        len: usize,
        mut access: impl FnMut(usize, *mut u8, usize),
    ) -> Result {
        let end = offset.checked_add(len).ok_or(EINVAL)?;
        if end > self.len {
            return Err(EINVAL);
        }
        let mut done = 0;
        while done < len {
            let at = self.head + offset + done;
            let n = (PAGE_SIZE - at % PAGE_SIZE).min(len - done);

            // One page at a time: pages may be revoked in between, but no longer wait for it.
            let contents = self.contents.lock();
            let pages = contents.as_ref().ok_or(ENODEV)?;
            let page = *pages.0.get(at / PAGE_SIZE).ok_or(EINVAL)?;
            // SAFETY: The page is pinned by the invariant of `Pages`, and stays so while the lock is
            // held. Pages type1 pins are in the direct mapping, as its own `dma_rw` relies on too.
            let address = unsafe { bindings::vfio_rs_page_address(page) }.cast::<u8>();
            // `at % PAGE_SIZE + n` is inside the page.
            access(done, address.wrapping_add(at % PAGE_SIZE), n);
            done += n;
        }
        Ok(())
    }

    /// Hands `access` the address of a naturally aligned word.
    fn word<T, W>(&self, offset: usize, access: impl FnOnce(*mut T) -> W) -> Result<W> {
        if self.head.wrapping_add(offset) % size_of::<T>() != 0 {
            return Err(EINVAL);
        }
        let mut access = Some(access);
        let mut word = None;
        self.each(offset, size_of::<T>(), |_, address, _| {
            if let Some(access) = access.take() {
                // CAST: Aligned, so it is in one piece.
                word = Some(access(address.cast::<T>()));
            }
        })?;
        word.ok_or(EINVAL)
    }

    /// Refuses to write a range that is pinned for reading.
    pub(super) fn writable(&self) -> Result {
        match self.access {
            Access::Read => Err(EPERM),
            Access::ReadWrite => Ok(()),
        }
    }
}

/// Guest memory that stays where it is while this exists, or until its user unmaps it.
///
/// Unmapping is not the holder's business: it takes the pages away at once (P35). Every access after
/// that fails with `ENODEV`, and none touches a page that is not pinned. `EINVAL` is for an offset
/// that is not inside the range or a word that is not aligned, `EPERM` for a write to a range pinned
/// for reading. The guest may access the memory at the same time.
pub struct PinnedRange {
    range: Arc<Range>,
}

impl PinnedRange {
    /// A range that has just been pinned.
    pub(super) fn new(range: Arc<Range>) -> Self {
        Self { range }
    }

    /// IOVA of the first byte.
    pub fn iova(&self) -> u64 {
        self.range.start + self.range.head as u64
    }

    /// Number of bytes.
    #[expect(clippy::len_without_is_empty, reason = "a pinned range is never empty")]
    pub fn len(&self) -> usize {
        self.range.len
    }

    /// Whether the memory was unmapped. What is not revoked may be at any moment.
    pub fn is_revoked(&self) -> bool {
        !self.range.published.load(Ordering::Relaxed)
    }

    /// Copies from the range.
    pub fn read_at(&self, offset: usize, data: &mut [u8]) -> Result {
        let len = data.len();
        let to = data.as_mut_ptr();
        self.range.each(offset, len, |done, from, n| {
            // SAFETY: `done + n <= len`, and `each` vouches for `n` bytes at `from`. The copy is C's,
            // for which bytes that change meanwhile are just bytes.
            unsafe {
                bindings::memcpy(to.add(done).cast::<c_void>(), from.cast::<c_void>(), n);
            }
        })
    }

    /// Copies to the range.
    pub fn write_at(&self, offset: usize, data: &[u8]) -> Result {
        // SAFETY: The slice is valid for reads of its length.
        unsafe { self.write_raw_at(offset, data.as_ptr(), data.len()) }
    }

    /// [`PinnedRange::write_at`] from memory that others may access at the same time.
    ///
    /// # Safety
    ///
    /// `from` must be valid for reads of `len` bytes by C.
    pub(crate) unsafe fn write_raw_at(&self, offset: usize, from: *const u8, len: usize) -> Result {
        self.range.writable()?;
        self.range.each(offset, len, |done, to, n| {
            // SAFETY: As in `read_at`, the other way round; the caller vouches for `from`.
            unsafe {
                bindings::memcpy(to.cast::<c_void>(), from.add(done).cast::<c_void>(), n);
            }
        })
    }

    /// Reads a little-endian word in one access. What is read after it is at least as new.
    pub fn read_u32(&self, offset: usize) -> Result<u32> {
        self.range.word(offset, |word| {
            // SAFETY: `word` is valid and aligned, and accessed as a whole.
            u32::from_le(unsafe { AtomicU32::from_ptr(word) }.load(Ordering::Acquire))
        })
    }

    /// Reads a little-endian word in one access. What is read after it is at least as new.
    pub fn read_u64(&self, offset: usize) -> Result<u64> {
        self.range.word(offset, |word| {
            // SAFETY: `word` is valid and aligned, and accessed as a whole.
            u64::from_le(unsafe { AtomicU64::from_ptr(word) }.load(Ordering::Acquire))
        })
    }

    /// Writes a little-endian word in one access, seen not before what was written earlier.
    pub fn write_u32(&self, offset: usize, value: u32) -> Result {
        self.range.writable()?;
        self.range.word(offset, |word| {
            // SAFETY: `word` is valid and aligned, and accessed as a whole.
            unsafe { AtomicU32::from_ptr(word) }.store(value.to_le(), Ordering::Release);
        })
    }

    /// Writes a little-endian word in one access, seen not before what was written earlier.
    pub fn write_u64(&self, offset: usize, value: u64) -> Result {
        self.range.writable()?;
        self.range.word(offset, |word| {
            // SAFETY: `word` is valid and aligned, and accessed as a whole.
            unsafe { AtomicU64::from_ptr(word) }.store(value.to_le(), Ordering::Release);
        })
    }
}

impl Drop for PinnedRange {
    fn drop(&mut self) {
        self.range.pins.release(&self.range);
    }
}
