// SPDX-License-Identifier: GPL-2.0

//! The driver: the model as a [`migratable::Driver`].
//!
//! Queues and data are copied by IOVA. Then the device reports dirty exactly the pages that it writes.
//! Pinned queues would be reported in every round of a migration, and a device can pin only a few.
//!
//! # Locks
//!
//! ```text
//!   scratch      a page; held during a unit of work
//!     controller registers and queues; held for a few instructions, never during DMA
//!       (the framework's locks of the interrupts)
//! ```

use kernel::{
    new_mutex,
    page::PAGE_SIZE,
    prelude::*,
    sync::Mutex, //
};
use migratable::{
    memory::DeviceMemory,
    pci::{
        Bar,
        Function,
        NUM_BARS, //
    },
    stream::{
        Reader,
        Writer, //
    },
    Device,
    Driver,
    Info,
    Refused,
    Wakeup,
    WorkResult, //
};
use mnvme_model::{
    controller::Controller,
    engine,
    host::{
        Fault,
        Host,
        Identity, //
    },
    identify,
    regs,
    state::{
        self,
        DecodeError, //
    },
    PAGE,
    TRAILER, //
};

const _: () = assert!(PAGE_SIZE % PAGE == 0 || PAGE % PAGE_SIZE == 0);

/// The configuration of one mdev type.
pub(crate) struct Config {
    /// Bytes of the namespace.
    pub(crate) size: u64,
}

impl Config {
    /// Returns the bytes of storage: the namespace, and what the controller keeps behind it.
    fn storage(&self) -> u64 {
        self.size + TRAILER
    }
}

/// An NVMe controller.
#[pin_data]
pub(crate) struct Nvme {
    #[pin]
    controller: Mutex<Controller>,
    #[pin]
    scratch: Mutex<KBox<[u8; PAGE]>>,
}

/// A device, as the model accesses it.
struct Machine<'a>(&'a Device<Nvme>);

impl Machine<'_> {
    fn storage(&self) -> Result<&DeviceMemory, Fault> {
        self.0.memory().ok_or(Fault::Storage)
    }
}

/// Tells guest memory that is not accessible from storage that has no memory.
fn fault(error: Error) -> Fault {
    if error == ENOMEM {
        Fault::Storage
    } else {
        Fault::Guest
    }
}

impl Host for Machine<'_> {
    fn lock<R>(&self, access: impl FnOnce(&mut Controller) -> R) -> R {
        let mut controller = self.0.controller.lock();
        let result = access(&mut controller);
        let effects = controller.take_effects();
        // With the lock held, so that two changes have their effects in order.
        if effects.asserted {
            self.0.irq().set_asserted(controller.asserted());
        }
        let mut vectors = effects.signal;
        while vectors != 0 {
            self.0.irq().signal(vectors.trailing_zeros());
            vectors &= vectors - 1;
        }
        if effects.schedule {
            self.0.schedule();
        }
        result
    }

    fn read(&self, iova: u64, data: &mut [u8]) -> Result<(), Fault> {
        self.0.dma().read(iova, data).map_err(|_| Fault::Guest)
    }

    fn write(&self, iova: u64, data: &[u8]) -> Result<(), Fault> {
        self.0.dma().write(iova, data).map_err(|_| Fault::Guest)
    }

    fn load(&self, at: u64, data: &mut [u8]) -> Result<(), Fault> {
        self.storage()?.read(at, data).map_err(|_| Fault::Storage)
    }

    fn store(&self, at: u64, data: &[u8]) -> Result<(), Fault> {
        self.storage()?.write(at, data).map_err(|_| Fault::Storage)
    }

    fn guest_to_storage(&self, iova: u64, at: u64, len: usize) -> Result<(), Fault> {
        let dma = self.0.dma();
        self.storage()?
            .from_guest(dma, iova, at, len)
            .map_err(fault)
    }

    fn storage_to_guest(&self, at: u64, iova: u64, len: usize) -> Result<(), Fault> {
        let dma = self.0.dma();
        self.storage()?.to_guest(dma, at, iova, len).map_err(fault)
    }

    fn zero(&self, at: u64, len: usize) -> Result<(), Fault> {
        self.storage()?.zero(at, len).map_err(|_| Fault::Storage)
    }

    fn uuid(&self) -> Identity {
        identify::parse_uuid(self.0.uuid().to_bytes())
    }
}

impl Driver for Nvme {
    const INFO: Info = Info {
        name: c"mnvme",
        device_type: "mnvme",
        version: state::VERSION,
        features: 0,
        state_size_max: state::SIZE,
    };

    type Config = Config;

    type State = mnvme_model::controller::State;

    fn new(config: &Config) -> impl PinInit<Self, Error> {
        let controller = Controller::new(config.storage());

        try_pin_init!(Self {
            controller <- new_mutex!(controller, "mnvme controller"),
            scratch <- new_mutex!(KBox::new([0; PAGE], GFP_KERNEL_ACCOUNT)?, "mnvme scratch"),
        })
    }

    fn function(config: &Config) -> Function {
        let mut bars = [Bar::None; NUM_BARS];
        bars[regs::BAR_REGISTERS as usize] = Bar::Registers {
            size: regs::WINDOW as u32,
        };
        bars[regs::BAR_MSIX as usize] = Bar::Msix;

        Function {
            vendor: regs::PCI_VENDOR,
            device: regs::PCI_DEVICE,
            subsystem_vendor: regs::PCI_VENDOR,
            subsystem: regs::PCI_DEVICE,
            class: regs::PCI_CLASS,
            bars,
            intx: true,
            msix: regs::VECTORS,
            storage: config.storage(),
            ..Function::default()
        }
    }

    fn read(dev: &Device<Self>, _bar: u32, offset: u64, data: &mut [u8]) -> Result<(), Refused> {
        let read = |controller: &mut Controller| controller.read(offset, data);
        Machine(dev).lock(read).map_err(|_| Refused)
    }

    fn write(dev: &Device<Self>, _bar: u32, offset: u64, data: &[u8]) -> Result<(), Refused> {
        let write = |controller: &mut Controller| controller.write(offset, data);
        Machine(dev).lock(write).map_err(|_| Refused)
    }

    fn work(dev: &Device<Self>, _wakeup: Wakeup) -> WorkResult {
        match engine::unit(&Machine(dev), &mut dev.scratch.lock()) {
            true => WorkResult::Again,
            false => WorkResult::Idle,
        }
    }

    fn reset(dev: &Device<Self>) {
        Machine(dev).lock(Controller::power_on);
    }

    fn save(dev: &Device<Self>, out: &mut Writer<'_>) -> Result {
        let controller = dev.controller.lock();
        Ok(state::encode(controller.state(), |field| {
            out.put_bytes(field)
        })?)
    }

    fn decode(dev: &Device<Self>, input: &mut Reader<'_>) -> Result<Self::State> {
        let blocks = dev.controller.lock().blocks();
        let get = |field: &mut [u8]| {
            field.copy_from_slice(input.get_bytes(field.len())?);
            Ok(())
        };
        state::decode(blocks, get).map_err(|error| match error {
            DecodeError::Input(error) => error,
            DecodeError::Invalid(invalid) => {
                migratable::refuse!(dev, "{invalid}");
                EINVAL
            }
        })
    }

    fn restore(dev: &Device<Self>, state: Self::State) {
        Machine(dev).lock(|controller| controller.load(&state));
    }
}
