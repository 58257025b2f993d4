// SPDX-License-Identifier: GPL-2.0

//! Wakes threads that poll for dirty pages.
//!
//! Every page fault and every unit of work marks pages, and rarely does a thread wait. So a thread that
//! waits sets a flag first, and a mark costs one read of that flag.

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

/// The threads that poll for dirty pages.
#[pin_data]
pub(crate) struct DirtyNotifier {
    /// A thread waits.
    armed: AtomicBool,
    #[pin]
    queue: PollCondVar,
}

impl DirtyNotifier {
    /// Returns a value without waiting threads.
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                armed: AtomicBool::new(false),
                queue <- new_poll_condvar!("dirty notifier"),
            }),
            GFP_KERNEL,
        )
    }

    /// Lets the next [`DirtyNotifier::notify`] wake `file`'s poller. Check for dirty pages after this call.
    pub(crate) fn register(&self, file: &File, table: &PollTable<'_>) {
        table.register_wait(file, &self.queue);
        // Set before the dirty map is read; a mark is set before this is read.
        self.armed.store(true, Ordering::SeqCst);
    }

    /// Wakes all pollers. Called after a mark or a change of state.
    #[inline]
    pub(crate) fn notify(&self) {
        if self.armed.load(Ordering::SeqCst) {
            self.armed.store(false, Ordering::SeqCst);
            self.queue.notify_all();
        }
    }
}
