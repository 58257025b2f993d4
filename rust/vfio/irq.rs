// SPDX-License-Identifier: GPL-2.0

//! Interrupts: INTx, MSI, MSI-X, and the error and request notifications.
//!
//! An interrupt is a signal of the eventfd that the user set by `VFIO_DEVICE_SET_IRQS`
//! (`set_irqs.rs`). At most one of INTx, MSI and MSI-X is in use. The driver calls [`Irq::signal`] and
//! [`Irq::set_asserted`] and need not know which.
//!
//! # Asserted vectors are state; delivery is derived from it
//!
//! The state is kept in every mode, whether or not an eventfd is set:
//!
//! - `asserted`: the vectors with a cause that is neither acknowledged nor masked in the device. INTx is
//!   asserted while there is one.
//! - `pending`: the messages that were raised and not yet sent. An acknowledge clears the vector in
//!   `asserted` and withdraws its message. A reset and a load withdraw all.
//!
//! After each change that can make an interrupt due, the code checks whether one is: a change of the
//! state, a new eventfd, an unmask, a cleared `INTX_DISABLE`, and the start of the device. A stopped
//! device delivers none. One interrupt too many may be delivered, but never one too few:
//!
//! - INTx is delivered once and then waits for the user's unmask (`delivered`). The wait ends also when
//!   nobody may have seen the signal: at a new eventfd, when `INTX_DISABLE` is cleared, when the device
//!   starts, and at a reset. The user's own mask (`masked`) is another bit.
//! - A vector that gets a new eventfd sends its message again if it is asserted: nobody may have read
//!   the former eventfd.
//! - After a load, the messages of all asserted vectors are pending, and INTx is delivered once whether
//!   or not it is asserted. So a saved state needs no bits for interrupts: a message that the source got
//!   after its processors had stopped is sent again.
//!
//! # Unmasking by eventfd
//!
//! The kernel may signal an eventfd that unmasks INTx. The signal may be an interrupt of another device,
//! or of this one if the user gave one eventfd as trigger and as unmask. Such a signal acknowledges
//! nothing, and two kernel workers could deliver without end. So an unmask by eventfd delivers at once
//! only if the device was acknowledged since the last delivery. Otherwise the delivery comes with the
//! next acknowledge or after [`PAUSE`], whichever is first. With one eventfd for both it comes only with
//! the next acknowledge.
//!
//! # Locks
//!
//! `setup` is a mutex that serialises changes of the configuration. `state` is a spinlock below all other
//! locks. It is never held when an eventfd is signalled: the user may give one eventfd as trigger and as
//! unmask, and the signal would take the lock again.

mod state;

pub use self::state::VECTORS_MAX;
pub(crate) use self::state::{
    Mode,
    State,
    Trigger, //
};

use core::ptr;
use kernel::{
    new_mutex,
    prelude::*,
    sync::Mutex,
    time::{
        delay::fsleep,
        Delta, //
    },
    types::Opaque, //
};
use kernel_ext::{
    eventfd::EventFd,
    lock::{
        new_irq_lock,
        IrqLock, //
    },
};
use vfio_bindings as bindings;

/// The time from an unmask by eventfd that follows no acknowledge to the next delivery.
const PAUSE: Delta = Delta::from_millis(10);

/// Signals an eventfd, if there is one. The caller does not hold `state`.
pub(crate) fn signal(trigger: Trigger) {
    if let Some(eventfd) = trigger {
        eventfd.signal();
    }
}

/// The interrupts of one instance.
#[pin_data(PinnedDrop)]
pub struct Irq {
    /// Vectors of each index: `VFIO_PCI_NUM_IRQS` of them.
    counts: [u32; NUM_IRQS],
    #[pin]
    pub(crate) setup: Mutex<()>,
    #[pin]
    pub(crate) state: IrqLock<State>,
    /// The eventfd that unmasks INTx. VFIO writes the pointer, under a lock of its own.
    #[pin]
    unmask: Opaque<*mut bindings::virqfd>,
}

// SAFETY: Only `unmask` is not `Send` by itself; it is VFIO's, which uses it on any thread.
unsafe impl Send for Irq {}

// SAFETY: As above. VFIO accesses `unmask` under its own lock.
unsafe impl Sync for Irq {}

/// Number of interrupt indices of a PCI device.
pub(crate) const NUM_IRQS: usize = bindings::VFIO_PCI_NUM_IRQS as usize;

