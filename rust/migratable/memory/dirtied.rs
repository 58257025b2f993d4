// SPDX-License-Identifier: GPL-2.0

//! Telling who waits for something to become dirty.
//!
//! Marking a page is on the path of every page fault and every step of an worker, and hardly ever is
//! somebody waiting. So who waits says so first, and a mark costs one look at that.

use core::sync::atomic::{
    AtomicBool,
    Ordering, //
};
use kernel::{
    fs::File,
    new_poll_condvar,
    prelude::*,
    sync::{
        poll::{
            PollCondVar,
            PollTable, //
        },
        Arc, //
    },
};

/// Those who poll for dirty pages.
#[pin_data]
pub(crate) struct Dirtied {
    /// Somebody waits.
    armed: AtomicBool,
    #[pin]
    queue: PollCondVar,
}

impl Dirtied {
    /// Nobody waits.
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                armed: AtomicBool::new(false),
                queue <- new_poll_condvar!("device memory dirtied"),
            }),
            GFP_KERNEL,
        )
    }

    /// Has `file`'s poller woken by the next [`Dirtied::notify`]. What it waits for must be looked at
    /// after this.
    pub(crate) fn register(&self, file: &File, table: &PollTable<'_>) {
        table.register_wait(file, &self.queue);
        // Before the look at the dirty map, as a mark comes before the look at this.
        self.armed.store(true, Ordering::SeqCst);
    }

    /// Wakes all pollers, after something was marked or changed.
    #[inline]
    pub(crate) fn notify(&self) {
        if self.armed.load(Ordering::SeqCst) {
            self.armed.store(false, Ordering::SeqCst);
            self.queue.notify_all();
        }
    }
}
