// SPDX-License-Identifier: GPL-2.0

//! The attribute of an instance: a file in its directory of sysfs.
//!
//! C header: [`include/linux/device.h`](srctree/include/linux/device.h)

use crate::{
    bindings,
    device::Device,
    driver::Driver,
    registration::Registration, //
};
use core::marker::PhantomData;
use kernel::{
    error::to_result,
    ffi::c_char,
    prelude::*,
    str::{
        kstrtobool,
        CStrExt, //
    },
    types::Opaque, //
};

/// `keep_state`: whether the state of the device stays when its last user closes it.
///
/// Everybody may read it, and only root may write it.
///
/// # Invariants
///
/// `raw` is initialised, and pinned.
#[pin_data]
pub(super) struct KeepState<T: Driver> {
    #[pin]
    raw: Opaque<bindings::device_attribute>,
    _driver: PhantomData<fn() -> T>,
}

// SAFETY: sysfs reads the attribute on any thread, and nobody changes it.
unsafe impl<T: Driver> Send for KeepState<T> {}

// SAFETY: As above.
unsafe impl<T: Driver> Sync for KeepState<T> {}

impl<T: Driver> KeepState<T> {
    /// The attribute, of no device yet.
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            // INVARIANT: Initialised here.
            raw <- Opaque::ffi_init(|slot| {
                // SAFETY: `slot` is valid for writes; the name is static.
                unsafe {
                    bindings::vfio_rs_device_attribute_init(
                        slot,
                        c"keep_state".as_char_ptr(),
                        0o644,
                        Some(Self::show),
                        Some(Self::store),
                    )
                }
            }),
            _driver: PhantomData,
        })
    }

    /// Creates the file in the directory of `dev`.
    ///
    /// # Safety
    ///
    /// `dev` is an mdev whose driver data is a [`Registration`] of driver `T`. It stays that, and this
    /// value lives, until [`KeepState::remove`] has returned.
    pub(super) unsafe fn create(&self, dev: *mut bindings::device) -> Result {
        // SAFETY: By the requirement of this function and the type invariant.
        to_result(unsafe { bindings::device_create_file(dev, self.raw.get()) })
    }

    /// Removes the file. Waits for calls in progress.
    ///
    /// # Safety
    ///
    /// `dev` was given to [`KeepState::create`].
    pub(super) unsafe fn remove(&self, dev: *mut bindings::device) {
        // SAFETY: By the requirement of this function.
        unsafe { bindings::device_remove_file(dev, self.raw.get()) }
    }

    /// Returns the device of an mdev.
    ///
    /// # Safety
    ///
    /// As for [`KeepState::create`]; the file is not removed during `'a`.
    unsafe fn device<'a>(dev: *mut bindings::device) -> &'a Device<T> {
        // SAFETY: By the requirement of this function.
        unsafe { (*bindings::dev_get_drvdata(dev).cast::<Registration<T>>()).device() }
    }

    /// # Safety
    ///
    /// Called by sysfs for a file that [`KeepState::create`] made; `buf` is a page.
    unsafe extern "C" fn show(
        dev: *mut bindings::device,
        _attr: *mut bindings::device_attribute,
        buf: *mut c_char,
    ) -> isize {
        // SAFETY: The file is not removed during this call.
        let device = unsafe { Self::device(dev) };
        let keep = c_int::from(device.keeps_state());

        // SAFETY: sysfs gives a page to write to, and the format takes one `int`.
        unsafe { bindings::sysfs_emit(buf, c"%d\n".as_char_ptr(), keep) as isize }
    }

    /// # Safety
    ///
    /// Called by sysfs for a file that [`KeepState::create`] made; `buf` is a string.
    unsafe extern "C" fn store(
        dev: *mut bindings::device,
        _attr: *mut bindings::device_attribute,
        buf: *const c_char,
        count: usize,
    ) -> isize {
        // SAFETY: The file is not removed during this call; sysfs ends what was written with a NUL.
        let (device, text) = unsafe { (Self::device(dev), CStr::from_char_ptr(buf)) };

        match kstrtobool(text).and_then(|keep| device.set_keep_state(keep)) {
            Ok(()) => count as isize,
            Err(error) => error.to_errno() as isize,
        }
    }
}
