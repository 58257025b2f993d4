// SPDX-License-Identifier: GPL-2.0

//! A machine without a processor: an opened instance of the device, and guest memory.

use mdma::regs::{BAR_MEMORY, BAR_REGISTERS};
use mdma::Mdma;
use vfio_client::mdev::{Removed, Type, Uuid};
use vfio_client::pci::COMMAND_MEMORY;
use vfio_client::{uapi, Container, Device, EventFd, Irq, Mapping, Region};

use crate::error::Result;
use crate::ram::Ram;

/// Order of the ring, for 64 jobs at a time.
pub(crate) const RING_ORDER: u32 = 6;

/// IOVAs of guest memory: below and above 4 GiB, none at 0.
const RANGES: [u64; 2] = [0x4000_0000, 0x1_2340_0000];
/// IOVA of the queue.
const QUEUE: u64 = 0xfee_0000;

/// The machine. Fields drop in this order: the instance is closed before it is removed.
pub(crate) struct Machine {
    pub(crate) memory: Mapping,
    pub(crate) memory_region: Region,
    pub(crate) registers: Region,
    /// Completion interrupts.
    irq: Irq,
    pub(crate) interrupt: EventFd,
    /// Guest memory for data.
    pub(crate) ram: Vec<Ram>,
    /// The ring and the completion records.
    pub(crate) queue: Ram,
    pub(crate) device: Device,
    pub(crate) container: Container,
    _instance: Removed,
}

impl Machine {
    /// Creates an instance and opens it. The device keeps its power-on state.
    pub(crate) fn new(kind: &Type, ram_size: usize) -> Result<Self> {
        let instance = Removed(kind.create(&Uuid::random()?)?);
        let container = Container::open()?;
        let device = instance.0.open(&container)?;
        let each = ram_size / RANGES.len();
        let ram = RANGES
            .iter()
            .map(|iova| Ram::new(&container, *iova, each))
            .collect::<vfio_client::Result<_>>()?;
        let queue_size = mdma::Queue::<Region, Ram>::size(RING_ORDER);
        let queue = Ram::new(&container, QUEUE, queue_size)?;
        let memory_region = device.region(BAR_MEMORY)?;
        let irq = device.irq(uapi::VFIO_PCI_MSI_IRQ_INDEX)?;
        let interrupt =
            EventFd::new().map_err(|e| vfio_client::Error::new("create an eventfd", e))?;
        Ok(Machine {
            memory: memory_region.map_all()?,
            memory_region,
            registers: device.region(BAR_REGISTERS)?,
            irq,
            interrupt,
            ram,
            queue,
            device,
            container,
            _instance: instance,
        })
    }

    /// Returns a driver of the device, which only reads what it is. Registers read as ones while memory decoding is off,
    /// as after power-on and after a reset, so this turns it on.
    pub(crate) fn mdma(&self) -> Result<Mdma<Region>> {
        let config = self.device.config()?;
        let command = config.command()?;
        if command & COMMAND_MEMORY == 0 {
            config.set_command(command | COMMAND_MEMORY)?;
        }
        Ok(Mdma::new(self.registers.clone())?)
    }

    /// Sends completion interrupts to the eventfd.
    pub(crate) fn enable_interrupt(&self) -> Result<()> {
        Ok(self.irq.set_eventfds(0, &[Some(&self.interrupt)])?)
    }

    /// Returns all ranges of guest memory.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = &Ram> {
        self.ram.iter().chain([&self.queue])
    }

    /// Returns the size of guest memory in bytes.
    pub(crate) fn ram_size(&self) -> u64 {
        self.ranges().map(|ram| ram.len() as u64).sum()
    }
}