impl Irq {
    /// Returns the interrupts of a device that does not run and has no eventfd.
    ///
    /// `intx` tells whether the device has INTx. `msi` and `msix` are the numbers of vectors, at most
    /// [`VECTORS_MAX`].
    pub fn new(intx: bool, msi: u8, msix: u16) -> impl PinInit<Self> {
        let counts = [intx.into(), msi.into(), msix.into(), 1, 1];

        pin_init!(Self {
            counts,
            setup <- new_mutex!((), "vfio_irq_setup"),
            state <- new_irq_lock!(
                State {
                    mode: Mode::Off,
                    running: false,
                    asserted: 0,
                    pending: 0,
                    masked: false,
                    delivered: false,
                    acknowledged: false,
                    unmask_at_acknowledge: false,
                    disabled: false,
                    replay: false,
                    intx: None,
                    vectors: KVec::new(),
                    err: None,
                    req: None,
                },
                c"vfio_irq_state"
            ),
            unmask: Opaque::new(ptr::null_mut()),
        })
    }

    /// Returns the number of interrupts of index `index`, 0 if there is no such index.
    pub(crate) fn count(&self, index: usize) -> u32 {
        self.counts.get(index).copied().unwrap_or(0)
    }

    // For the driver.

    /// Sets which vectors the device asserts: bit `n` for vector `n`, from 0 to 63.
    ///
    /// A vector is asserted while it has a cause that is neither acknowledged nor masked in the device.
    /// INTx is asserted while any vector is. A vector that is no longer asserted loses its pending
    /// message. The messages of asserted vectors are sent again to a user who may have missed them, for
    /// example after a load.
    ///
    /// It sends no message by itself: see [`Irq::signal`]. A driver calls it under the lock of its
    /// causes, at each change of them and when it restores or resets its state. May be called in any
    /// context.
    #[inline]
    pub fn set_asserted(&self, vectors: u64) {
        let trigger = {
            let mut state = self.state.lock();
            let acknowledged = state.asserted & !vectors;

            state.asserted = vectors;
            state.pending &= !acknowledged;
            if acknowledged != 0 {
                state.acknowledged = true;
                if state.unmask_at_acknowledge {
                    state.rearm();
                }
            }
            state.deliver_intx()
        };
        signal(trigger);
    }

    /// Raises the message of vector `vector`, below 64, for an event.
    ///
    /// It is sent when MSI or MSI-X is in use, the vector has an eventfd and the device runs, and is
    /// pending until then. With fewer MSI vectors enabled than the device has, several share one. May be
    /// called in any context.
    #[inline]
    pub fn signal(&self, vector: u32) {
        let vector = vector as usize;
        if vector >= VECTORS_MAX {
            return;
        }
        let trigger = {
            let mut state = self.state.lock();
            state.pending |= 1 << vector;
            state.deliver_message(vector)
        };
        signal(trigger);
    }

    // For the framework.

    /// Returns whether the device asserts INTx.
    #[inline]
    pub fn level(&self) -> bool {
        self.state.lock().level()
    }

    /// Returns the pending bits, as the MSI-X BAR shows them.
    pub fn pending(&self) -> u64 {
        let vectors = self.counts[bindings::VFIO_PCI_MSIX_IRQ_INDEX as usize];
        let mask = 1u64.checked_shl(vectors).unwrap_or(0).wrapping_sub(1);

        self.state.lock().pending & mask
    }

    /// Asks the user to give the device up. Returns whether there is an eventfd to ask by.
    pub(crate) fn request(&self) -> bool {
        let trigger = self.state.lock().req.clone();
        let asked = trigger.is_some();
        signal(trigger);
        asked
    }

    /// Called after a load, when the driver has set the asserted vectors.
    ///
    /// INTx is delivered once in any case. The guest's interrupt controller moves with the level of the
    /// line. The line may be high there although the device no longer asserts it. The VMM at the
    /// destination lowers only a line that it raised itself, so without a delivery it stays high.
    pub fn loaded(&self) {
        let mut state = self.state.lock();
        state.pending = state.asserted;
        state.replay = true;
    }

    /// The device begins to run. Delivers the interrupts that are due.
    pub fn run(&self) {
        let trigger = {
            let mut state = self.state.lock();
            state.running = true;
            state.rearm();
            state.end_replay();
            state.deliver_intx()
        };
        signal(trigger);
        self.send_pending();
    }

    /// The device was stopped. Nothing is delivered until it runs.
    pub fn stop(&self) {
        self.state.lock().running = false;
    }

    /// Follows `PCI_COMMAND_INTX_DISABLE`.
    pub fn set_disabled(&self, disabled: bool) {
        let trigger = {
            let mut state = self.state.lock();
            state.disabled = disabled;
            if !disabled {
                state.rearm();
            }
            state.deliver_intx()
        };
        signal(trigger);
    }

