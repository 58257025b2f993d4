// SPDX-License-Identifier: GPL-2.0

//! Interrupts: INTx, MSI, MSI-X, and the error and request notifications.
//!
//! An interrupt reaches the user as a signal of the eventfd that `VFIO_DEVICE_SET_IRQS`
//! (`set_irqs.rs`) put in place. Of INTx, MSI and MSI-X at most one is in use; the driver says
//! [`Irq::assert`] and need not know which.
//!
//! INTx is a level. It is remembered whether or not anyone listens, it masks itself when it is
//! delivered, and it is delivered again if it is still asserted when it is unmasked. A message is
//! an edge: it is sent when it is raised. For a vector that has no eventfd yet it is kept as a
//! pending bit and sent when the vector gets one, as a masked vector of a real device would be.
//!
//! # Locks
//!
//! `setup` serialises the users who change the configuration and may sleep. `state` is a spinlock
//! below everything, never held when an eventfd is signalled: the user is free to hand in the same
//! eventfd as trigger and as unmask, and the signal would come back for the lock.

use crate::{
    bindings,
    eventfd::EventFd,
    lock::{
        new_irq_lock,
        IrqLock, //
    },
    pci,
};
use core::ptr;
use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    },
    types::Opaque, //
};

/// Which kind of interrupt is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// None.
    Off,
    /// `VFIO_PCI_INTX_IRQ_INDEX`.
    Intx,
    /// `VFIO_PCI_MSI_IRQ_INDEX`.
    Msi,
    /// `VFIO_PCI_MSIX_IRQ_INDEX`.
    Msix,
}

/// An optional eventfd.
pub(crate) type Trigger = Option<Arc<EventFd>>;

/// What the spinlock guards.
pub(crate) struct State {
    pub(crate) mode: Mode,
    /// The device asserts its interrupt.
    level: bool,
    /// INTx was delivered, or masked by the user, and not unmasked since.
    pub(crate) masked: bool,
    /// `PCI_COMMAND_INTX_DISABLE`.
    disabled: bool,
    /// A state was loaded, and has not run yet.
    loaded: bool,
    /// INTx is to be delivered once, asserted or not.
    replay: bool,
    pub(crate) intx: Trigger,
    /// The vectors in use, from 0; as many as the user enabled.
    pub(crate) vectors: KVec<Trigger>,
    /// A bit for each vector that was raised and has no eventfd.
    pub(crate) pending: u64,
    pub(crate) err: Trigger,
    pub(crate) req: Trigger,
}

impl State {
    /// Whether INTx is to be delivered now; if so it is masked, and the caller has to signal.
    fn take_intx(&mut self) -> bool {
        let due = self.mode == Mode::Intx
            && self.intx.is_some()
            && (self.level || self.replay)
            && !self.masked
            && !self.disabled;

        self.masked |= due;
        self.replay &= !due;
        due
    }

    /// Delivers INTx if it is due: masks it and returns what to signal.
    pub(crate) fn deliver_intx(&mut self) -> Trigger {
        if self.take_intx() {
            self.intx.clone()
        } else {
            None
        }
    }

    /// What to signal when the user asks for INTx by itself.
    pub(crate) fn loop_intx(&self) -> Trigger {
        if self.disabled {
            None
        } else {
            self.intx.clone()
        }
    }

    /// Takes a vector's pending bit if it now has an eventfd, and returns what to signal.
    fn deliver_pending(&mut self, vector: usize) -> Trigger {
        let trigger = self.vectors.get(vector)?.clone()?;
        let bit = 1u64 << vector;

        if self.pending & bit == 0 {
            return None;
        }
        self.pending &= !bit;
        Some(trigger)
    }
}

