// SPDX-License-Identifier: GPL-2.0

//! The unmaps in progress: memory that is being unmapped is not pinned.
//!
//! While type1 unmaps a mapping, it looks for pinned pages in it, releases its lock, calls `dma_unmap()`
//! of each device, and looks again. At the twelfth look in a row at one mapping it assumes a broken
//! driver and panics the host. So pages must not be pinned again between two looks, and each look must
//! end with all pages unpinned, if no other thread is in the way.
//!
//! This file does the first part. A report lists the mapping, from the first callback until the thread
//! that unmaps has left its system call. Pins that overlap a report are refused at once. This holds for
//! all devices of the parent, because a device that is opened during the unmap gets no callback. `pins`
//! does the second part.
//!
//! # How a report ends
//!
//! VFIO does not tell when an unmap is done. So the callback creates a file and puts its only reference
//! at once. The kernel calls `release()` of such a file when the thread that put it returns to userspace
//! or exits. If the report or the file cannot be allocated, the device pins nothing until it is closed.

use core::{
    ptr::NonNull,
    sync::atomic::{
        AtomicU32,
        Ordering, //
    },
};
use kernel::{
    error::from_err_ptr,
    ffi::c_void,
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    },
    workqueue::Queue, //
};
use vfio_bindings as bindings;

/// The mappings that one thread unmaps: from the start of the first to the end of the last.
struct Report {
    /// The first IOVA.
    first: u64,
    /// The last IOVA.
    last: u64,
    /// The address of the thread that unmaps. It is only compared.
    thread: usize,
}

/// The queue of the work items that unpin.
///
/// # Invariants
///
/// The queue is valid, and owned by this value.
pub struct UnpinQueue(NonNull<bindings::workqueue_struct>);

// SAFETY: A work queue may be used on any thread.
unsafe impl Send for UnpinQueue {}

// SAFETY: As above.
unsafe impl Sync for UnpinQueue {}

impl UnpinQueue {
    /// Creates a queue on which any number of items run at the same time.
    pub fn new(name: &CStr) -> Result<Self> {
        // SAFETY: `name` is a string, and copied.
        // Not freezable: a thread that unmaps waits for the work and must be able to freeze.
        let queue = unsafe { bindings::vfio_rs_alloc_workqueue(name.as_char_ptr(), 0, false) };
        // INVARIANT: Created above.
        Ok(Self(NonNull::new(queue).ok_or(ENOMEM)?))
    }
}

impl Drop for UnpinQueue {
    fn drop(&mut self) {
        // SAFETY: By the invariant. This waits for the running items.
        unsafe { bindings::destroy_workqueue(self.0.as_ptr()) }
    }
}

/// The unmaps in progress of all devices of one parent.
#[pin_data]
pub struct Unmaps {
    #[pin]
    reports: Mutex<KVec<Report>>,
    /// The most looks of type1 that found the same pages pinned.
    looks_max: AtomicU32,
    queue: NonNull<bindings::workqueue_struct>,
}

// SAFETY: A work queue may be used on any thread.
unsafe impl Send for Unmaps {}

// SAFETY: The fields that change are under the lock or atomic; a work queue has locks of its own.
unsafe impl Sync for Unmaps {}

/// The private data of a report's file.
struct Ticket {
    unmaps: Arc<Unmaps>,
    thread: usize,
}

impl Unmaps {
    /// Returns an empty list.
    ///
    /// # Safety
    ///
    /// The queue must outlive each device that is given this.
    pub unsafe fn new(queue: &UnpinQueue) -> Result<Arc<Self>> {
        let queue = queue.0;
        Arc::pin_init(
            pin_init!(Self {
                reports <- new_mutex!(KVec::new(), "dma unmaps"),
                looks_max: AtomicU32::new(0),
                queue,
            }),
            GFP_KERNEL,
        )
    }

    /// Returns the queue of the work items that unpin. Nothing may be pinned any more when the parent
    /// ends.
    pub(super) fn queue(&self) -> &Queue {
        // SAFETY: By the requirements of `new`, a device that has this is gone before the queue is.
        unsafe { Queue::from_raw(self.queue.as_ptr()) }
    }

    /// Lists `first..=last` until the current thread has left its system call.
    ///
    /// Called by type1, on the thread that unmaps. An error means that the mapping is not listed.
    pub(super) fn report(self: &Arc<Self>, first: u64, last: u64) -> Result {
        // SAFETY: A function without preconditions.
        let thread = unsafe { bindings::get_current() } as usize;
        let report = Report {
            first,
            last,
            thread,
        };
        {
            let mut reports = self.reports.lock();
            // The thread has a file already. What it unmaps in one system call is one range.
            if let Some(mine) = reports.iter_mut().find(|other| other.thread == thread) {
                mine.first = mine.first.min(first);
                mine.last = mine.last.max(last);
                return Ok(());
            }
            reports.push(report, GFP_KERNEL_ACCOUNT)?;
        }
        self.end_with_system_call(thread)
            .inspect_err(|_| self.end(thread))
    }

    /// Creates a file whose release ends the reports of the current thread, and puts it.
    fn end_with_system_call(self: &Arc<Self>, thread: usize) -> Result {
        let ticket = KBox::new(
            Ticket {
                unmaps: self.clone(),
                thread,
            },
            GFP_KERNEL_ACCOUNT,
        )?;
        let ticket = KBox::into_raw(ticket);
        // SAFETY: Name and operations are static. On success the file owns the ticket.
        let file = from_err_ptr(unsafe {
            bindings::anon_inode_getfile(
                c"[vfio-unmap]".as_char_ptr(),
                OPERATIONS,
                ticket.cast::<c_void>(),
                0,
            )
        })
        .inspect_err(|_| {
            // SAFETY: There is no file, so this function still owns the ticket.
            drop(unsafe { KBox::from_raw(ticket) });
        })?;
        // SAFETY: This is the only reference. The kernel calls `release` when the thread returns to
        // userspace.
        unsafe { bindings::fput(file) };
        Ok(())
    }

    /// Ends the reports of a thread.
    fn end(&self, thread: usize) {
        self.reports.lock().retain(|report| report.thread != thread);
    }

    /// Returns whether a part of `first..=last` is being unmapped.
    pub(super) fn overlaps(&self, first: u64, last: u64) -> bool {
        self.reports
            .lock()
            .iter()
            .any(|report| report.first <= last && first <= report.last)
    }

    /// Counts `looks` of type1 that found the same pages pinned.
    pub(super) fn looked(&self, looks: u32) {
        self.looks_max.fetch_max(looks, Ordering::Relaxed);
    }

    /// Returns how many looks of type1 found the same pages pinned: the maximum since the module was
    /// loaded.
    pub fn looks_max(&self) -> u32 {
        self.looks_max.load(Ordering::Relaxed)
    }
}

/// The operations of a report's file, which keeps the module loaded.
const OPERATIONS: &bindings::file_operations = &bindings::file_operations {
    owner: (&raw const bindings::__this_module).cast_mut(),
    release: Some(release),
    ..pin_init::zeroed()
};

/// # Safety
///
/// Called once for a file with `OPERATIONS`, when its last reference is gone.
unsafe extern "C" fn release(_inode: *mut bindings::inode, file: *mut bindings::file) -> c_int {
    // SAFETY: By the requirement of this function. The file owns the ticket.
    let ticket = unsafe { KBox::from_raw((*file).private_data.cast::<Ticket>()) };
    ticket.unmaps.end(ticket.thread);
    0
}
