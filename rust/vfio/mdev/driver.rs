// SPDX-License-Identifier: GPL-2.0

//! The driver on the mdev bus, and what it is called for.

use super::{
    attribute::KeepState,
    types::Entry, //
};
use crate::{
    bindings,
    driver::Driver,
    registration::{
        Registration,
        Resources, //
    },
    uuid::Uuid, //
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

/// A registered driver of the mdev bus.
///
/// # Invariants
///
/// The driver is registered for as long as this lives.
#[pin_data(PinnedDrop)]
pub(super) struct MdevDriver<T: Driver> {
    #[pin]
    raw: Opaque<bindings::mdev_driver>,
    /// The attribute of its devices.
    #[pin]
    keep_state: KeepState<T>,
}

impl<T: Driver> MdevDriver<T> {
    /// Registers driver `T`.
    pub(super) fn register(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            keep_state <- KeepState::new(),
            raw <- Opaque::try_ffi_init(|slot: *mut bindings::mdev_driver| {
                let driver = bindings::mdev_driver {
                    device_api: bindings::VFIO_DEVICE_API_PCI_STRING.as_ptr().cast(),
                    probe: Some(Self::probe),
                    remove: Some(Self::remove),
                    get_available: Some(Self::get_available),
                    show_description: Some(Self::show_description),
                    driver: bindings::device_driver {
                        name: T::INFO.name.as_char_ptr(),
                        // VFIO takes a reference to the owner while a device is open; the mdev core
                        // does not set it.
                        owner: module.as_ptr(),
                        mod_name: T::INFO.name.as_char_ptr(),
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

    /// What the mdev core knows the driver by.
    pub(super) fn as_raw(&self) -> *mut bindings::mdev_driver {
        self.raw.get()
    }

    /// The driver of an mdev.
    ///
    /// # Safety
    ///
    /// `dev` is being probed or removed by the [`MdevDriver`] of `T`, during all of `'a`.
    unsafe fn of<'a>(dev: *mut bindings::device) -> &'a Self {
        // SAFETY: By the requirement of this function. An `mdev_driver` has its `device_driver` in it, and
        // a `Driver` has its `mdev_driver` in it.
        unsafe {
            let driver = container_of!((*dev).driver, bindings::mdev_driver, driver);
            &*container_of!(Opaque::cast_from(driver), Self, raw)
        }
    }

    /// # Safety
    ///
    /// Called by the mdev core for a device it creates.
    unsafe extern "C" fn probe(mdev: *mut bindings::mdev_device) -> c_int {
        // SAFETY: The device is valid, and of one of this driver's types.
        let (dev, uuid, entry) = unsafe {
            (
                &raw mut (*mdev).dev,
                Uuid::from_guid(&(*mdev).uuid),
                Entry::<T>::from_raw((*mdev).type_),
            )
        };

        let created = entry
            .budget
            .reserve(entry.typ.cost)
            .and_then(|reservation| {
                let resources = Resources {
                    reservation,
                    unmaps: entry.unmaps.clone(),
                    log_limit: entry.log_limit.clone(),
                    section: entry.section,
                };
                // SAFETY: `dev` is being probed, and `remove` drops the registration.
                let registration = unsafe {
                    Registration::<T>::new(dev, uuid, &entry.typ.config, &entry.debugfs, resources)?
                };
                let registration = KBox::into_raw(KBox::new(registration, GFP_KERNEL)?);
                // SAFETY: `dev` is valid, and its driver data is this driver's to set. `remove` removes the
                // file before it drops the registration.
                unsafe {
                    bindings::dev_set_drvdata(dev, registration.cast());
                    Self::of(dev).keep_state.create(dev)
                }
                // SAFETY: The box was given up just now, and nobody uses it.
                .inspect_err(|_| drop(unsafe { KBox::from_raw(registration) }))
            });
        match created {
            Ok(()) => 0,
            Err(e) => {
                let reason = if e == ENOSPC {
                    "the rest of the memory budget is too small"
                } else {
                    "failed"
                };
                entry.log.refuse(
                    T::INFO.name,
                    &uuid,
                    format_args!("create: {reason} ({e:?})"),
                );
                e.to_errno()
            }
        }
    }

    /// # Safety
    ///
    /// Called by the mdev core for a device that was probed.
    unsafe extern "C" fn remove(mdev: *mut bindings::mdev_device) {
        // SAFETY: The device is valid, and `probe` has set the driver data and created the file. Nobody
        // else drops the registration, and the core removes a device once.
        unsafe {
            let dev = &raw mut (*mdev).dev;
            Self::of(dev).keep_state.remove(dev);
            drop(KBox::from_raw(
                bindings::dev_get_drvdata(dev).cast::<Registration<T>>(),
            ));
        }
    }

    /// # Safety
    ///
    /// Called by the mdev core for a type of a registered parent.
    unsafe extern "C" fn get_available(mtype: *mut bindings::mdev_type) -> c_uint {
        // SAFETY: The type is one of this driver's.
        let entry = unsafe { Entry::<T>::from_raw(mtype) };

        entry
            .budget
            .available(entry.typ.cost)
            .try_into()
            .unwrap_or(c_uint::MAX)
    }

    /// # Safety
    ///
    /// Called by the mdev core for a type of a registered parent; `buf` is a page.
    unsafe extern "C" fn show_description(
        mtype: *mut bindings::mdev_type,
        buf: *mut c_char,
    ) -> isize {
        // SAFETY: The type is one of this driver's.
        let text = unsafe { Entry::<T>::from_raw(mtype) }
            .typ
            .description
            .as_bytes();
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
impl<T: Driver> PinnedDrop for MdevDriver<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant the driver is registered.
        unsafe { bindings::mdev_unregister_driver(self.raw.get()) }
    }
}
