// SPDX-License-Identifier: GPL-2.0

//! The attributes of an mdev: files in its directory of sysfs.
//!
//! ```text
//!   keep_state          whether the state of the device stays when its last user closes it
//!   migration_abi       the migration interface, until the first open
//!   payload_checksums   whether device memory in a saved state has checksums
//!   migration_version   which streams the device takes; a write asks whether it takes those of a device
//!                       whose text this is, and changes nothing
//! ```
//!
//! Everybody may read them, and only root may write them.
//!
//! C header: [`include/linux/device.h`](srctree/include/linux/device.h)

use super::driver::Driver;
use core::{
    fmt::{
        self,
        Write, //
    },
    marker::PhantomData,
    slice, //
};
use kernel::{
    error::to_result,
    ffi::c_char,
    page::PAGE_SIZE,
    prelude::*,
    str::{
        kstrtobool,
        CStrExt,
        Formatter, //
    },
    types::Opaque, //
};
use vfio_bindings as bindings;

/// What a file shows and sets.
pub(super) trait Value<D: Driver>: 'static {
    /// Name of the file.
    const NAME: &'static CStr;

    /// Writes the text of the file, without a newline at its end.
    fn show(data: &D, out: &mut dyn Write) -> fmt::Result;

    /// Takes what was written. An error is the errno of the write.
    fn store(data: &D, text: &CStr) -> Result;
}

/// `keep_state`.
pub(super) struct KeepState;

impl<D: Driver> Value<D> for KeepState {
    const NAME: &'static CStr = c"keep_state";

    fn show(data: &D, out: &mut dyn Write) -> fmt::Result {
        out.write_char(if data.keeps_state() { '1' } else { '0' })
    }

    fn store(data: &D, text: &CStr) -> Result {
        kstrtobool(text).and_then(|keep| data.set_keep_state(keep))
    }
}

/// `migration_abi`.
pub(super) struct MigrationAbi;

impl<D: Driver> Value<D> for MigrationAbi {
    const NAME: &'static CStr = c"migration_abi";

    fn show(data: &D, out: &mut dyn Write) -> fmt::Result {
        out.write_str(data.migration_abi())
    }

    fn store(data: &D, text: &CStr) -> Result {
        let text = text.to_bytes();
        data.set_migration_abi(text.strip_suffix(b"\n").unwrap_or(text))
    }
}

/// `payload_checksums`.
pub(super) struct PayloadChecksums;

impl<D: Driver> Value<D> for PayloadChecksums {
    const NAME: &'static CStr = c"payload_checksums";

    fn show(data: &D, out: &mut dyn Write) -> fmt::Result {
        out.write_char(if data.has_payload_checksums() {
            '1'
        } else {
            '0'
        })
    }

    fn store(data: &D, text: &CStr) -> Result {
        kstrtobool(text).and_then(|on| data.set_payload_checksums(on))
    }
}

/// `migration_version`.
pub(super) struct MigrationVersion;

impl<D: Driver> Value<D> for MigrationVersion {
    const NAME: &'static CStr = c"migration_version";

    fn show(data: &D, out: &mut dyn Write) -> fmt::Result {
        data.show_migration_version(out)
    }

    fn store(data: &D, text: &CStr) -> Result {
        data.check_migration_version(text.to_str()?)
    }
}

/// A file.
///
/// # Invariants
///
/// `raw` is initialised, and pinned.
#[pin_data]
pub(super) struct Attribute<D: Driver, V: Value<D>> {
    #[pin]
    raw: Opaque<bindings::device_attribute>,
    _types: PhantomData<fn() -> (D, V)>,
}

// SAFETY: sysfs reads the attribute on any thread, and nobody changes it.
unsafe impl<D: Driver, V: Value<D>> Send for Attribute<D, V> {}

// SAFETY: As above.
unsafe impl<D: Driver, V: Value<D>> Sync for Attribute<D, V> {}

impl<D: Driver, V: Value<D>> Attribute<D, V> {
    /// The attribute, of no device yet.
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            // INVARIANT: Initialised here.
            raw <- Opaque::ffi_init(|slot| {
                // SAFETY: `slot` is valid for writes; the name is static.
                unsafe {
                    bindings::vfio_rs_device_attribute_init(
                        slot,
                        V::NAME.as_char_ptr(),
                        0o644,
                        Some(Self::show),
                        Some(Self::store),
                    )
                }
            }),
            _types: PhantomData,
        })
    }

    /// Creates the file in the directory of `dev`.
    ///
    /// # Safety
    ///
    /// `dev` is an mdev whose driver data is a `D`. It stays that, and this value lives, until
    /// [`Attribute::remove`] has returned.
    pub(super) unsafe fn create(&self, dev: *mut bindings::device) -> Result {
        // SAFETY: By the requirement of this function and the type invariant.
        to_result(unsafe { bindings::device_create_file(dev, self.raw.get()) })
    }

    /// Removes the file. Waits for calls in progress.
    ///
    /// # Safety
    ///
    /// `dev` was given to [`Attribute::create`].
    pub(super) unsafe fn remove(&self, dev: *mut bindings::device) {
        // SAFETY: By the requirement of this function.
        unsafe { bindings::device_remove_file(dev, self.raw.get()) }
    }

    /// Returns the driver data of an mdev.
    ///
    /// # Safety
    ///
    /// As for [`Attribute::create`]; the file is not removed during `'a`.
    unsafe fn data<'a>(dev: *mut bindings::device) -> &'a D {
        // SAFETY: By the requirement of this function.
        unsafe { &*bindings::dev_get_drvdata(dev).cast::<D>() }
    }

    /// # Safety
    ///
    /// Called by sysfs for a file that [`Attribute::create`] made; `buf` is a page.
    unsafe extern "C" fn show(
        dev: *mut bindings::device,
        _attr: *mut bindings::device_attribute,
        buf: *mut c_char,
    ) -> isize {
        // SAFETY: The file is not removed during this call; sysfs gives a page of zeros to write to.
        let (data, page) = unsafe {
            (
                Self::data(dev),
                slice::from_raw_parts_mut(buf.cast::<u8>(), PAGE_SIZE),
            )
        };
        let mut out = Formatter::new(page);

        match V::show(data, &mut out).and_then(|()| out.write_char('\n')) {
            Ok(()) => out.bytes_written() as isize,
            Err(fmt::Error) => EOVERFLOW.to_errno() as isize,
        }
    }

    /// # Safety
    ///
    /// Called by sysfs for a file that [`Attribute::create`] made; `buf` is a string.
    unsafe extern "C" fn store(
        dev: *mut bindings::device,
        _attr: *mut bindings::device_attribute,
        buf: *const c_char,
        count: usize,
    ) -> isize {
        // SAFETY: The file is not removed during this call; sysfs ends what was written with a NUL.
        let (data, text) = unsafe { (Self::data(dev), CStr::from_char_ptr(buf)) };

        match V::store(data, text) {
            Ok(()) => count as isize,
            Err(error) => error.to_errno() as isize,
        }
    }
}
