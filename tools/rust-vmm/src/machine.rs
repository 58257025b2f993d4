// SPDX-License-Identifier: GPL-2.0

//! A machine: guest memory and one device, built in Cloud Hypervisor's order (`add_vfio_device`).

use std::sync::Arc;

use crate::ram::{map_region, Ram};
use mdma::regs::{BAR_MEMORY, BAR_REGISTERS};
use vfio_bindings::bindings::vfio::{
    VFIO_MIGRATION_STOP_COPY, VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_MSIX_IRQ_INDEX,
};
use vfio_client::mdev::{Removed, Sysfs, Uuid};
use vfio_client::pci::{offset, COMMAND_MASTER, COMMAND_MEMORY};
use vfio_client::Mapping;
use vfio_ioctls::VfioDevice;
use vmm_sys_util::eventfd::{EventFd, EFD_NONBLOCK};

use crate::error::{fail, Result};
use crate::hypervisor::Hypervisor;
use crate::transport::Registers;

/// Address and size of guest memory: below and above 4 GiB.
pub(crate) const RANGES: [(u64, usize); 2] = [(0, 4 << 20), (1 << 32, 4 << 20)];

/// The machine. Fields drop in this order: the device is the last user of its address space, and the instance is closed
/// before it is removed.
pub(crate) struct Machine {
    /// The device memory, as the guest has it mapped.
    pub(crate) memory: Mapping,
    pub(crate) ram: Arc<Ram>,
    pub(crate) device: Arc<VfioDevice>,
    pub(crate) hypervisor: Hypervisor,
    /// The interrupts, one for each vector of MSI-X.
    pub(crate) vectors: Vec<EventFd>,
    _instance: Removed,
}

impl Machine {
    /// Creates a machine with a new instance of an mdev type.
    pub(crate) fn new(mdev_type: &str, kvm: bool) -> Result<Self> {
        let kind = Sysfs::default().find_type(mdev_type)?;
        let instance = Removed(kind.create(&Uuid::random()?)?);
        let hypervisor = Hypervisor::new(kvm)?;
        let device = VfioDevice::new(instance.0.path(), hypervisor.container.clone(), true)?;
        let ram = Ram::map(&hypervisor.container, &RANGES)?;
        device.reset();
        match device.query_migration_support()? {
            Some(flags) if flags & u64::from(VFIO_MIGRATION_STOP_COPY) != 0 => {}
            other => fail!("the device has no STOP_COPY: {other:?}"),
        }
        for bar in [BAR_REGISTERS, BAR_MEMORY] {
            if device.get_region_size(bar) == 0 {
                fail!("the device has no BAR {bar}");
            }
        }
        let count = device
            .get_irq_info(VFIO_PCI_MSIX_IRQ_INDEX)
            .map_or(0, |irq| irq.count);
        let vectors = (0..count).map(|_| EventFd::new(EFD_NONBLOCK));
        Ok(Machine {
            vectors: vectors.collect::<std::io::Result<_>>()?,
            memory: map_region(&device, BAR_MEMORY)?,
            ram: Arc::new(ram),
            device: Arc::new(device),
            hypervisor,
            _instance: instance,
        })
    }

    /// Returns the registers of the device.
    pub(crate) fn registers(&self) -> Registers {
        Registers(self.device.clone())
    }

    /// Turns on the device: the guest's driver sets its command register and enables MSI-X.
    pub(crate) fn enable(&self) -> Result {
        self.set_command(COMMAND_MEMORY | COMMAND_MASTER);
        self.enable_msix()
    }

    /// Reads the command register.
    pub(crate) fn command(&self) -> u16 {
        let mut bytes = [0; 2];
        let config = VFIO_PCI_CONFIG_REGION_INDEX;
        self.device.region_read(config, &mut bytes, offset::COMMAND);
        u16::from_le_bytes(bytes)
    }

    /// Writes the command register.
    pub(crate) fn set_command(&self, command: u16) {
        let config = VFIO_PCI_CONFIG_REGION_INDEX;
        let bytes = command.to_le_bytes();
        self.device.region_write(config, &bytes, offset::COMMAND);
    }

    /// Sends the vectors of MSI-X to the eventfds.
    pub(crate) fn enable_msix(&self) -> Result {
        Ok(self.device.enable_msix(self.vectors.iter().collect())?)
    }

    /// Returns the number of interrupts of all vectors since the last call.
    pub(crate) fn interrupts(&self) -> u64 {
        self.vectors.iter().map(|fd| fd.read().unwrap_or(0)).sum()
    }
}
