// SPDX-License-Identifier: GPL-2.0

//! The attribute of an instance: a file in its directory of sysfs.
//!
//! C header: [`include/linux/device.h`](srctree/include/linux/device.h)

use crate::{
    bindings,
    instance::Instance, //
};
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
pub(super) struct KeepState {
    #[pin]
    raw: Opaque<bindings::device_attribute>,
}

// SAFETY: sysfs reads the attribute on any thread, and nobody changes it.
unsafe impl Send for KeepState {}

// SAFETY: As above.
unsafe impl Sync for KeepState {}

impl KeepState {
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
        })
    }

    /// Creates the file in the directory of `dev`.
    ///
    /// # Safety
    ///
    /// `dev` is an mdev whose driver data is the `struct vfio_device` of an [`Instance`]. It stays that, and
    /// this value lives, until [`KeepState::remove`] has returned.
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

    /// The instance of a device.
    ///
    /// # Safety
    ///
    /// As for [`KeepState::create`]; the file is not removed during `'a`.
    unsafe fn instance<'a>(dev: *mut bindings::device) -> &'a Instance {
        // SAFETY: By the requirement of this function.
        unsafe { Instance::from_raw(bindings::dev_get_drvdata(dev).cast()) }
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
        let instance = unsafe { Self::instance(dev) };
        let keep = c_int::from(instance.migration.keeps_state());

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
        let (instance, text) = unsafe { (Self::instance(dev), CStr::from_char_ptr(buf)) };

        match kstrtobool(text).and_then(|keep| instance.migration.keep_state(keep)) {
            Ok(()) => count as isize,
            Err(error) => error.to_errno() as isize,
        }
    }
}
