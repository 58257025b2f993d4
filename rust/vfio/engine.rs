// SPDX-License-Identifier: GPL-2.0

//! The engine: what runs a device.
//!
//! A device works in steps, each a call of [`Device::step`](crate::Device::step) by a worker of a
//! work queue of its own. It runs while all [`Gate`]s are open. Closing one returns when the step
//! in flight has ended and none can start (P9); a [`kick`](Engine::kick) meanwhile is remembered
//! and acts when the last gate opens (P52).
//!
//! # Locks
//!
//! `control` serialises those who move gates, and is held while a step in flight is waited for. A
//! step therefore must not move a gate, and takes none of the locks a gate is moved under: not
//! `control`, and not the migration state's mutex.

use crate::{
    bindings,
    device::{
        Operations,
        Step, //
    },
    kcov::Beneficiary,
};
use core::{
    ptr::NonNull,
    sync::atomic::{
        AtomicU32,
        Ordering::SeqCst, //
    },
};
use kernel::{
    ffi::{
        c_int,
        c_ulong, //
    },
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    },
    types::Opaque,
};

/// A condition for the device to run. All must hold.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Gate {
    /// The device is open.
    Open = 1 << 0,
    /// The migration state is one in which the device may do DMA. The only gate open at first.
    Running = 1 << 1,
    /// The device is bus master.
    BusMaster = 1 << 2,
}

/// All gates open.
const OPEN: u32 = Gate::Open as u32 | Gate::Running as u32 | Gate::BusMaster as u32;

/// Next to the gates: there is something to do.
const KICKED: u32 = 1 << 31;

/// Steps run without giving up the worker.
const STEPS: u32 = 64;

/// Runs the steps of one device.
#[pin_data(PinnedDrop)]
pub(crate) struct Engine {
    /// The work item, which is `run`.
    #[pin]
    work: Opaque<bindings::delayed_work>,
    /// The work queue, destroyed with this.
    queue: NonNull<bindings::workqueue_struct>,
    /// The gates that are open, and `KICKED`.
    gates: AtomicU32,
    /// Serialises the moving of gates.
    #[pin]
    control: Mutex<()>,
    /// For fuzzers: whom the steps are for.
    user: Beneficiary,
    /// The device. Locked for as long as it takes to copy the reference.
    #[pin]
    device: Mutex<Option<Arc<dyn Operations>>>,
}

// SAFETY: The work queue and its items may be used from any thread.
unsafe impl Send for Engine {}

// SAFETY: All that changes is behind locks, atomic, or the work queue's own.
unsafe impl Sync for Engine {}

impl Engine {
    /// Makes an engine whose work queue is called `name`.
    pub(crate) fn new(name: &CStr) -> Result<Arc<Self>> {
        // SAFETY: `name` is a string, and copied.
        let queue = unsafe { bindings::vfio_rs_alloc_workqueue(name.as_char_ptr(), 1) };
        let queue = NonNull::new(queue).ok_or(ENOMEM)?;

        Arc::pin_init(
            pin_init!(Self {
                work <- Opaque::ffi_init(|slot| {
                    // SAFETY: `slot` is valid for writes and pinned.
                    unsafe { bindings::vfio_rs_init_delayed_work(slot, Some(Self::work)) }
                }),
                queue,
                gates: AtomicU32::new(Gate::Running as u32),
                user: Beneficiary::nobody(),
                control <- new_mutex!((), "engine control"),
                device <- new_mutex!(None, "engine device"),
            }),
            GFP_KERNEL,
        )
        .inspect_err(|_| {
            // SAFETY: Made above; nothing was queued.
            unsafe { bindings::destroy_workqueue(queue.as_ptr()) }
        })
    }

    /// Gives the engine the device to run.
    pub(crate) fn attach(&self, device: Arc<dyn Operations>) {
        *self.device.lock() = Some(device);
    }

    /// Takes the device away, for ever, after its last step.
    pub(crate) fn detach(&self) {
        self.set_gate(Gate::Open, false);
        // Not in one expression with the lock: the device may go with the reference.
        let device = self.device.lock().take();
        // A work item that started with a gate closed has a reference too. Were it the last one, the
        // engine would be dropped by its own worker.
        // SAFETY: The work item was initialised and is pinned. This is not called by a step.
        unsafe { bindings::cancel_delayed_work_sync(self.work.get()) };
        drop(device);
    }