/// Signals an eventfd, if there is one. The state's lock must not be held.
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
    /// The eventfd by which the user unmasks INTx. VFIO writes the pointer, under a lock of its own.
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
    /// Interrupts that no one listens to yet.
    pub(crate) fn new(layout: &pci::Layout) -> impl PinInit<Self> + use<> {
        let counts = [
            layout.intx.into(),
            layout.msi.into(),
            layout.msix.into(),
            1,
            1,
        ];

        pin_init!(Self {
            counts,
            setup <- new_mutex!((), "vfio_irq_setup"),
            state <- new_irq_lock!(
                State {
                    mode: Mode::Off,
                    level: false,
                    masked: false,
                    disabled: false,
                    loaded: false,
                    replay: false,
                    intx: None,
                    vectors: KVec::new(),
                    pending: 0,
                    err: None,
                    req: None,
                },
                c"vfio_irq_state"
            ),
            unmask: Opaque::new(ptr::null_mut()),
        })
    }

    /// Interrupts of index `index`, 0 if there is no such index.
    pub(crate) fn count(&self, index: usize) -> u32 {
        self.counts.get(index).copied().unwrap_or(0)
    }

    // For the driver.

    /// Asserts the interrupt: raises INTx, or sends message `vector`, whichever is in use.
    ///
    /// INTx stays asserted until [`Irq::deassert`]. Callable in any context.
    pub fn assert(&self, vector: u32) {
        self.set_level(true);
        self.signal(vector);
    }

    /// Deasserts INTx; nothing to messages.
    pub fn deassert(&self) {
        self.set_level(false);
    }

    /// Sets the level of INTx. A level that was asserted before anyone listens is delivered then.
    pub fn set_level(&self, level: bool) {
        let trigger = {
            let mut state = self.state.lock();
            state.level = level;
            state.deliver_intx()
        };
        signal(trigger);
    }

    /// Sends message `vector`, if MSI or MSI-X is in use.
    ///
    /// With fewer MSI vectors enabled than the device has, several share one.
    pub fn signal(&self, vector: u32) {
        let trigger = {
            let mut state = self.state.lock();
            let mut vector = vector as usize;

            match state.mode {
                Mode::Off | Mode::Intx => return,
                Mode::Msi => match vector.checked_rem(state.vectors.len()) {
                    Some(shared) => vector = shared,
                    None => return,
                },
                Mode::Msix if vector >= self.counts[2] as usize => return,
                Mode::Msix => {}
            }
            state.pending |= 1 << vector;
            state.deliver_pending(vector)
        };
        signal(trigger);
    }

    /// Tells the user of an error that the device does not recover from by itself.
    pub fn error(&self) {
        let trigger = self.state.lock().err.clone();
        signal(trigger);
    }

    // For the framework.

    /// Whether the device asserts its interrupt.
    pub(crate) fn level(&self) -> bool {
        self.state.lock().level
    }

    /// The pending bits, as the MSI-X BAR shows them.
    pub(crate) fn pending(&self) -> u64 {
        self.state.lock().pending
    }

    /// Asks the user to give the device up; whether anyone was there to be asked.
    pub(crate) fn request(&self) -> bool {
        let trigger = self.state.lock().req.clone();
        let asked = trigger.is_some();
        signal(trigger);
        asked
    }

    /// A state was loaded.
    pub(crate) fn loaded(&self) {
        self.state.lock().loaded = true;
    }

    /// The device begins to run. If it was loaded, and uses INTx, that is delivered once in any case.
    ///
    /// The interrupt controller moves with a line in it that was asserted. If the device was quiet
    /// again when it stopped, but its driver had not told the controller yet, nobody would lower that
    /// line at the destination: the VMM there lowers what it has raised, and it has raised nothing. One
    /// interrupt more than there was is what any user of a level has to live with.
    pub(crate) fn run(&self) {
        let trigger = {
            let mut state = self.state.lock();
            if core::mem::take(&mut state.loaded) {
                state.replay = state.mode == Mode::Intx && !state.disabled;
            }
            state.deliver_intx()
        };
        signal(trigger);
    }

    /// Follows `PCI_COMMAND_INTX_DISABLE`.
    pub(crate) fn set_disabled(&self, disabled: bool) {
        let trigger = {
            let mut state = self.state.lock();
            state.disabled = disabled;
            state.deliver_intx()
        };
        signal(trigger);
    }

    /// Sends what is pending for a vector that just got an eventfd.
    pub(crate) fn flush_pending(&self, vector: usize) {
        let trigger = self.state.lock().deliver_pending(vector);
        signal(trigger);
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
            state.deliver_intx()
        };
        signal(trigger);
    }

    /// Unmasks INTx whenever eventfd `fd` is signalled.
    ///
    /// The caller holds `setup`.
    pub(crate) fn enable_unmask(&self, fd: i32) -> Result {
        // SAFETY:
        // - `unmask` is valid while VFIO may write to it, and `self` while it may call back: both
        //   are pinned, and `PinnedDrop` calls `vfio_virqfd_disable()`, which waits for callbacks.
        // - Both callbacks expect an `Irq`.
        kernel::error::to_result(unsafe {
            bindings::vfio_virqfd_enable(
                ptr::from_ref(self).cast_mut().cast(),
                Some(Self::unmask_handler),
                Some(Self::unmask_thread),
                ptr::null_mut(),
                self.unmask.get(),
                fd,
            )
        })
    }

    /// Ends [`Irq::enable_unmask`]; no callback runs after.
    pub(crate) fn disable_unmask(&self) {
        // SAFETY: `unmask` is null or what `vfio_virqfd_enable()` put there.
        unsafe { bindings::vfio_virqfd_disable(self.unmask.get()) }
    }

    /// Called with the eventfd's lock held and interrupts disabled: it may not signal another one.
    ///
    /// Returns whether the worker shall.
    ///
    /// # Safety
    ///
    /// `opaque` points to an [`Irq`].
    unsafe extern "C" fn unmask_handler(opaque: *mut c_void, _data: *mut c_void) -> c_int {
        // SAFETY: By the requirement of this function.
        let this = unsafe { &*opaque.cast::<Self>() };

        let mut state = this.state.lock();

        state.masked = false;
        state.take_intx().into()
    }

    /// Called by a worker when [`Irq::unmask_handler`] delivered INTx.
    ///
    /// # Safety
    ///
    /// `opaque` points to an [`Irq`].
    unsafe extern "C" fn unmask_thread(opaque: *mut c_void, _data: *mut c_void) {
        // SAFETY: By the requirement of this function.
        let this = unsafe { &*opaque.cast::<Self>() };
        let trigger = this.state.lock().loop_intx();
        signal(trigger);
    }

    /// Stops using INTx, MSI and MSI-X. The level of INTx is the device's and stays, and so do
    /// pending bits: a user who wants more vectors disables MSI-X and enables it again.
    ///
    /// The caller holds `setup`.
    pub(crate) fn disable(&self) {
        self.disable_unmask();

        // What was in place is dropped after the lock is.
        let _old = {
            let mut state = self.state.lock();
            state.mode = Mode::Off;
            state.masked = false;
            state.replay = false;
            (
                state.intx.take(),
                core::mem::replace(&mut state.vectors, KVec::new()),
            )
        };
    }

    /// Gives up everything the user put in place; at the last close.
    pub(crate) fn release(&self) {
        let _setup = self.setup.lock();

        self.disable();
        let _old = {
            let mut state = self.state.lock();
            state.pending = 0;
            (state.err.take(), state.req.take())
        };
    }

    /// Back to power-on: nothing is asserted or pending. What the user put in place stays.
    pub(crate) fn reset(&self) {
        let mut state = self.state.lock();
        state.level = false;
        state.loaded = false;
        state.replay = false;
        state.pending = 0;
    }
}

#[pinned_drop]
impl PinnedDrop for Irq {
    fn drop(self: Pin<&mut Self>) {
        self.disable_unmask();
    }
}
