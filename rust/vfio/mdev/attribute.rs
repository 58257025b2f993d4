// SPDX-License-Identifier: GPL-2.0

//! The attribute of an mdev: a file in its directory of sysfs.
//!
//! C header: [`include/linux/device.h`](srctree/include/linux/device.h)

use super::driver::Driver;
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
use vfio_bindings as bindings;

/// `keep_state`: whether the state of the device stays when its last user closes it.
///
/// Everybody may read it, and only root may write it.
///
/// # Invariants
///
/// `raw` is initialised, and pinned.
#[pin_data]
pub(super) struct KeepState<D: Driver> {
    #[pin]
    raw: Opaque<bindings::device_attribute>,
    _driver: PhantomData<fn() -> D>,
}

// SAFETY: sysfs reads the attribute on any thread, and nobody changes it.
unsafe impl<D: Driver> Send for KeepState<D> {}

// SAFETY: As above.
unsafe impl<D: Driver> Sync for KeepState<D> {}

impl<D: Driver> KeepState<D> {
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
    /// `dev` is an mdev whose driver data is a `D`. It stays that, and this value lives, until
    /// [`KeepState::remove`] has returned.
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

    /// Returns the driver data of an mdev.
    ///
    /// # Safety
    ///
    /// As for [`KeepState::create`]; the file is not removed during `'a`.
    unsafe fn data<'a>(dev: *mut bindings::device) -> &'a D {
        // SAFETY: By the requirement of this function.
        unsafe { &*bindings::dev_get_drvdata(dev).cast::<D>() }
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
        let data = unsafe { Self::data(dev) };
        let keep = c_int::from(data.keeps_state());

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
        let (data, text) = unsafe { (Self::data(dev), CStr::from_char_ptr(buf)) };

        match kstrtobool(text).and_then(|keep| data.set_keep_state(keep)) {
            Ok(()) => count as isize,
            Err(error) => error.to_errno() as isize,
        }
    }
}
