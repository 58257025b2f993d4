// SPDX-License-Identifier: GPL-2.0

//! The device that is the parent: a class with one device in it.
//!
//! The mdev core names a type after the parent's driver or, if it has none, after its class. A faux
//! device has the driver `faux_driver`, after which all types of all parents would be called.

use core::ptr::{
    self,
    NonNull, //
};
use kernel::{
    error::from_err_ptr,
    prelude::*, //
};
use vfio_bindings as bindings;

/// A class and the one device in it, with the same name.
///
/// # Invariants
///
/// Both pointers are valid, and this value is what created them.
pub(super) struct ClassDevice {
    class: NonNull<bindings::class>,
    dev: NonNull<bindings::device>,
}

impl ClassDevice {
    /// Creates `/sys/class/NAME/NAME`.
    pub(super) fn new(name: &'static CStr) -> Result<Self> {
        // SAFETY: The name is a string with the lifetime of the module.
        let class = from_err_ptr(unsafe { bindings::class_create(name.as_char_ptr()) })?;
        let class = NonNull::new(class).ok_or(ENOMEM)?;

        // SAFETY: The class is valid, and the format takes the one string that follows it.
        let dev = from_err_ptr(unsafe {
            bindings::device_create(
                class.as_ptr(),
                ptr::null_mut(),
                0,
                ptr::null_mut(),
                c"%s".as_char_ptr(),
                name.as_char_ptr(),
            )
        })
        .and_then(|dev| NonNull::new(dev).ok_or(ENOMEM))
        .inspect_err(|_| {
            // SAFETY: The class was created above and has no device.
            unsafe { bindings::class_destroy(class.as_ptr()) }
        })?;

        // INVARIANT: Both were just created.
        Ok(Self { class, dev })
    }

    /// Returns the `struct device`.
    pub(super) fn as_raw(&self) -> *mut bindings::device {
        self.dev.as_ptr()
    }
}

impl Drop for ClassDevice {
    fn drop(&mut self) {
        // SAFETY: By the type invariant both are this value's to destroy.
        unsafe {
            bindings::device_unregister(self.dev.as_ptr());
            bindings::class_destroy(self.class.as_ptr());
        }
    }
}