    /// Sends the messages that are pending and can be sent.
    pub(crate) fn send_pending(&self) {
        for vector in 0..VECTORS_MAX {
            let trigger = {
                let mut state = self.state.lock();
                // No more vectors have an eventfd.
                if state.pending >> vector == 0 {
                    break;
                }
                state.deliver_message(vector)
            };
            signal(trigger);
        }
    }

    /// Masks INTx.
    pub(crate) fn mask(&self) {
        self.state.lock().masked = true;
    }

    /// Unmasks INTx, which delivers it again if it is still asserted.
    pub(crate) fn unmask(&self) {
        let trigger = {
            let mut state = self.state.lock();
            state.masked = false;
            state.rearm();
            state.deliver_intx()
        };
        signal(trigger);
    }

    /// Unmasks INTx whenever eventfd `fd` is signalled.
    ///
    /// The caller holds `setup`.
    pub(crate) fn enable_unmask(&self, fd: i32) -> Result {
        // The callbacks compare this with the trigger. VFIO holds a reference to the eventfd for as
        // long as it may call them. If the user replaces `fd` meanwhile, the limit of this one applies.
        let identity = EventFd::from_fd(fd)?;

        // SAFETY:
        // - `unmask` is valid while VFIO may write to it, and `self` while it may call back: both
        //   are pinned, and `PinnedDrop` calls `vfio_virqfd_disable()`, which waits for callbacks.
        // - Both callbacks expect an `Irq`, and an address that they do not follow.
        kernel::error::to_result(unsafe {
            bindings::vfio_virqfd_enable(
                ptr::from_ref(self).cast_mut().cast(),
                Some(Self::unmask_handler),
                Some(Self::unmask_thread),
                identity.as_ptr().cast(),
                self.unmask.get(),
                fd,
            )
        })
    }

    /// Ends [`Irq::enable_unmask`]. No callback runs after it returns.
    pub(crate) fn disable_unmask(&self) {
        // SAFETY: `unmask` is null or what `vfio_virqfd_enable()` put there.
        unsafe { bindings::vfio_virqfd_disable(self.unmask.get()) }
    }

    /// Called with the eventfd's lock held and interrupts disabled: it may not signal another one.
    ///
    /// Returns whether [`Irq::unmask_thread`] is to be called. Delivers nothing itself: when the thread
    /// runs, INTx is still due or another thread has delivered it.
    ///
    /// # Safety
    ///
    /// `opaque` points to an [`Irq`].
    unsafe extern "C" fn unmask_handler(opaque: *mut c_void, eventfd: *mut c_void) -> c_int {
        // SAFETY: By the requirement of this function.
        let this = unsafe { &*opaque.cast::<Self>() };
        let mut state = this.state.lock();
        let own = state.intx.as_ref().is_some_and(|t| t.is(eventfd.cast()));

        state.unmask_by_eventfd(own).into()
    }

    /// Called by a worker when [`Irq::unmask_handler`] returned true.
    ///
    /// # Safety
    ///
    /// `opaque` points to an [`Irq`].
    unsafe extern "C" fn unmask_thread(opaque: *mut c_void, _eventfd: *mut c_void) {
        // SAFETY: By the requirement of this function.
        let this = unsafe { &*opaque.cast::<Self>() };

        let wait = this.state.lock().unmask_at_acknowledge;
        if wait {
            fsleep(PAUSE);
        }
        let trigger = {
            let mut state = this.state.lock();
            if state.unmask_at_acknowledge {
                state.rearm();
            }
            state.deliver_intx()
        };
        signal(trigger);
    }

    /// Disables INTx, MSI and MSI-X. Asserted and pending vectors stay, because a user who wants more
    /// vectors disables MSI-X and enables it again.
    ///
    /// The caller holds `setup`.
    pub(crate) fn disable(&self) {
        self.disable_unmask();

        // The former eventfds are dropped after the lock.
        let _old = {
            let mut state = self.state.lock();
            state.mode = Mode::Off;
            state.masked = false;
            state.rearm();
            (
                state.intx.take(),
                core::mem::replace(&mut state.vectors, KVec::new()),
            )
        };
    }

    /// Drops all eventfds. Called at the last close.
    pub fn release(&self) {
        let _setup = self.setup.lock();

        self.disable();
        let _old = {
            let mut state = self.state.lock();
            (state.err.take(), state.req.take())
        };
    }

    /// Resets to power-on: nothing is asserted or pending. The user's eventfds stay.
    pub fn reset(&self) {
        let mut state = self.state.lock();
        state.asserted = 0;
        state.pending = 0;
        state.replay = false;
        state.rearm();
    }
}

#[pinned_drop]
impl PinnedDrop for Irq {
    fn drop(self: Pin<&mut Self>) {
        self.disable_unmask();
    }
}
