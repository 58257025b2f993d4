// SPDX-License-Identifier: GPL-2.0

//! A mutex whose waiters can be killed.
//!
//! A thread may hold some locks of this crate while it waits for a unit of work. The unit may wait for
//! a page of the user's memory, and the user decides how long. A task that waits for such a lock must
//! still die when it is killed. The mutex of the `kernel` crate does not allow that, so these locks have
//! this type: its [`lock`](Mutex::lock) can fail.
//!
//! C header: [`include/linux/mutex.h`](srctree/include/linux/mutex.h)

use core::{
    cell::UnsafeCell,
    ops::{
        Deref,
        DerefMut, //
    },
};
use kernel::{
    error::to_result,
    prelude::*,
    sync::LockClassKey,
    types::{
        NotThreadSafe,
        Opaque, //
    },
};
use vfio_bindings as bindings;

/// Makes a [`Mutex`] with a lock class of its own.
#[macro_export]
macro_rules! new_killable_mutex {
    ($data:expr, $name:literal) => {
        $crate::mutex::Mutex::new(
            $data,
            ::kernel::c_str!($name),
            ::kernel::static_lock_class!(),
        )
    };
}
pub use crate::new_killable_mutex;

/// Data behind a `struct mutex`.
#[pin_data]
pub struct Mutex<T> {
    #[pin]
    mutex: Opaque<bindings::mutex>,
    data: UnsafeCell<T>,
}

// SAFETY: A mutex may be taken on any thread, and the data goes where the mutex goes.
unsafe impl<T: Send> Send for Mutex<T> {}

// SAFETY: The mutex hands the data to one holder at a time.
unsafe impl<T: Send> Sync for Mutex<T> {}

impl<T> Mutex<T> {
    /// Use [`new_killable_mutex!`].
    pub fn new(
        data: T,
        name: &'static CStr,
        key: Pin<&'static LockClassKey>,
    ) -> impl PinInit<Self> {
        pin_init!(Self {
            mutex <- Opaque::ffi_init(|slot| {
                // SAFETY: `slot` is valid for writes and pinned; name and key are static.
                unsafe { bindings::__mutex_init(slot, name.as_char_ptr(), key.as_ptr()) }
            }),
            data: UnsafeCell::new(data),
        })
    }

    /// A guard for the mutex, which this thread has just locked.
    fn locked(&self) -> Guard<'_, T> {
        // INVARIANT: By the caller.
        Guard {
            mutex: self,
            _not_send: NotThreadSafe,
        }
    }

    /// Locks the mutex. `EINTR` if the task is killed before it gets it.
    pub fn lock(&self) -> Result<Guard<'_, T>> {
        // SAFETY: The mutex was initialised by `new` and is pinned.
        to_result(unsafe { bindings::vfio_rs_mutex_lock_killable(self.mutex.get()) })?;
        Ok(self.locked())
    }

    /// Locks the mutex while the device is being closed, which nothing can cut short.
    pub fn lock_closing(&self) -> Guard<'_, T> {
        // SAFETY: The mutex was initialised by `new` and is pinned.
        unsafe { bindings::mutex_lock(self.mutex.get()) };
        self.locked()
    }

    /// Locks the mutex if nobody has it.
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        // SAFETY: The mutex was initialised by `new` and is pinned.
        let locked = unsafe { bindings::mutex_trylock(self.mutex.get()) } != 0;
        locked.then(|| self.locked())
    }
}

/// Access to the data of a locked [`Mutex`].
///
/// # Invariants
///
/// The mutex is held by this thread.
#[must_use = "the lock is released when the guard is dropped"]
pub struct Guard<'a, T> {
    mutex: &'a Mutex<T>,
    /// A mutex is released by the thread that took it.
    _not_send: NotThreadSafe,
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: By the type invariant the mutex is held, so no one else has a mutable reference.
        unsafe { &*self.mutex.data.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: By the type invariant the mutex is held, so no one else has any reference.
        unsafe { &mut *self.mutex.data.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant this thread holds the mutex.
        unsafe { bindings::mutex_unlock(self.mutex.mutex.get()) }
    }
}
