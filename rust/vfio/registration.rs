// SPDX-License-Identifier: GPL-2.0

//! Allocation of devices, and their registration with VFIO.

use crate::{
    bindings,
    budget::Reservation,
    config::{
        self,
        ConfigSpace, //
    },
    debugfs::{
        Counters,
        Dir,
        File,
        Flag, //
    },
    device::Device,
    dma::{
        Dma,
        Unmaps, //
    },
    driver::Driver,
    engine::Engine,
    irq::Irq,
    log::Log,
    memory::DeviceMemory,
    migration::{
        debugfs::Status,
        identity::identity,
        DataSection,
        Staging,
        StateMachine, //
    },
    msix::Msix,
    ops,
    uuid::Uuid, //
};
use core::{
    convert::Infallible,
    mem::MaybeUninit,
    ptr::NonNull, //
};
use kernel::{
    error::{
        from_err_ptr,
        to_result, //
    },
    prelude::*,
    str::CString,
    sync::{
        aref::ARef,
        Arc, //
    },
};

/// What a device gets from its parent.
pub(crate) struct Resources {
    /// Its share of the memory budget.
    pub(crate) reservation: Reservation,
    /// The unmaps in progress.
    pub(crate) unmaps: Arc<Unmaps>,
    /// Whether the log of refusals is limited.
    pub(crate) log_limit: Arc<Flag>,
    /// The data section of the v1 region.
    pub(crate) section: DataSection,
}

impl<T: Driver> Device<T> {
    /// Allocates a device that is not registered.
    ///
    /// # Safety
    ///
    /// `dev` is the `struct device` of an mdev that is being probed.
    unsafe fn new(
        dev: *mut bindings::device,
        uuid: Uuid,
        config: &T::Config,
        resources: Resources,
    ) -> Result<ARef<Self>> {
        let function = T::function(config);
        let memory = match function.memory_size() {
            0 => None,
            size => Some(DeviceMemory::new(size)?),
        };
        let table = KBox::new(config::Table::new(&function), GFP_KERNEL)?;
        let msix = Msix::new(&function)?;
        let machine = StateMachine::new(
            identity::<T>(function.memory_size()),
            memory.as_deref(),
            resources.section,
        )?;

        let driver = T::new(config);
        // SAFETY: Leaves the field as it is: VFIO has initialised it.
        let raw = unsafe { pin_init::init_from_closure::<_, Infallible>(|_| Ok(())) };
        let init = try_pin_init!(Device {
            raw <- raw,
            engine <- Engine::new(T::INFO.name),
            name: T::INFO.name,
            uuid,
            log <- Log::new(resources.log_limit),
            counters: Arc::new(Counters::default(), GFP_KERNEL)?,
            config <- ConfigSpace::new(table),
            irq <- Irq::new(&function),
            msix <- msix,
            function,
            dma <- Dma::new(resources.unmaps),
            memory,
            machine <- machine,
            staging: Staging::new(resources.section),
            driver <- driver,
            reservation: resources.reservation,
        }? Error);

        // SAFETY: `dev` is valid by the requirement of this function, and the operations are static.
        let raw = from_err_ptr(unsafe {
            bindings::_vfio_alloc_device(size_of::<Self>(), dev, ops::uninitialised())
        })?;
        let this = NonNull::new(raw.cast::<Self>()).ok_or(ENOMEM)?;
        // SAFETY: As many bytes were allocated as a `Device` has. They do not move, and nobody else uses
        // them yet.
        let slot: &'static mut MaybeUninit<Self> = unsafe { this.cast().as_mut() };
        if let Err(error) = slot.write_pin_init(init) {
            // SAFETY: This is the reference that `_vfio_alloc_device()` returned. The operations so far
            // drop nothing at the last put.
            unsafe { bindings::put_device(&raw mut (*raw).device) };
            return Err(error);
        }
        // SAFETY: The device is not registered, so nobody else looks at it.
        unsafe {
            (*raw).ops = ops::VTable::<T>::OPS;
            (*raw).mig_ops = ops::migration::VTable::<T>::OPS;
            (*raw).migration_flags = ops::migration::FLAGS;
            #[cfg(CONFIG_IOMMUFD_DRIVER)]
            {
                (*raw).log_ops = ops::logging::VTable::<T>::OPS;
            }
        }
        // SAFETY: The reference is that of `_vfio_alloc_device()`.
        let device = unsafe { ARef::from_raw(this) };
        if let Some(memory) = &device.memory {
            // SAFETY: The inode lives as long as the device, which takes the mapping away when it is
            // dropped.
            unsafe { memory.set_mapping((*(*raw).inode).i_mapping) };
        }
        Ok(device)
    }
}

/// A device that is registered with VFIO.
///
/// Dropping it waits until the last user has closed the device.
///
/// # Invariants
///
/// `device` is registered.
pub(crate) struct Registration<T: Driver> {
    // Removed before the reference is given up.
    _status: File<Status<T>>,
    _counters: File<Arc<Counters>>,
    device: ARef<Device<T>>,
}

impl<T: Driver> Registration<T> {
    /// Creates a device for an mdev, and registers it with VFIO.
    ///
    /// # Safety
    ///
    /// `dev` is the `struct device` of an mdev that is being probed. The registration is dropped before
    /// the mdev is gone.
    pub(crate) unsafe fn new(
        dev: *mut bindings::device,
        uuid: Uuid,
        config: &T::Config,
        debugfs: &Dir,
        resources: Resources,
    ) -> Result<Self> {
        // SAFETY: By the requirement of this function.
        let device = unsafe { Device::<T>::new(dev, uuid, config, resources)? };
        let raw = device.as_raw();
        let name = CString::try_from_fmt(format_args!("{uuid}"))?;
        let debugfs = Dir::new(&name, Some(debugfs))?;
        let counters = debugfs.file(c"counters", device.counters.clone())?;
        let status = debugfs.file(c"migration", Status::new(device.clone()))?;

        // The set of devices that are reset together has this one alone. VFIO would create it, but
        // without a look at whether it could, and then follow a null pointer when the device is opened.
        // SAFETY: The device was just created and is not registered.
        to_result(unsafe { bindings::vfio_assign_device_set(raw, raw.cast()) })?;
        // SAFETY: As above.
        to_result(unsafe { bindings::vfio_register_emulated_iommu_dev(raw) })?;

        // INVARIANT: Registered just now.
        Ok(Self {
            _status: status,
            _counters: counters,
            device,
        })
    }

    /// Returns the device.
    pub(crate) fn device(&self) -> &Device<T> {
        &self.device
    }
}

impl<T: Driver> Drop for Registration<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the device is registered.
        unsafe { bindings::vfio_unregister_group_dev(self.device.as_raw()) };
    }
}
