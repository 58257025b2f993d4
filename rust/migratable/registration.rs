// SPDX-License-Identifier: GPL-2.0

//! The driver on the mdev bus: creation of a device for an mdev.

use crate::{
    attributes::AnyAttribute,
    budget::{
        Budget,
        Reservation, //
    },
    counters::Counters,
    device::{
        Device,
        VfioDevice, //
    },
    device_worker::DeviceWorker,
    driver::Driver,
    faults::{
        self,
        Faults, //
    },
    host_end::HostEnd,
    host_file::HostDevice,
    memory::DeviceMemory,
    migration::{
        debugfs::Status,
        identity::{
            identity,
            parts, //
        },
        DataSection,
        DataSectionConfig,
        StateMachine, //
    },
};
use core::fmt;
use kernel::{
    prelude::*,
    sync::{
        aref::ARef,
        Arc, //
    },
};
use kernel_ext::debugfs::{
    Dir,
    File,
    Flag, //
};
use pci_function::{
    config::{
        self,
        ConfigSpace, //
    },
    msix::Msix, //
};
use vfio::{
    dma::{
        Dma,
        Unmaps, //
    },
    irq::Irq,
    log::Log,
    mdev::{
        self,
        Mdev, //
    },
};

/// The data of an mdev type, and the resources that its devices share.
pub(crate) struct Resources<T: Driver> {
    /// The configuration of the type.
    pub(crate) config: T::Config,
    /// The description of the type, for people.
    pub(crate) description: &'static str,
    /// Bytes of the budget that a device takes.
    pub(crate) cost: u64,
    /// The memory that the devices of the parent share.
    pub(crate) budget: Arc<Budget>,
    /// The driver's directory of debugfs.
    pub(crate) debugfs: Dir,
    /// The unmaps in progress.
    pub(crate) unmaps: Arc<Unmaps>,
    /// The migration region of a device.
    pub(crate) section: DataSectionConfig,
    /// Whether the log of refusals is limited.
    pub(crate) log_limit: Arc<Flag>,
    /// The log of creations that fail.
    pub(crate) log: Pin<KBox<Log>>,
}

impl<T: Driver> Device<T> {
    /// Returns a device in its power-on state.
    fn new<'a>(
        mdev: &'a Mdev,
        resources: &'a Resources<T>,
        reservation: Reservation,
    ) -> Result<impl PinInit<Self, Error> + use<'a, T>> {
        let function = T::function(&resources.config);
        let memory = match function.memory_size() {
            0 => None,
            size => Some(DeviceMemory::new(size)?),
        };
        let table = KBox::new(config::Table::new(&function), GFP_KERNEL)?;
        let msix = Msix::new(&function)?;
        let machine = StateMachine::new(
            identity::<T>(function.memory_size()),
            parts::<T>(),
            memory.as_deref(),
            resources.section,
        )?;
        let irq = Irq::new(function.intx, function.msi, function.msix);
        let unmaps = resources.unmaps.clone();
        let faults = Faults::new()?;
        let driver = T::new(&resources.config);

        Ok(try_pin_init!(Self {
            worker <- DeviceWorker::new(T::INFO.name),
            mdev: mdev.device().into(),
            log <- Log::new(resources.log_limit.clone()),
            counters: Arc::new(Counters::default(), GFP_KERNEL)?,
            config <- ConfigSpace::new(table),
            irq <- irq,
            msix <- msix,
            function,
            migration: T::migration(&resources.config),
            dma <- Dma::new(unmaps, faults.dma()),
            faults,
            memory,
            host_end: HostEnd::new(T::HOST_END)?,
            machine <- machine,
            data_section: DataSection::new(resources.section),
            driver <- driver,
            reservation,
        }? Error))
    }
}

/// A device that is registered with VFIO: the driver's data of an mdev.
///
/// Dropping it waits until the last user has closed the device.
pub(crate) struct Registration<T: Driver> {
    // Removed before the device is unregistered.
    _status: File<Status<T>>,
    _counters: File<Arc<Counters>>,
    _faults: faults::Files,
    _host: Option<HostDevice<T>>,
    device: vfio::Registration<Device<T>>,
}

impl<T: Driver> Registration<T> {
    /// Creates a device for an mdev, and registers it with VFIO.
    fn new(mdev: &Mdev, resources: &Resources<T>) -> Result<Self> {
        let reservation = resources.budget.reserve(resources.cost)?;
        let init = Device::new(mdev, resources, reservation)?;
        // SAFETY: The mdev is being probed.
        let device: ARef<VfioDevice<T>> = unsafe { vfio::Device::new(mdev.as_raw(), init)? };
        // SAFETY: The device is not registered.
        unsafe { device.show_v2(device.generation().has_v2()) };
        if let Some(memory) = &device.memory {
            // SAFETY: The mapping lives as long as the device, which takes it away when it is dropped.
            unsafe { memory.set_mapping(device.mapping()) };
        }
        let debugfs = Dir::new(mdev.device().name(), Some(&resources.debugfs))?;
        let counters = debugfs.file(c"counters", device.counters.clone())?;
        let faults = faults::Files::new(&debugfs, &device.faults)?;
        let host = match T::HOST_END {
            true => Some(HostDevice::new(&device)?),
            false => None,
        };
        let status = debugfs.file(c"migration", Status::new(device.clone()))?;

        Ok(Self {
            _status: status,
            _counters: counters,
            _faults: faults,
            _host: host,
            // SAFETY: The device is new. The registration is in the driver's data of the mdev, which is
            // dropped when the mdev is removed.
            device: unsafe { vfio::Registration::new(device)? },
        })
    }
}

impl<T: Driver> mdev::Driver for Registration<T> {
    const NAME: &'static CStr = T::INFO.name;

    type Type = Resources<T>;

    type Attribute = AnyAttribute<T>;

    fn probe(mdev: &Mdev, typ: &Resources<T>) -> Result<Self> {
        Self::new(mdev, typ).inspect_err(|&error| {
            let reason = if error == ENOSPC {
                "the rest of the memory budget is too small"
            } else {
                "failed"
            };
            typ.log
                .refuse(mdev.device(), format_args!("create: {reason} ({error:?})"));
        })
    }

    fn available(typ: &Resources<T>) -> u64 {
        typ.budget.available(typ.cost)
    }

    fn description(typ: &Resources<T>) -> &str {
        typ.description
    }

    fn attributes() -> impl Iterator<Item = AnyAttribute<T>> {
        AnyAttribute::all()
    }

    fn attribute_name(attribute: AnyAttribute<T>) -> &'static CStr {
        attribute.name()
    }

    fn show(&self, attribute: AnyAttribute<T>, out: &mut dyn fmt::Write) -> fmt::Result {
        attribute.show(self.device.device(), out)
    }

    fn store(&self, attribute: AnyAttribute<T>, text: &CStr) -> Result {
        attribute.store(self.device.device(), text)
    }
}
