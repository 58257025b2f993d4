// SPDX-License-Identifier: GPL-2.0

//! A spinlock that keeps interrupts out.
//!
//! An eventfd calls back into whoever waits on it with interrupts disabled and its own lock held,
//! and a real device's interrupt handler may be what signals it. Data such a callback touches needs
//! a lock that disables interrupts for every holder; the `kernel` crate of 7.2 has none.
//!
//! C header: [`include/linux/spinlock.h`](srctree/include/linux/spinlock.h)

use core::{
    cell::UnsafeCell,
    marker::PhantomData,
    ops::{
        Deref,
        DerefMut, //
    },
};
use kernel::{
    ffi::c_ulong,
    prelude::*,
    sync::LockClassKey,
    types::Opaque, //
};
use vfio_bindings as bindings;

/// Makes an [`IrqLock`] with a lock class of its own.
#[macro_export]
macro_rules! new_irq_lock {
    ($data:expr, $name:literal) => {
        $crate::lock::IrqLock::new($data, $name, ::kernel::static_lock_class!())
    };
}
pub use crate::new_irq_lock;

/// Data behind a `spinlock_t` taken by `spin_lock_irqsave()`.
#[pin_data]
pub struct IrqLock<T> {
    #[pin]
    lock: Opaque<bindings::spinlock_t>,
    data: UnsafeCell<T>,
}

// SAFETY: A spinlock may be taken on any thread, and the data goes where the lock goes.
unsafe impl<T: Send> Send for IrqLock<T> {}

// SAFETY: The lock hands the data to one holder at a time.
unsafe impl<T: Send> Sync for IrqLock<T> {}

impl<T> IrqLock<T> {
    /// Use [`new_irq_lock!`].
    pub fn new(
        data: T,
        name: &'static CStr,
        key: Pin<&'static LockClassKey>,
    ) -> impl PinInit<Self> {
        pin_init!(Self {
            lock <- Opaque::ffi_init(|slot| {
                // SAFETY: `slot` is valid for writes and pinned; name and key live for ever.
                unsafe { bindings::__spin_lock_init(slot, name.as_char_ptr(), key.as_ptr()) }
            }),
            data: UnsafeCell::new(data),
        })
    }

    /// Takes the lock and disables interrupts on this CPU.
    pub fn lock(&self) -> Guard<'_, T> {
        // SAFETY: The lock was initialised by `new` and is pinned.
        let flags = unsafe { bindings::vfio_rs_spin_lock_irqsave(self.lock.get()) };
        Guard {
            lock: self,
            flags,
            _not_send: PhantomData,
        }
    }
}

/// Access to the data of a locked [`IrqLock`].
///
/// # Invariants
///
/// The lock is held by this thread, and `flags` is what taking it returned.
pub struct Guard<'a, T> {
    lock: &'a IrqLock<T>,
    flags: c_ulong,
    /// A lock is released by the thread that took it.
    _not_send: PhantomData<*mut ()>,
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: By the type invariant the lock is held, so no one else has a mutable reference.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: By the type invariant the lock is held, so no one else has any reference.
        unsafe { &mut *self.lock.data.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant this thread holds the lock and got `flags` for it.
        unsafe { bindings::vfio_rs_spin_unlock_irqrestore(self.lock.lock.get(), self.flags) }
    }
}
