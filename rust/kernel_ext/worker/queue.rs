// SPDX-License-Identifier: GPL-2.0

//! A worker that is a work queue, for kernels without `vhost_task`.
//!
//! It freezes when the host suspends. It belongs to nobody: no cgroup limits it, and no signal reaches
//! it.

use super::job::{
    Due,
    Job, //
};
use core::{
    ptr::{
        self,
        NonNull, //
    },
    sync::atomic::{
        AtomicPtr,
        Ordering::SeqCst, //
    },
};
use kernel::{
    ffi::{
        c_int,
        c_ulong, //
    },
    prelude::*,
    types::Opaque, //
};
use vfio_bindings as bindings;

/// A work queue, destroyed when dropped.
struct Queue(NonNull<bindings::workqueue_struct>);

impl Queue {
    /// Creates a work queue.
    fn new(name: &CStr) -> Result<Self> {
        // SAFETY: `name` is a string, and copied.
        let queue = unsafe { bindings::vfio_rs_alloc_workqueue(name.as_char_ptr(), 1, true) };
        NonNull::new(queue).map(Self).ok_or(ENOMEM)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: Nothing is queued any more: the worker has cancelled its work item.
        unsafe { bindings::destroy_workqueue(self.0.as_ptr()) };
    }
}

/// Runs a job.
#[pin_data(PinnedDrop)]
pub struct Worker<J> {
    /// The work item, which is `work`.
    #[pin]
    work: Opaque<bindings::delayed_work>,
    queue: Queue,
    /// The job; null until there is one.
    job: AtomicPtr<J>,
}

// SAFETY: A work queue and its items may be used on any thread.
unsafe impl<J: Send + Sync> Send for Worker<J> {}

// SAFETY: As above; the rest is atomic.
unsafe impl<J: Send + Sync> Sync for Worker<J> {}

impl<J> Worker<J> {
    /// Creates a worker without a job. Its work queue is called `name`.
    pub fn new(name: &'static CStr) -> impl PinInit<Self, Error>
    where
        J: Job,
    {
        try_pin_init!(Self {
            work <- Opaque::ffi_init(|slot| {
                // SAFETY: `slot` is valid for writes and pinned.
                unsafe { bindings::vfio_rs_init_delayed_work(slot, Some(Self::work)) }
            }),
            queue: Queue::new(name)?,
            job: AtomicPtr::new(ptr::null_mut()),
        })
    }

    /// Runs the job in the work queue.
    ///
    /// # Safety
    ///
    /// `job` must be valid until [`Worker::stop`] has returned.
    pub unsafe fn adopt(&self, job: NonNull<J>) -> Result {
        self.job.store(job.as_ptr(), SeqCst);
        self.wake();
        Ok(())
    }

    /// Queues a check whether the job is due. Any context.
    pub fn wake(&self) {
        self.queue(0, true);
    }

    /// Returns whether the worker has a job.
    pub fn lives(&self) -> bool {
        true
    }

    /// Gives up the job. Does not wait for a turn in progress.
    pub fn retire(&self) {
        // SAFETY: The work item was initialised and is pinned.
        unsafe { bindings::cancel_delayed_work(self.work.get()) };
    }

    /// Gives up the job. When this returns, nothing uses it.
    ///
    /// Must not be called by the job.
    pub fn stop(&self) {
        self.job.store(ptr::null_mut(), SeqCst);
        // SAFETY: The work item was initialised and is pinned.
        unsafe { bindings::cancel_delayed_work_sync(self.work.get()) };
    }

    /// Queues the work item. If it is queued already, `sooner` changes its time.
    fn queue(&self, msecs: u32, sooner: bool) {
        let (cpu, queue, work) = (
            bindings::wq_misc_consts_WORK_CPU_UNBOUND as c_int,
            self.queue.0.as_ptr(),
            self.work.get(),
        );
        // SAFETY: A conversion without preconditions. The work queue and the work item are valid until
        // `drop` has cancelled it.
        unsafe {
            let delay: c_ulong = bindings::__msecs_to_jiffies(msecs);
            if sooner {
                bindings::mod_delayed_work_on(cpu, queue, work, delay);
            } else {
                bindings::queue_delayed_work_on(cpu, queue, work, delay);
            }
        }
    }

    /// The work function.
    ///
    /// # Safety
    ///
    /// `work` must be that of a worker.
    unsafe extern "C" fn work(work: *mut bindings::work_struct)
    where
        J: Job,
    {
        // SAFETY: By the requirement of this function; it is in the field `work`. The worker is not
        // dropped before the work item has ended.
        let this = unsafe {
            let work = kernel::container_of!(work, bindings::delayed_work, work);
            &*kernel::container_of!(Opaque::cast_from(work), Self, work)
        };
        let Some(job) = NonNull::new(this.job.load(SeqCst)) else {
            return;
        };
        // SAFETY: The caller of `adopt` has vouched for it, and `stop` waits for this.
        let job = unsafe { job.as_ref() };
        if job.due() == Due::Now {
            job.run();
        }
        match job.due() {
            Due::Never => {}
            Due::Now => this.queue(0, false),
            // Rounded up: a work item that comes too early would only be queued again.
            Due::In(left) => {
                this.queue(left.as_millis_ceil().try_into().unwrap_or(u32::MAX), false)
            }
        }
    }
}

#[pinned_drop]
impl<J> PinnedDrop for Worker<J> {
    fn drop(self: Pin<&mut Self>) {
        self.stop();
    }
}
