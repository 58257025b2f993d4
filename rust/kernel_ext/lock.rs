// SPDX-License-Identifier: GPL-2.0

//! A spinlock that keeps interrupts out.
//!
//! An eventfd calls back into whoever waits on it with interrupts disabled and its own lock held,
//! and a real device's interrupt handler may be what signals it. Data such a callback touches needs
//! a lock that disables interrupts for every holder; the `kernel` crate of 7.2 has none.
//!
//! C header: [`include/linux/spinlock.h`](srctree/include/linux/spinlock.h)

use kernel::{
    ffi::{
        c_char,
        c_ulong, //
    },
    sync::lock::{
        Backend,
        Lock, //
    },
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
pub type IrqLock<T> = Lock<T, IrqLockBackend>;

/// The backend of [`IrqLock`].
pub struct IrqLockBackend;

// SAFETY: A `spinlock_t` ensures mutual exclusion. `relock` is the default, which locks the same way.
unsafe impl Backend for IrqLockBackend {
    type State = bindings::spinlock_t;
    /// The interrupt flags from before.
    type GuardState = c_ulong;

    #[inline]
    unsafe fn init(ptr: *mut Self::State, name: *const c_char, key: *mut bindings::lock_class_key) {
        // SAFETY: By the requirements of this function.
        unsafe { bindings::__spin_lock_init(ptr, name, key) }
    }

    #[inline]
    unsafe fn lock(ptr: *mut Self::State) -> c_ulong {
        // SAFETY: By the requirement of this function.
        unsafe { bindings::vfio_rs_spin_lock_irqsave(ptr) }
    }

    #[inline]
    unsafe fn try_lock(ptr: *mut Self::State) -> Option<c_ulong> {
        let mut flags = 0;
        // SAFETY: By the requirement of this function.
        unsafe { bindings::vfio_rs_spin_trylock_irqsave(ptr, &mut flags) }.then_some(flags)
    }

    #[inline]
    unsafe fn unlock(ptr: *mut Self::State, flags: &c_ulong) {
        // SAFETY: By the requirement of this function; locking has returned `flags`.
        unsafe { bindings::vfio_rs_spin_unlock_irqrestore(ptr, *flags) }
    }

    #[inline]
    unsafe fn assert_is_held(ptr: *mut Self::State) {
        // SAFETY: By the requirement of this function.
        unsafe { bindings::spin_assert_is_held(ptr) }
    }
}
