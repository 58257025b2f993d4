// SPDX-License-Identifier: GPL-2.0

//! The state of a device's interrupts, and which of them are due. See [`irq`](super).

use kernel::{
    prelude::*,
    sync::Arc, //
};
use kernel_ext::eventfd::EventFd;

/// The most vectors a device has: a bit of `asserted` and of `pending` for each.
pub const VECTORS_MAX: usize = u64::BITS as usize;

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

/// The state under the spinlock.
pub(crate) struct State {
    pub(crate) mode: Mode,
    /// The device runs.
    pub(super) running: bool,
    /// A bit for each vector that the device asserts.
    pub(super) asserted: u64,
    /// A bit for each vector whose message was raised and not sent.
    pub(super) pending: u64,
    /// INTx was masked by the user.
    pub(super) masked: bool,
    /// INTx was delivered and not unmasked since.
    pub(super) delivered: bool,
    /// The device was acknowledged since INTx was delivered.
    pub(super) acknowledged: bool,
    /// INTx is to be unmasked at the next acknowledge.
    pub(super) unmask_at_acknowledge: bool,
    /// `PCI_COMMAND_INTX_DISABLE`.
    pub(super) disabled: bool,
    /// INTx is to be delivered once, asserted or not: a state was loaded.
    pub(super) replay: bool,
    pub(super) intx: Trigger,
    /// The vectors in use, from 0; as many as the user enabled.
    pub(crate) vectors: KVec<Trigger>,
    pub(crate) err: Trigger,
    pub(crate) req: Trigger,
}

impl State {
    /// Returns whether the device asserts INTx.
    pub(super) fn level(&self) -> bool {
        self.asserted != 0
    }

    /// Returns whether INTx is to be delivered now.
    pub(super) fn intx_due(&self) -> bool {
        self.mode == Mode::Intx
            && self.running
            && self.intx.is_some()
            && (self.level() || self.replay)
            && !self.masked
            && !self.delivered
            && !self.disabled
    }

    /// Delivers INTx if it is due. Returns the eventfd to signal.
    pub(super) fn deliver_intx(&mut self) -> Trigger {
        if !self.intx_due() {
            return None;
        }
        self.delivered = true;
        self.acknowledged = false;
        self.replay = false;
        self.intx.clone()
    }

    /// Forgets that INTx was delivered.
    pub(super) fn rearm(&mut self) {
        self.delivered = false;
        self.unmask_at_acknowledge = false;
    }

    /// Enables INTx with this eventfd. Returns the eventfd to signal. The former eventfd is left in
    /// `trigger`; the caller drops it after the lock.
    pub(crate) fn set_intx(&mut self, trigger: &mut Trigger) -> Trigger {
        self.mode = Mode::Intx;
        core::mem::swap(&mut self.intx, trigger);
        self.rearm();
        self.deliver_intx()
    }

    /// Returns the eventfd to signal when the user triggers INTx by `VFIO_DEVICE_SET_IRQS`.
    pub(crate) fn loop_intx(&self) -> Trigger {
        if self.disabled {
            None
        } else {
            self.intx.clone()
        }
    }

    /// Unmasks INTx by an eventfd. Returns whether the worker has to deliver it later. `own` tells whether
    /// the eventfd is also the trigger of INTx.
    pub(super) fn unmask_by_eventfd(&mut self, own: bool) -> bool {
        self.masked = false;
        if self.delivered && self.level() && !self.acknowledged {
            self.unmask_at_acknowledge = true;
            return !own;
        }
        self.rearm();
        self.intx_due()
    }

    /// Returns the index in `vectors` of the device's vector `vector`.
    ///
    /// With fewer MSI vectors enabled than the device has, several share one.
    pub(super) fn slot(&self, vector: usize) -> Option<usize> {
        match self.mode {
            Mode::Off | Mode::Intx => None,
            Mode::Msi => vector.checked_rem(self.vectors.len()),
            Mode::Msix => Some(vector),
        }
    }

    /// Sets the eventfds of the vectors from `start` on. The former eventfds are left in `triggers`; the
    /// caller drops them after the lock.
    pub(crate) fn set_triggers(&mut self, start: usize, triggers: &mut [Trigger]) {
        let same = |a: &Trigger, b: &Trigger| match (a, b) {
            (Some(a), Some(b)) => a.is(b.as_ptr()),
            _ => false,
        };

        for (slot, trigger) in (start..).zip(triggers) {
            let Some(current) = self.vectors.get_mut(slot) else {
                break;
            };
            core::mem::swap(current, trigger);
            if !same(current, trigger) {
                self.pending |= self.asserted & self.sharing(slot);
            }
        }
        self.end_replay();
    }

    /// Returns a bit for each of the device's vectors that share this one.
    pub(super) fn sharing(&self, slot: usize) -> u64 {
        (0..VECTORS_MAX)
            .filter(|vector| self.slot(*vector) == Some(slot))
            .fold(0, |bits, vector| bits | 1 << vector)
    }

    /// A running device that can send messages no longer needs the one INTx after a load.
    pub(super) fn end_replay(&mut self) {
        let messages = matches!(self.mode, Mode::Msi | Mode::Msix);

        if self.running && messages && self.vectors.iter().any(Option::is_some) {
            self.replay = false;
        }
    }

    /// Clears the pending bit of a vector whose message can be sent. Returns the eventfd to signal.
    pub(super) fn deliver_message(&mut self, vector: usize) -> Trigger {
        if !self.running || self.pending & (1 << vector) == 0 {
            return None;
        }
        let trigger = self.vectors.get(self.slot(vector)?)?.clone()?;

        self.pending &= !(1 << vector);
        Some(trigger)
    }
}
