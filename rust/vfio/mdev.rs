// SPDX-License-Identifier: GPL-2.0

//! The mdev parent: types, and the creation of mdevs.
//!
//! A [`Parent`] is a class device with a driver of the mdev bus. Each of its [`Type`]s appears in
//! `mdev_supported_types`, and writing a UUID to its `create` calls [`Driver::probe`].
//!
//! C header: [`include/linux/mdev.h`](srctree/include/linux/mdev.h)

mod attribute;
mod class_device;
mod driver;
mod types;
mod vtable;

use attribute::Groups;
use class_device::ClassDevice;
use kernel::{
    error::to_result,
    prelude::*,
    types::Opaque,
    ThisModule, //
};
use types::Entry;
use vfio_bindings as bindings;
use vtable::MdevDriver;

pub use driver::{
    Driver,
    Mdev, //
};
pub use types::Type;

/// A parent registered with the mdev core.
///
/// # Invariants
///
/// The parent is registered for as long as this lives.
#[pin_data(PinnedDrop)]
struct Registration {
    #[pin]
    raw: Opaque<bindings::mdev_parent>,
}

impl Registration {
    /// Registers `dev` as a parent.
    ///
    /// # Safety
    ///
    /// Device, driver and types are valid and stay where they are until this is dropped.
    unsafe fn new(
        dev: *mut bindings::device,
        driver: *mut bindings::mdev_driver,
        types: *mut *mut bindings::mdev_type,
        nr_types: c_uint,
    ) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            raw <- Opaque::try_ffi_init(move |slot: *mut bindings::mdev_parent| {
                // INVARIANT: On success the parent is registered, until it is dropped.
                // SAFETY: By the requirement of this function; the core initialises all of `slot`,
                // which is pinned.
                to_result(unsafe {
                    bindings::mdev_register_parent(slot, dev, driver, types, nr_types)
                })
            }),
        })
    }
}

#[pinned_drop]
impl PinnedDrop for Registration {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant the parent is registered.
        unsafe { bindings::mdev_unregister_parent(self.raw.get()) }
    }
}

/// An mdev parent and everything it needs.
///
/// Dropping it removes the mdevs, each after its last user has closed the device, and then the parent.
/// A module holds a `Parent` for as long as it is loaded; it cannot be unloaded while a device
/// is open.
pub struct Parent<D: Driver> {
    // Dropped in this order: first the registration, then what it points to.
    _registration: Pin<KBox<Registration>>,
    _device: ClassDevice,
    _driver: Pin<KBox<MdevDriver<D>>>,
    _raw_types: KVec<*mut bindings::mdev_type>,
    _types: KVec<Pin<KBox<Entry<D>>>>,
}

// SAFETY: The pointers are to what the other fields own, and only the core uses them, on any thread.
unsafe impl<D: Driver> Send for Parent<D> {}

// SAFETY: A shared reference gives access to nothing.
unsafe impl<D: Driver> Sync for Parent<D> {}

impl<D: Driver> Parent<D> {
    /// Registers the parent device `name` with its types.
    pub fn new(
        module: &'static ThisModule,
        name: &'static CStr,
        types: KVec<Type<D>>,
    ) -> Result<Self> {
        let mut entries = KVec::with_capacity(types.len(), GFP_KERNEL)?;
        let mut raw_types = KVec::with_capacity(types.len(), GFP_KERNEL)?;

        for typ in types {
            let entry = Entry::new(typ)?;
            raw_types.push(entry.as_raw(), GFP_KERNEL)?;
            entries.push(entry, GFP_KERNEL)?;
        }

        let driver = KBox::pin_init(MdevDriver::register(module, Groups::new()?), GFP_KERNEL)?;
        let device = ClassDevice::new(name)?;
        // SAFETY: The new value owns the registration and all that is passed, and drops the registration
        // first. Boxes and vectors do not move their contents.
        let registration = unsafe {
            Registration::new(
                device.as_raw(),
                driver.as_raw(),
                raw_types.as_mut_ptr(),
                raw_types.len() as c_uint,
            )
        };

        Ok(Self {
            _registration: KBox::pin_init(registration, GFP_KERNEL)?,
            _device: device,
            _driver: driver,
            _raw_types: raw_types,
            _types: entries,
        })
    }
}
