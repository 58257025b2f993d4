// SPDX-License-Identifier: GPL-2.0

//! The mdev parent: types, and the creation of instances.
//!
//! A [`Parent`] is a class device with a driver of the mdev bus. Each of its [`Type`]s appears in
//! `mdev_supported_types`, and writing a UUID to its `create` creates a
//! [`Device`](crate::Device). Devices cost memory, of which the parent has a budget:
//! `available_instances` is how many fit into the rest of it.
//!
//! C header: [`include/linux/mdev.h`](srctree/include/linux/mdev.h)

mod attribute;
mod driver;
mod types;

use crate::{
    bindings,
    budget::Budget,
    debugfs::{
        Dir,
        Flag, //
    },
    dma::{
        Unmaps,
        UnpinQueue, //
    },
    driver::Driver,
    migration::DataSection,
    worker, //
};
use core::ptr::{
    self,
    NonNull, //
};
use driver::MdevDriver;
use kernel::{
    error::{
        from_err_ptr,
        to_result, //
    },
    prelude::*,
    types::Opaque,
    ThisModule, //
};
use types::Entry;

pub use types::Type;

/// A class and the one device in it, both called the same.
///
/// # Invariants
///
/// Both pointers are valid, and this value is what created them.
struct ClassDevice {
    class: NonNull<bindings::class>,
    dev: NonNull<bindings::device>,
}

impl ClassDevice {
    /// Creates `/sys/class/NAME/NAME`.
    fn new(name: &'static CStr) -> Result<Self> {
        // SAFETY: The name is a string that lives for ever.
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
/// Dropping it removes the devices, each after its last user has closed it, and then the parent.
/// A module holds a `Parent` for as long as it is loaded; it cannot be unloaded while a device
/// is open.
pub struct Parent<T: Driver> {
    // Dropped in this order: the core forgets the parent before what it points to is gone.
    _registration: Pin<KBox<Registration>>,
    _device: ClassDevice,
    _driver: Pin<KBox<MdevDriver<T>>>,
    _raw_types: KVec<*mut bindings::mdev_type>,
    _types: KVec<Pin<KBox<Entry<T>>>>,
    // Waits for the work items that have just unpinned something.
    _unpin: UnpinQueue,
}

// SAFETY: The pointers are to what the other fields own, and are not used but by the core, which
// does not care for the thread.
unsafe impl<T: Driver> Send for Parent<T> {}

// SAFETY: There is nothing one can do with a shared reference.
unsafe impl<T: Driver> Sync for Parent<T> {}

impl<T: Driver> Parent<T> {
    /// Registers the parent device `name` with its types.
    ///
    /// `budget` is the memory, in bytes, that the devices share. `section` is the v1 data section of each
    /// device. `EINVAL` if a type describes no device; the log says which and why.
    pub fn new(
        module: &'static ThisModule,
        name: &'static CStr,
        types: KVec<Type<T>>,
        budget: u64,
        section: DataSection,
    ) -> Result<Self> {
        let budget = Budget::new(budget)?;
        let debugfs = Dir::new(T::INFO.name, None)?;
        let log_limit = Flag::new(c"log_limit", &debugfs)?;
        let unpin = UnpinQueue::new(T::INFO.name)?;
        // SAFETY: The parent drops the queue after it has removed all devices.
        let unmaps = unsafe { Unmaps::new(&unpin)? };
        let mut entries = KVec::with_capacity(types.len(), GFP_KERNEL)?;
        let mut raw_types = KVec::with_capacity(types.len(), GFP_KERNEL)?;

        for typ in types {
            Self::check(&typ)?;
            let entry = Entry::new(
                typ,
                budget.clone(),
                debugfs.clone(),
                log_limit.clone(),
                unmaps.clone(),
                section,
            )?;
            raw_types.push(entry.as_raw(), GFP_KERNEL)?;
            entries.push(entry, GFP_KERNEL)?;
        }

        let driver = KBox::pin_init(MdevDriver::register(module), GFP_KERNEL)?;
        let device = ClassDevice::new(name)?;
        // SAFETY: All that is passed is owned by the value that is about to own the registration,
        // which drops it first; boxes and vectors keep their contents where they are.
        let registration = unsafe {
            Registration::new(
                device.dev.as_ptr(),
                driver.as_raw(),
                raw_types.as_mut_ptr(),
                raw_types.len() as c_uint,
            )
        };

        worker::announce(T::INFO.name);
        Ok(Self {
            _registration: KBox::pin_init(registration, GFP_KERNEL)?,
            _device: device,
            _driver: driver,
            _raw_types: raw_types,
            _types: entries,
            _unpin: unpin,
        })
    }

    /// Checks what a type says of itself.
    fn check(typ: &Type<T>) -> Result {
        let function = T::function(&typ.config).check();
        let cost = (typ.cost != 0)
            .then_some(())
            .ok_or("a device costs nothing");

        function.and(cost).map_err(|reason| {
            pr_err!(
                "{} type {}: {}\n",
                T::INFO.name.to_str().unwrap_or("?"),
                typ.name.to_str().unwrap_or("?"),
                reason
            );
            EINVAL
        })
    }
}
