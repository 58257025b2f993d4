// SPDX-License-Identifier: GPL-2.0

//! The mdev parent: types, and the creation of instances.
//!
//! A [`Parent`] is a class device with a driver of the mdev bus. Each of its [`Type`]s appears in
//! `mdev_supported_types`, and writing a UUID to its `create` makes an instance of the driver's
//! [`Device`]. Instances cost memory, of which the parent has a budget: `available_instances` is
//! what fits into the rest of it.
//!
//! C header: [`include/linux/mdev.h`](srctree/include/linux/mdev.h)

use crate::{
    bindings,
    device::Device,
    handle::Uuid,
    instance, //
};
use core::{
    marker::PhantomData,
    ptr::{
        self,
        NonNull, //
    },
    sync::atomic::{
        AtomicU64,
        Ordering, //
    },
};
use kernel::{
    container_of,
    error::{
        from_err_ptr,
        to_result, //
    },
    page::PAGE_SIZE,
    prelude::*,
    sync::Arc,
    types::Opaque,
    ThisModule, //
};

/// An mdev type.
pub struct Type<D: Device> {
    /// The type's directory is the parent's name, a dash and this.
    pub name: &'static CStr,
    /// One line for people: `name` in the type's directory.
    pub pretty_name: &'static CStr,
    /// What the type offers: `description` in the type's directory.
    pub description: &'static str,
    /// What [`Device::new`] is given.
    pub config: D::Config,
    /// Bytes of the parent's budget that an instance takes; not 0.
    pub cost: u64,
}

/// Memory that instances share.
struct Budget {
    /// Bytes in all.
    total: u64,
    /// Bytes in use, at most `total`.
    used: AtomicU64,
}

impl Budget {
    /// How many more instances at `cost` fit.
    fn available(&self, cost: u64) -> u64 {
        let free = self.total - self.used.load(Ordering::Relaxed);
        free.checked_div(cost).unwrap_or(0)
    }

    /// Takes `cost` bytes, or fails and takes nothing.
    fn reserve(self: &Arc<Self>, cost: u64) -> Result<Reservation> {
        // Relaxed: the number is all that is shared, nothing is published with it.
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(cost).filter(|sum| *sum <= self.total)
            })
            .map_err(|_| ENOSPC)?;

        // INVARIANT: `cost` was just added to `used`.
        Ok(Reservation {
            budget: self.clone(),
            cost,
        })
    }
}

/// An instance's part of its parent's budget; given back when dropped.
///
/// # Invariants
///
/// `cost` is part of the budget's `used`.
pub(crate) struct Reservation {
    budget: Arc<Budget>,
    cost: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // By the type invariant this does not go below 0.
        self.budget.used.fetch_sub(self.cost, Ordering::Relaxed);
    }
}

/// A [`Type`] with its place in the mdev core.
///
/// # Invariants
///
/// Pinned, and not dropped before the parent is unregistered.
#[pin_data]
struct Entry<D: Device> {
    #[pin]
    raw: Opaque<bindings::mdev_type>,
    typ: Type<D>,
    budget: Arc<Budget>,
}

impl<D: Device> Entry<D> {
    /// An entry that the mdev core does not know yet.
    fn new(typ: Type<D>, budget: Arc<Budget>) -> Result<Pin<KBox<Self>>> {
        let raw = bindings::mdev_type {
            sysfs_name: typ.name.as_char_ptr(),
            pretty_name: typ.pretty_name.as_char_ptr(),
            ..pin_init::zeroed()
        };

        KBox::pin_init(
            pin_init!(Self {
                raw: Opaque::new(raw),
                typ,
                budget,
            }),
            GFP_KERNEL,
        )
    }

    /// The entry of a type the mdev core hands out.
    ///
    /// # Safety
    ///
    /// `raw` is an [`Entry::raw`] of the same driver, and the parent is registered for `'a`.
    unsafe fn from_raw<'a>(raw: *mut bindings::mdev_type) -> &'a Self {
        // SAFETY: By the requirement of this function.
        unsafe { &*container_of!(Opaque::cast_from(raw), Self, raw) }
    }
}

/// A registered driver of the mdev bus.
///
/// # Invariants
///
/// The driver is registered for as long as this lives.
#[pin_data(PinnedDrop)]
struct Driver<D: Device> {
    #[pin]
    raw: Opaque<bindings::mdev_driver>,
    _device: PhantomData<fn() -> D>,
}

