// SPDX-License-Identifier: GPL-2.0

//! The callbacks of `struct mdev_driver`.

use super::{
    attribute::{
        Attribute,
        KeepState,
        MigrationAbi,
        MigrationVersion,
        PayloadChecksums, //
    },
    driver::{
        Driver,
        Mdev, //
    },
    types::Entry, //
};
use core::ptr;
use kernel::{
    container_of,
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
/// The driver is registered for as long as this lives.
#[pin_data(PinnedDrop)]
pub(super) struct MdevDriver<D: Driver> {
    #[pin]
    raw: Opaque<bindings::mdev_driver>,
    /// The attributes of its mdevs.
    #[pin]
    keep_state: Attribute<D, KeepState>,
    #[pin]
    migration_abi: Attribute<D, MigrationAbi>,
    #[pin]
    payload_checksums: Attribute<D, PayloadChecksums>,
    #[pin]
    migration_version: Attribute<D, MigrationVersion>,
}

impl<D: Driver> MdevDriver<D> {
    /// Registers the driver.
    pub(super) fn register(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            keep_state <- Attribute::new(),
            migration_abi <- Attribute::new(),
            payload_checksums <- Attribute::new(),
            migration_version <- Attribute::new(),
            raw <- Opaque::try_ffi_init(|slot: *mut bindings::mdev_driver| {
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

    /// Returns the driver of an mdev.
    ///
    /// # Safety
    ///
    /// `dev` is being probed or removed by the [`MdevDriver`] of `D`, during all of `'a`.
    unsafe fn of<'a>(dev: *mut bindings::device) -> &'a Self {
        // SAFETY: By the requirement of this function. An `mdev_driver` has its `device_driver` in it, and
        // this has its `mdev_driver` in it.
        unsafe {
            let driver = container_of!((*dev).driver, bindings::mdev_driver, driver);
            &*container_of!(Opaque::cast_from(driver), Self, raw)
        }
    }

    /// Creates the files of an mdev, or none.
    ///
    /// # Safety
    ///
    /// As for [`Attribute::create`].
    unsafe fn create_files(&self, dev: *mut bindings::device) -> Result {
        // SAFETY: By the requirement of this function.
        unsafe {
            self.keep_state.create(dev)?;
            self.migration_abi
                .create(dev)
                .inspect_err(|_| self.keep_state.remove(dev))?;
            self.payload_checksums.create(dev).inspect_err(|_| {
                self.migration_abi.remove(dev);
                self.keep_state.remove(dev);
            })?;
            self.migration_version.create(dev).inspect_err(|_| {
                self.payload_checksums.remove(dev);
                self.migration_abi.remove(dev);
                self.keep_state.remove(dev);
            })
        }
    }

    /// Removes the files of an mdev. Waits for calls in progress, which use the driver data.
    ///
    /// # Safety
    ///
    /// As for [`Attribute::remove`].
    unsafe fn remove_files(&self, dev: *mut bindings::device) {
        // SAFETY: By the requirement of this function.
        unsafe {
            self.migration_version.remove(dev);
            self.payload_checksums.remove(dev);
            self.migration_abi.remove(dev);
            self.keep_state.remove(dev);
        }
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

        let created = D::probe(&mdev, typ).and_then(|data| {
            let data = KBox::into_raw(KBox::new(data, GFP_KERNEL)?);
            // SAFETY: The device is valid, and its driver data is this driver's to set. `remove` removes
            // the files before it drops the data.
            unsafe {
                bindings::dev_set_drvdata(mdev.dev, data.cast());
                Self::of(mdev.dev).create_files(mdev.dev)
            }
            // SAFETY: The box was given up just now, and nobody uses it.
            .inspect_err(|_| drop(unsafe { KBox::from_raw(data) }))
        });
        match created {
            Ok(()) => 0,
            Err(error) => error.to_errno(),
        }
    }

    /// # Safety
    ///
    /// Called by the mdev core for a device that was probed.
    unsafe extern "C" fn remove(raw: *mut bindings::mdev_device) {
        // SAFETY: The device is valid, and `probe` has set the driver data and created the files. Nobody
        // else drops the data, and the core removes a device once.
        unsafe {
            let dev = &raw mut (*raw).dev;
            Self::of(dev).remove_files(dev);
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
