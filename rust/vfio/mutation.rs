// SPDX-License-Identifier: GPL-2.0

//! A mutation: writes to guest memory that type1 is not told of.
//!
//! A migration test that finds no lost memory is evidence only if it fails when memory is lost. `make
//! MUTATION=dirty-page` builds a module that loses guest memory in each migration. No other build contains
//! this file.
//!
//! The device keeps a `struct page` of each page that it pinned before the save. During the save it writes
//! through that page, so type1 does not see the write. The module leaves out up to 16 pages that are not
//! pinned, the last ones that the device writes before it stops. When it leaves out one more, it reports the
//! oldest. One page would not do: the VMM may send it anyway, because the guest's processor wrote to it or
//! because an earlier write was reported and not yet read from the bitmap.
//!
//! At close the module logs one line for each page that it left out, or one line that says that there was
//! none. The lines begin with "mutation:".

use core::{
    cell::UnsafeCell,
    ops::{
        Deref,
        DerefMut, //
    },
    ptr,
    sync::atomic::{
        AtomicBool,
        AtomicUsize,
        Ordering, //
    },
};
use kernel::{
    ffi::c_void,
    page::PAGE_SIZE,
    prelude::*, //
};
use kernel_ext::sched::cond_resched;
use vfio_bindings as bindings;

/// The most pages that are kept.
const PAGES: usize = 4096;
/// The most pages that are left out.
const LEFT_OUT: usize = 16;
/// No page.
const NONE: u64 = u64::MAX;

/// Address of the tracked memory, or 0.
static MEMORY: AtomicUsize = AtomicUsize::new(0);
/// Whether a save began after the last close.
static SAVED: AtomicBool = AtomicBool::new(false);

/// A page that was pinned.
///
/// # Invariants
///
/// A reference to the page is held.
struct Stale {
    iova: u64,
    page: *mut bindings::page,
}

struct State {
    /// The device that the pages belong to.
    device: *mut bindings::vfio_device,
    pages: [Option<Stale>; PAGES],
    /// A ring of the pages left out, and the index of the next one.
    left_out: [u64; LEFT_OUT],
    next: usize,
}

struct Lock {
    locked: AtomicBool,
    state: UnsafeCell<State>,
}

// SAFETY: Only the thread that set `locked` accesses the state, and any thread may use a `struct page`.
unsafe impl Sync for Lock {}

static LOCK: Lock = Lock {
    locked: AtomicBool::new(false),
    state: UnsafeCell::new(State {
        device: ptr::null_mut(),
        pages: [const { None }; PAGES],
        left_out: [NONE; LEFT_OUT],
        next: 0,
    }),
};

/// # Invariants
///
/// This guard set `LOCK.locked`.
struct Guard;

impl Guard {
    fn try_new() -> Option<Guard> {
        // INVARIANT: The swap found `locked` clear and set it.
        (!LOCK.locked.swap(true, Ordering::Acquire)).then_some(Guard)
    }
}

impl Deref for Guard {
    type Target = State;

    fn deref(&self) -> &State {
        // SAFETY: By the invariant nobody else accesses the state.
        unsafe { &*LOCK.state.get() }
    }
}

impl DerefMut for Guard {
    fn deref_mut(&mut self) -> &mut State {
        // SAFETY: By the invariant nobody else accesses the state.
        unsafe { &mut *LOCK.state.get() }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        LOCK.locked.store(false, Ordering::Release);
    }
}

/// Notes that dirty tracking of `memory` begins or ends.
pub fn saving(memory: usize, tracked: bool) {
    let (from, to) = if tracked { (0, memory) } else { (memory, 0) };
    let changed = MEMORY.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst);
    if tracked && changed.is_ok() {
        SAVED.store(true, Ordering::SeqCst);
    }
}

/// Releases all pages and logs which were left out. The device is stopped and about to be closed.
pub(crate) fn forget() {
    let mut state = loop {
        match Guard::try_new() {
            Some(state) => break state,
            // SAFETY: Nothing is held that forbids sleeping.
            None => cond_resched(),
        }
    };
    state.device = ptr::null_mut();
    let left_out = core::mem::replace(&mut state.left_out, [NONE; LEFT_OUT]);
    if SAVED.swap(false, Ordering::SeqCst) && left_out == [NONE; LEFT_OUT] {
        pr_warn!("mutation: no page of the guest memory was left out\n");
    }
    for iova in left_out.into_iter().filter(|&iova| iova != NONE) {
        pr_warn!("mutation: type1 was not told of the page at {iova:#x}\n");
    }
    for stale in state.pages.iter_mut().filter_map(Option::take) {
        // SAFETY: By the invariant of `Stale` we hold a reference, which is released here.
        unsafe { bindings::vfio_rs_put_page(stale.page) };
    }
}

/// Writes through a kept page, up to the end of that page, and returns the number of bytes written.
///
/// Returns 0 if the write is not to be left out.
///
/// # Safety
///
/// The device is open, and `from` is valid for reads of `len` bytes.
pub(crate) unsafe fn divert(
    device: *mut bindings::vfio_device,
    iova: u64,
    from: *const u8,
    len: usize,
) -> usize {
    let Some(mut state) = Guard::try_new() else {
        return 0;
    };
    if state.device.is_null() {
        state.device = device;
    }
    if state.device != device {
        return 0;
    }
    let head = iova as usize % PAGE_SIZE;
    let start = iova - head as u64;
    let at = (start / PAGE_SIZE as u64) as usize % PAGES;

    if MEMORY.load(Ordering::SeqCst) == 0 {
        state.left_out = [NONE; LEFT_OUT];
        if state.pages[at].is_none() {
            // SAFETY: The device is open.
            state.pages[at] = unsafe { pin(device, start, true) };
        }
        return 0;
    }
    let Some(stale) = state.pages[at].as_ref().filter(|stale| stale.iova == start) else {
        return 0;
    };
    let n = len.min(PAGE_SIZE - head);
    // SAFETY: By the invariant of `Stale` the page exists, and `head + n` is inside it. The caller guarantees
    // `from`. Pages that type1 pins are in the direct mapping.
    unsafe {
        let to = bindings::vfio_rs_page_address(stale.page).cast::<u8>();
        bindings::memcpy(to.add(head).cast::<c_void>(), from.cast::<c_void>(), n);
    }
    if !state.left_out.contains(&start) {
        let next = state.next % LEFT_OUT;
        state.next = next + 1;
        let before = core::mem::replace(&mut state.left_out[next], start);
        if before != NONE {
            // SAFETY: The device is open.
            unsafe { pin(device, before, false) };
        }
    }
    n
}

/// Pins a page and unpins it, which reports it as dirty. Keeps a reference if `keep` is set.
///
/// # Safety
///
/// The device is open.
unsafe fn pin(device: *mut bindings::vfio_device, iova: u64, keep: bool) -> Option<Stale> {
    let prot = (bindings::IOMMU_READ | bindings::IOMMU_WRITE) as i32;
    let mut page = ptr::null_mut();
    // SAFETY: The caller guarantees an open device. There is room for one page. The page is pinned while
    // the reference is taken, and unpinned once.
    unsafe {
        if bindings::vfio_pin_pages(device, iova, 1, prot, &mut page) != 1 {
            return None;
        }
        if keep {
            bindings::vfio_rs_get_page(page);
        }
        bindings::vfio_unpin_pages(device, iova, 1);
    }
    // INVARIANT: The reference was taken above.
    keep.then_some(Stale { iova, page })
}