impl<D: Device> Driver<D> {
    /// Registers the driver of `D`.
    fn register(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
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
            _device: PhantomData,
        })
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
                Entry::<D>::from_raw((*mdev).type_),
            )
        };

        let created = entry
            .budget
            .reserve(entry.typ.cost)
            // SAFETY: `dev` is being probed.
            .and_then(|part| unsafe {
                instance::create::<D>(dev, uuid, &entry.typ.config, part)
            });
        match created {
            Ok(vdev) => {
                // SAFETY: `dev` is valid, and its driver data is this driver's to set.
                unsafe { bindings::dev_set_drvdata(dev, vdev.as_ptr().cast()) };
                0
            }
            Err(e) => {
                if e == ENOSPC {
                    pr_warn!(
                        "{} {}: create: {} bytes do not fit the memory budget\n",
                        D::NAME.to_str().unwrap_or("?"),
                        uuid,
                        entry.typ.cost
                    );
                } else {
                    pr_warn!(
                        "{} {}: create: failed ({:?})\n",
                        D::NAME.to_str().unwrap_or("?"),
                        uuid,
                        e
                    );
                }
                e.to_errno()
            }
        }
    }

    /// # Safety
    ///
    /// Called by the mdev core for a device that was probed.
    unsafe extern "C" fn remove(mdev: *mut bindings::mdev_device) {
        // SAFETY: `probe` has set the driver data.
        let vdev = unsafe { bindings::dev_get_drvdata(&raw const (*mdev).dev) };

        if let Some(vdev) = NonNull::new(vdev.cast::<bindings::vfio_device>()) {
            // SAFETY: It was made by `create`, and the core removes a device once.
            unsafe { instance::remove(vdev) };
        }
    }

    /// # Safety
    ///
    /// Called by the mdev core for a type of a registered parent.
    unsafe extern "C" fn get_available(mtype: *mut bindings::mdev_type) -> c_uint {
        // SAFETY: The type is one of this driver's.
        let entry = unsafe { Entry::<D>::from_raw(mtype) };

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
        let text = unsafe { Entry::<D>::from_raw(mtype) }
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
impl<D: Device> PinnedDrop for Driver<D> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant the driver is registered.
        unsafe { bindings::mdev_unregister_driver(self.raw.get()) }
    }
}

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
/// Dropping it removes the instances, each after its last user has closed it, and then the parent.
/// A module holds a `Parent` for as long as it is loaded; it cannot be unloaded while an instance
/// is open.
pub struct Parent<D: Device> {
    // Dropped in this order: the core forgets the parent before what it points to is gone.
    _registration: Pin<KBox<Registration>>,
    _device: ClassDevice,
    _driver: Pin<KBox<Driver<D>>>,
    _raw_types: KVec<*mut bindings::mdev_type>,
    _types: KVec<Pin<KBox<Entry<D>>>>,
}

// SAFETY: The pointers are to what the other fields own, and are not used but by the core, which
// does not care for the thread.
unsafe impl<D: Device> Send for Parent<D> {}

// SAFETY: There is nothing one can do with a shared reference.
unsafe impl<D: Device> Sync for Parent<D> {}

impl<D: Device> Parent<D> {
    /// Registers the parent device `name` with its types.
    ///
    /// `budget` is the memory, in bytes, that instances share. `EINVAL` if a type describes no
    /// device; the log says which and why.
    pub fn new(
        module: &'static ThisModule,
        name: &'static CStr,
        types: KVec<Type<D>>,
        budget: u64,
    ) -> Result<Self> {
        let budget = Arc::new(
            Budget {
                total: budget,
                used: AtomicU64::new(0),
            },
            GFP_KERNEL,
        )?;
        let mut entries = KVec::with_capacity(types.len(), GFP_KERNEL)?;
        let mut raw_types = KVec::with_capacity(types.len(), GFP_KERNEL)?;

        for typ in types {
            Self::check(&typ)?;
            let entry = Entry::new(typ, budget.clone())?;
            raw_types.push(entry.raw.get(), GFP_KERNEL)?;
            entries.push(entry, GFP_KERNEL)?;
        }

        let driver = KBox::pin_init(Driver::register(module), GFP_KERNEL)?;
        let device = ClassDevice::new(name)?;
        // SAFETY: All that is passed is owned by the value that is about to own the registration,
        // which drops it first; boxes and vectors keep their contents where they are.
        let registration = unsafe {
            Registration::new(
                device.dev.as_ptr(),
                driver.raw.get(),
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

    /// Checks what a type says of itself.
    fn check(typ: &Type<D>) -> Result {
        let layout = D::pci(&typ.config).check(D::memory_size(&typ.config));
        let cost = (typ.cost != 0).then_some(()).ok_or("an instance costs nothing");

        layout.and(cost).map_err(|reason| {
            pr_err!(
                "{} type {}: {}\n",
                D::NAME.to_str().unwrap_or("?"),
                typ.name.to_str().unwrap_or("?"),
                reason
            );
            EINVAL
        })
    }
}
