// SPDX-License-Identifier: GPL-2.0

//! A sleeping lock with many readers or one writer, which the `kernel` crate does not have.
//!
//! C header: [`include/linux/rwsem.h`](srctree/include/linux/rwsem.h)

use core::{
    cell::UnsafeCell,
    ops::{
        Deref,
        DerefMut, //
    },
};
use kernel::{
    prelude::*,
    sync::LockClassKey,
    types::{
        NotThreadSafe,
        Opaque, //
    },
};
use vfio_bindings as bindings;

/// Makes an [`RwSem`] with a lock class of its own.
#[macro_export]
macro_rules! new_rwsem {
    ($data:expr, $name:literal) => {
        $crate::rwsem::RwSem::new(
            $data,
            ::kernel::c_str!($name),
            ::kernel::static_lock_class!(),
        )
    };
}
pub use crate::new_rwsem;

/// Data behind a `struct rw_semaphore`.
#[pin_data]
pub struct RwSem<T> {
    #[pin]
    sem: Opaque<bindings::rw_semaphore>,
    data: UnsafeCell<T>,
}

// SAFETY: A semaphore may be taken on any thread, and the data goes where the semaphore goes.
unsafe impl<T: Send> Send for RwSem<T> {}

// SAFETY: The semaphore hands the data to one writer, or by shared reference to readers.
unsafe impl<T: Send + Sync> Sync for RwSem<T> {}

impl<T> RwSem<T> {
    /// Use [`new_rwsem!`].
    pub fn new(
        data: T,
        name: &'static CStr,
        key: Pin<&'static LockClassKey>,
    ) -> impl PinInit<Self> {
        pin_init!(Self {
            sem <- Opaque::ffi_init(|slot| {
                // SAFETY: `slot` is valid for writes and pinned; name and key are static.
                unsafe { bindings::__init_rwsem(slot, name.as_char_ptr(), key.as_ptr()) }
            }),
            data: UnsafeCell::new(data),
        })
    }

    /// Waits until no writer has the lock.
    pub fn read(&self) -> ReadGuard<'_, T> {
        // SAFETY: The semaphore was initialised by `new` and is pinned.
        unsafe { bindings::down_read(self.sem.get()) };
        ReadGuard {
            lock: self,
            _not_send: NotThreadSafe,
        }
    }

    /// Waits until nobody else has the lock.
    pub fn write(&self) -> WriteGuard<'_, T> {
        // SAFETY: The semaphore was initialised by `new` and is pinned.
        unsafe { bindings::down_write(self.sem.get()) };
        WriteGuard {
            lock: self,
            _not_send: NotThreadSafe,
        }
    }
}

/// The lock, shared with other readers.
///
/// # Invariants
///
/// The thread holds the semaphore for reading.
#[must_use = "the lock is released when the guard is dropped"]
pub struct ReadGuard<'a, T> {
    lock: &'a RwSem<T>,
    _not_send: NotThreadSafe,
}

impl<T> Deref for ReadGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: Held for reading by the invariant, so nobody has a mutable reference.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T> Drop for ReadGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: Held for reading by the invariant.
        unsafe { bindings::up_read(self.lock.sem.get()) };
    }
}

/// The lock, for one alone.
///
/// # Invariants
///
/// The thread holds the semaphore for writing.
#[must_use = "the lock is released when the guard is dropped"]
pub struct WriteGuard<'a, T> {
    lock: &'a RwSem<T>,
    _not_send: NotThreadSafe,
}

impl<T> Deref for WriteGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: Held for writing by the invariant, so nobody else has a reference.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T> DerefMut for WriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: Held for writing by the invariant, so nobody else has a reference.
        unsafe { &mut *self.lock.data.get() }
    }
}

impl<T> Drop for WriteGuard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: Held for writing by the invariant.
        unsafe { bindings::up_write(self.lock.sem.get()) };
    }
}
