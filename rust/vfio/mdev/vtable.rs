// SPDX-License-Identifier: GPL-2.0

//! The callbacks of `struct mdev_driver`.

use super::{
    attribute::Groups,
    driver::{
        Driver,
        Mdev, //
    },
    types::Entry, //
};
use core::ptr;
use kernel::{
    error::to_result,
    page::PAGE_SIZE,
    prelude::*,
    types::Opaque,
    ThisModule, //
};
use vfio_bindings as bindings;

/// A registered driver of the mdev bus.
///
/// # Invariants
///
/// The driver is registered for as long as this lives, with these groups.
#[pin_data(PinnedDrop)]
pub(super) struct MdevDriver<D: Driver> {
    #[pin]
    raw: Opaque<bindings::mdev_driver>,
    _groups: Groups<D>,
}

impl<D: Driver> MdevDriver<D> {
    /// Registers the driver.
    pub(super) fn register(
        module: &'static ThisModule,
        groups: Groups<D>,
    ) -> impl PinInit<Self, Error> {
        let dev_groups = groups.as_raw();
        try_pin_init!(Self {
            _groups: groups,
            raw <- Opaque::try_ffi_init(move |slot: *mut bindings::mdev_driver| {
                let driver = bindings::mdev_driver {
                    device_api: bindings::VFIO_DEVICE_API_PCI_STRING.as_ptr().cast(),
                    probe: Some(Self::probe),
                    remove: Some(Self::remove),
                    get_available: Some(Self::get_available),
                    show_description: Some(Self::show_description),
                    driver: bindings::device_driver {
                        name: D::NAME.as_char_ptr(),
                        // VFIO takes a reference to the owner while a device is open; the mdev core
                        // does not set it.
                        owner: module.as_ptr(),
                        mod_name: D::NAME.as_char_ptr(),
                        dev_groups,
                        ..pin_init::zeroed()
                    },
                    ..pin_init::zeroed()
                };

                // SAFETY: `slot` is valid for writes.
                unsafe { slot.write(driver) };
                // INVARIANT: On success the driver is registered, until it is dropped.
                // SAFETY: `slot` was just initialised and is pinned.
                to_result(unsafe { bindings::mdev_register_driver(slot) })
            }),
        })
    }

    /// Returns the `struct mdev_driver`.
    pub(super) fn as_raw(&self) -> *mut bindings::mdev_driver {
        self.raw.get()
    }

    /// # Safety
    ///
    /// Called by the mdev core for a device it creates.
    unsafe extern "C" fn probe(raw: *mut bindings::mdev_device) -> c_int {
        // SAFETY: The device is valid, and of one of this driver's types.
        let (mdev, typ) = unsafe {
            // INVARIANT: It is a device that the mdev core creates.
            let mdev = Mdev {
                dev: &raw mut (*raw).dev,
            };
            (mdev, Entry::<D>::data((*raw).type_))
        };

        let created =
            D::probe(&mdev, typ).and_then(|data| Ok(KBox::into_raw(KBox::new(data, GFP_KERNEL)?)));
        match created {
            Ok(data) => {
                // SAFETY: The device is valid, and its driver data is this driver's to set.
                unsafe { bindings::dev_set_drvdata(mdev.dev, data.cast()) };
                0
            }
            Err(error) => error.to_errno(),
        }
    }

    /// # Safety
    ///
    /// Called by the mdev core for a device that was probed.
    unsafe extern "C" fn remove(raw: *mut bindings::mdev_device) {
        // SAFETY: The device is valid, and `probe` has set the driver data. The driver core has removed the
        // files, which use it. Nobody else drops the data, and the core removes a device once.
        unsafe {
            let dev = &raw mut (*raw).dev;
            drop(KBox::from_raw(bindings::dev_get_drvdata(dev).cast::<D>()));
        }
    }

    /// # Safety
    ///
    /// Called by the mdev core for a type of a registered parent.
    unsafe extern "C" fn get_available(mtype: *mut bindings::mdev_type) -> c_uint {
        // SAFETY: The type is one of this driver's.
        let available = D::available(unsafe { Entry::<D>::data(mtype) });

        available.try_into().unwrap_or(c_uint::MAX)
    }

    /// # Safety
    ///
    /// Called by the mdev core for a type of a registered parent; `buf` is a page.
    unsafe extern "C" fn show_description(
        mtype: *mut bindings::mdev_type,
        buf: *mut c_char,
    ) -> isize {
        // SAFETY: The type is one of this driver's.
        let text = D::description(unsafe { Entry::<D>::data(mtype) }).as_bytes();
        let len = text.len().min(PAGE_SIZE - 2);

        // SAFETY: sysfs gives a page to write to, and `len` leaves room for the newline.
        unsafe {
            ptr::copy_nonoverlapping(text.as_ptr(), buf.cast(), len);
            buf.add(len).cast::<u8>().write(b'\n');
        }
        len as isize + 1
    }
}

#[pinned_drop]
impl<D: Driver> PinnedDrop for MdevDriver<D> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant the driver is registered.
        unsafe { bindings::mdev_unregister_driver(self.raw.get()) }
    }
}
