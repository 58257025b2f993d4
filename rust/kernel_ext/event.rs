// SPDX-License-Identifier: GPL-2.0

//! Events that a thread can wait for.
//!
//! C header: [`include/linux/wait.h`](srctree/include/linux/wait.h)

use core::sync::atomic::{
    AtomicU64,
    Ordering, //
};
use kernel::{
    prelude::*,
    types::Opaque, //
};
use vfio_bindings as bindings;

/// Counts changes and wakes the threads that wait for one.
///
/// To wait for a condition, read [`Event::generation`], check the condition, then call
/// [`Event::wait_killable`] with that generation. A change after the check is not missed.
#[pin_data]
pub struct Event {
    #[pin]
    queue: Opaque<bindings::wait_queue_head>,
    generation: AtomicU64,
}

// SAFETY: A wait queue may be used on any thread.
unsafe impl Send for Event {}

// SAFETY: A wait queue has a lock of its own, and the rest is atomic.
unsafe impl Sync for Event {}

impl Event {
    /// Creates an event with generation 0.
    pub fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            queue <- Opaque::ffi_init(|slot| {
                // SAFETY: `slot` is valid for writes and pinned.
                unsafe { bindings::vfio_rs_init_waitqueue_head(slot) }
            }),
            generation: AtomicU64::new(0),
        })
    }

    /// Returns the number of changes so far.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Counts a change and wakes all waiting threads. Any context.
    #[inline]
    pub fn notify(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        // SAFETY: The queue was initialised by `new` and is pinned.
        unsafe { bindings::vfio_rs_wake_up_all(self.queue.get()) }
    }

    /// Sleeps until the generation is no longer `seen`. `EINTR` if the task is killed meanwhile.
    pub fn wait_killable(&self, seen: u64) -> Result {
        self.killable(seen, isize::MAX)
    }

    /// Sleeps until the generation is no longer `seen`, at most this time.
    fn killable(&self, seen: u64, jiffies: isize) -> Result {
        // SAFETY: The queue was initialised by `new` and is pinned, and the generation lives as long.
        let left = unsafe {
            bindings::vfio_rs_wait_for_change_killable(
                self.queue.get(),
                self.generation.as_ptr(),
                seen,
                jiffies,
            )
        };
        if left < 0 {
            return Err(EINTR);
        }
        Ok(())
    }

    /// Sleeps until the generation is no longer `seen`, at most `msecs`. `EINTR` if the task is killed
    /// meanwhile.
    pub fn wait_killable_for(&self, seen: u64, msecs: u32) -> Result {
        // SAFETY: A conversion without preconditions.
        let jiffies = unsafe { bindings::__msecs_to_jiffies(msecs) as isize };
        self.killable(seen, jiffies)
    }

    /// Sleeps until the generation is no longer `seen`, at most `msecs` if given. No signal ends the
    /// sleep. Returns whether the generation has changed.
    pub fn wait(&self, seen: u64, msecs: Option<u32>) -> bool {
        let jiffies = match msecs {
            // SAFETY: A conversion without preconditions.
            Some(msecs) => unsafe { bindings::__msecs_to_jiffies(msecs) as isize },
            None => isize::MAX,
        };

        // SAFETY: The queue was initialised by `new` and is pinned, and the generation lives as long.
        unsafe {
            bindings::vfio_rs_wait_for_change(
                self.queue.get(),
                self.generation.as_ptr(),
                seen,
                jiffies,
            )
        }
    }
}
