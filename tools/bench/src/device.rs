// SPDX-License-Identifier: GPL-2.0

//! A device for measurements, created and removed here.

use std::time::Duration;

use contents::Mappable;
use mdma::regs::INT_COMPLETION;
use mdma::{job, Descriptor, Queue};
use vfio_client::mdev::{Removed, Sysfs, Uuid};
use vfio_client::{uapi, v1, Container, Device, DmaBuffer, Error, EventFd, Irq, Mapping, Region};

use crate::error::{fail, Result};

/// Size of a page.
pub(crate) const PAGE: u64 = 4096;

/// The smallest type of `mdma`, for tables about its engine.
pub(crate) const SMALL: &str = "mdma-16M";

/// IOVA of the queue.
const QUEUE: u64 = 0x7_0000_0000;
/// Order of the ring: 256 entries, one of which stays free.
const ORDER: u32 = 8;
/// Timeout of a batch of jobs, on a clock that counts instructions.
const PATIENCE: Duration = Duration::from_secs(600);

/// An opened instance. Fields drop in this order: the instance is closed before it is removed.
pub(crate) struct Opened {
    pub(crate) migration: v1::Migration,
    pub(crate) device: Device,
    pub(crate) container: Container,
    _instance: Removed,
}

/// An opened instance with any migration interface.
pub(crate) struct Bare {
    pub(crate) device: Device,
    pub(crate) container: Container,
    _instance: Removed,
}

impl Bare {
    /// Creates an instance of a type, with this `migration_abi`.
    pub(crate) fn new(kind: &str, abi: &str) -> Result<Self> {
        let instance = Removed(Sysfs::default().find_type(kind)?.create(&Uuid::random()?)?);
        instance.0.set_migration_abi(abi)?;
        Self::open(instance)
    }

    /// Creates an instance of a type of another driver.
    pub(crate) fn foreign(kind: &str) -> Result<Self> {
        Self::open(Removed(
            Sysfs::default().find_type(kind)?.create(&Uuid::random()?)?,
        ))
    }

    /// Chooses whether memory in its stream has checksums.
    pub(crate) fn set_payload_checksums(&self, on: bool) -> Result<()> {
        Ok(self._instance.0.set_payload_checksums(on)?)
    }

    fn open(instance: Removed) -> Result<Self> {
        let container = Container::open()?;
        Ok(Bare {
            device: instance.0.open(&container)?,
            container,
            _instance: instance,
        })
    }
}

impl Opened {
    /// Creates an instance of a type.
    pub(crate) fn new(kind: &str) -> Result<Self> {
        let instance = Removed(Sysfs::default().find_type(kind)?.create(&Uuid::random()?)?);
        let container = Container::open()?;
        let device = instance.0.open(&container)?;
        let Some(migration) = device.migration_v1()? else {
            fail!("the device has no migration region");
        };
        Ok(Opened {
            migration,
            device,
            container,
            _instance: instance,
        })
    }

    /// Returns the device memory that can be mapped.
    fn memory(&self) -> Result<Region> {
        match Mappable::find(&self.device)? {
            Some(memory) => Ok(self.device.region(memory.bar)?),
            None => fail!("the device has no memory that can be mapped"),
        }
    }

    /// Returns the size of that memory in bytes.
    pub(crate) fn memory_size(&self) -> Result<u64> {
        Ok(self.memory()?.info().size)
    }

    /// Maps that memory again.
    pub(crate) fn map_memory(&self) -> Result<Mapping> {
        Ok(self.memory()?.map_all()?)
    }

    /// Changes the migration state.
    pub(crate) fn set_state(&self, state: v1::State) -> Result<()> {
        Ok(self.migration.set_state(state)?)
    }
}

/// A small `mdma` device with an enabled queue, `size` bytes of guest memory at `iova`, and as much device memory. All pages
/// are allocated before anything is measured.
pub(crate) fn at_work(iova: u64, size: u64) -> Result<(Opened, Engine, DmaBuffer)> {
    let opened = Opened::new(SMALL)?;
    let engine = Engine::new(&opened)?;
    let guest = DmaBuffer::new(&opened.container, iova, size as usize)?;
    guest.fill(0, size as usize, 1);
    opened.map_memory()?.fill(0, size as usize, 2);
    Ok((opened, engine, guest))
}

/// A device with an enabled queue.
pub(crate) struct Engine {
    queue: Queue<Region, DmaBuffer>,
    irq: Irq,
    done: EventFd,
}

impl Engine {
    /// Enables the queue, and the interrupt at the end of a batch.
    pub(crate) fn new(opened: &Opened) -> Result<Self> {
        Engine::of(&opened.device, &opened.container)
    }

    /// The same for a device and its container.
    pub(crate) fn of(device: &Device, container: &Container) -> Result<Self> {
        let queue = Queue::create(device, container, QUEUE, ORDER)?;
        let irq = device.irq(uapi::VFIO_PCI_MSI_IRQ_INDEX)?;
        let done = EventFd::new().map_err(|e| Error::new("create an eventfd", e))?;
        irq.set_eventfds(0, &[Some(&done)])?;
        queue.mdma().set_interrupts(INT_COMPLETION)?;
        Ok(Engine { queue, irq, done })
    }

    /// Number of jobs per batch.
    pub(crate) fn batch(&self) -> u64 {
        self.queue.room().into()
    }

    /// Registers guest memory and returns its key.
    pub(crate) fn register(&mut self, iova: u64, len: u64) -> Result<u32> {
        self.queue.submit(&job::register(iova, len, true))?;
        let completion = self.queue.wait(PATIENCE)?;
        if completion.error != 0 {
            fail!("the registration ended in {completion:?}");
        }
        Ok(completion.result)
    }

    /// Runs a job `times` times, in batches as large as possible. The last job of each interrupts.
    ///
    /// The caller sleeps while the device works, so the processor is never idle.
    pub(crate) fn run(&mut self, job: &Descriptor, times: u64) -> Result<()> {
        let mut left = times;
        while left > 0 {
            let batch = left.min(self.batch());
            for _ in 1..batch {
                self.queue.fill(job)?;
            }
            self.queue.fill(&job.interrupt())?;
            self.queue.ring_doorbell()?;
            if self.done.wait(PATIENCE)? == 0 {
                fail!("the device did not finish {batch} jobs");
            }
            self.queue.mdma().acknowledge()?;
            for _ in 0..batch {
                match self.queue.poll() {
                    Some(completion) if completion.error == 0 => {}
                    other => fail!("a job ended in {other:?}"),
                }
            }
            left -= batch;
        }
        Ok(())
    }

    /// Disables the queue.
    pub(crate) fn close(self) -> Result<()> {
        self.irq.disable()?;
        self.queue.close()?;
        Ok(())
    }
}
