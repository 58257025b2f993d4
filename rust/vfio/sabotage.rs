// SPDX-License-Identifier: GPL-2.0

//! A mistake made on purpose: pages of guest memory that are written without type1's knowledge, through a
//! `struct page` of an earlier pin.
//!
//! A test that nothing is lost in a migration proves something only if it fails when something is. `make
//! BREAK=dirty-page` builds a module that loses something in each migration; no other module has this file.
//!
//! These are the pages that the device wrote last before it stops. What is written is left out, and the
//! pages that were left out before are reported instead. They are a few, for others report pages too: the
//! processor's writes are the VMM's to see, and what type1 was told earlier may not have been asked for yet.
//!
//! When the device is closed the log has a line that begins with "sabotage:" for each page left out, or one
//! that says that there was none.

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

/// The most pages remembered.
const PAGES: usize = 4096;
/// The most pages that type1 is not told of.
const LEFT_OUT: usize = 16;
/// No page.
const NONE: u64 = u64::MAX;

/// The memory that is tracked, as a number, or 0.
static MEMORY: AtomicUsize = AtomicUsize::new(0);
/// Whether a save has begun since a device was closed.
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
    /// The device whose pages these are.
    device: *mut bindings::vfio_device,
    pages: [Option<Stale>; PAGES],
    /// The pages that type1 does not know of, and where the next one goes.
    left_out: [u64; LEFT_OUT],
    next: usize,
}

struct Lock {
    locked: AtomicBool,
    state: UnsafeCell<State>,
}

// SAFETY: The state is only accessed by who has set `locked`, and a `struct page` is not tied to a thread.
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
/// `LOCK.locked` was set for this.
struct Guard;

impl Guard {
    fn try_new() -> Option<Guard> {
        // INVARIANT: Was clear, and is set.
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

/// Whether a memory is tracked.
pub fn saving(memory: usize, tracked: bool) {
    let (from, to) = if tracked { (0, memory) } else { (memory, 0) };
    let changed = MEMORY.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst);
    if tracked && changed.is_ok() {
        SAVED.store(true, Ordering::SeqCst);
    }
}

/// Gives up all pages. The device is about to be closed, and does not write any more.
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
        pr_warn!("sabotage: no page of the guest memory was left out\n");
    }
    for iova in left_out.into_iter().filter(|&iova| iova != NONE) {
        pr_warn!("sabotage: type1 was not told of the page at {iova:#x}\n");
    }
    for stale in state.pages.iter_mut().filter_map(Option::take) {
        // SAFETY: By the invariant of `Stale` there is a reference, given up here.
        unsafe { bindings::vfio_rs_put_page(stale.page) };
    }
}

/// Writes the first bytes of what is to be written, in the page they are in, and returns how many; none as a rule.
///
/// # Safety
///
/// The device is open, and `from` valid for reads of `len` bytes by C.
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
    // SAFETY: By the invariant of `Stale` the page is there, and `head + n` is inside it. The caller vouches for
    // `from`. Pages type1 pins are in the direct mapping.
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

/// Pins a page, which reports it, and unpins it; keeps a reference if asked to.
///
/// # Safety
///
/// The device is open.
unsafe fn pin(device: *mut bindings::vfio_device, iova: u64, keep: bool) -> Option<Stale> {
    let prot = (bindings::IOMMU_READ | bindings::IOMMU_WRITE) as i32;
    let mut page = ptr::null_mut();
    // SAFETY: By the requirements of this function; there is room for one page. It is pinned when a reference to it
    // is taken, and unpinned once.
    unsafe {
        if bindings::vfio_pin_pages(device, iova, 1, prot, &mut page) != 1 {
            return None;
        }
        if keep {
            bindings::vfio_rs_get_page(page);
        }
        bindings::vfio_unpin_pages(device, iova, 1);
    }
    // INVARIANT: The reference was just taken.
    keep.then_some(Stale { iova, page })
}