    /// From now on steps are for the task that calls this, as fuzzers see it.
    pub(crate) fn serve_current(&self) {
        self.user.set_current();
    }

    /// Opens or closes a gate.
    ///
    /// Opening the last one runs the device if it was kicked. Closing the first one waits for the
    /// step in flight and then tells the device that it was stopped.
    pub(crate) fn set_gate(&self, gate: Gate, open: bool) {
        let _control = self.control.lock();
        let gate = gate as u32;

        if open {
            let before = self.gates.fetch_or(gate, SeqCst);
            if before & gate == 0 && before & KICKED != 0 {
                self.schedule();
            }
            return;
        }

        // After this no step starts: `run` looks at the gates before each. A work item that is
        // queued later, by a kick that saw all gates open, finds one closed.
        let before = self.gates.fetch_and(!gate, SeqCst);
        if before & OPEN != OPEN {
            return;
        }
        // SAFETY: The work item was initialised and is pinned. This is not called by a step.
        unsafe { bindings::cancel_delayed_work_sync(self.work.get()) };
        let device = self.device.lock().clone();
        if let Some(device) = device {
            device.stopped();
        }
    }

    /// Has a step run soon, or remembers to once the device may run.
    ///
    /// May be called in any context.
    pub(crate) fn kick(&self) {
        self.gates.fetch_or(KICKED, SeqCst);
        self.schedule();
    }

    /// Queues the work item at once, if all gates are open.
    fn schedule(&self) {
        if self.gates.load(SeqCst) & OPEN == OPEN {
            // SAFETY: The work queue and the work item are valid until `drop` has cancelled it.
            unsafe {
                bindings::mod_delayed_work_on(
                    bindings::wq_misc_consts_WORK_CPU_UNBOUND as c_int,
                    self.queue.as_ptr(),
                    self.work.get(),
                    0,
                )
            };
        }
    }

    /// Queues the work item for later, unless it already is.
    fn schedule_after(&self, msecs: u32) {
        // SAFETY: A conversion without preconditions.
        let delay: c_ulong = unsafe { bindings::__msecs_to_jiffies(msecs) };
        // SAFETY: The work queue and the work item are valid until `drop` has cancelled it.
        unsafe {
            bindings::queue_delayed_work_on(
                bindings::wq_misc_consts_WORK_CPU_UNBOUND as c_int,
                self.queue.as_ptr(),
                self.work.get(),
                delay,
            )
        };
    }

    /// Runs steps until there is nothing to do, a gate closes or others should have a turn.
    fn run(&self) {
        let device = self.device.lock().clone();
        let Some(device) = device else { return };
        let _coverage = self.user.section();

        for _ in 0..STEPS {
            // In one access: a kick between a look at the gates and the clearing would be lost to
            // whoever closes one.
            if self
                .gates
                .fetch_update(SeqCst, SeqCst, |gates| {
                    (gates & OPEN == OPEN).then_some(gates & !KICKED)
                })
                .is_err()
            {
                return;
            }
            match device.step() {
                // A kick since has set `KICKED` and queued the work item again.
                Step::Idle => return,
                Step::Again => {
                    self.gates.fetch_or(KICKED, SeqCst);
                }
                Step::After(msecs) => {
                    self.gates.fetch_or(KICKED, SeqCst);
                    self.schedule_after(msecs);
                    return;
                }
            }
            // SAFETY: A worker may sleep here.
            unsafe { bindings::vfio_rs_cond_resched() };
        }
        self.schedule();
    }

    /// The work function.
    ///
    /// # Safety
    ///
    /// `work` must be that of an engine.
    unsafe extern "C" fn work(work: *mut bindings::work_struct) {
        // SAFETY: By the requirement of this function; it is in the field `work`.
        let this = unsafe {
            let work = kernel::container_of!(work, bindings::delayed_work, work);
            kernel::container_of!(Opaque::cast_from(work), Self, work)
        };
        // SAFETY: The engine is not dropped before the work item has ended.
        unsafe { &*this }.run();
    }
}

#[pinned_drop]
impl PinnedDrop for Engine {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: Nobody else has a reference any more, so nobody can queue the work item. With the
        // device detached it does not drop the engine from within a step.
        unsafe {
            bindings::cancel_delayed_work_sync(self.work.get());
            bindings::destroy_workqueue(self.queue.as_ptr());
        }
    }
}
