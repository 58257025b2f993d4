// SPDX-License-Identifier: GPL-2.0

//! An opened `mdma` device with its userspace driver and its migration region: what most tests of
//! migration and of DMA begin with.

use std::ops::Deref;

use mdma::regs::Reg;
use mdma::{Descriptor, Mdma, Place, Queue, Snapshot};
use vfio_client::v1::{Migration, State};
use vfio_client::{Container, DmaBuffer, Region};

use crate::check::{Errno, PATIENCE};
use crate::lab::{Guest, Instance, Lab, SMALL};
use crate::memory::{random_bytes, same};
use crate::outcome::Outcome;
use records::Stream;

/// The page size of dirty bitmaps and of device memory.
pub(crate) const PAGE: u64 = 4096;

/// Where tests put the queue of a device, far from everything else they map.
pub(crate) const QUEUE: u64 = 0x7_0000_0000;

/// A queue over VFIO.
pub(crate) type VfioQueue = Queue<Region, DmaBuffer>;

impl Errno for mdma::Error {
    fn errno(&self) -> Option<i32> {
        mdma::Error::errno(self)
    }
}

/// An opened device. What is made from it has to be dropped before it is.
pub(crate) struct Scene {
    // Dropped in this order.
    /// Its registers.
    pub(crate) mdma: Mdma<Region>,
    /// Its migration region.
    pub(crate) migration: Migration,
    /// The rest.
    pub(crate) guest: Guest,
}

impl Deref for Scene {
    type Target = Guest;

    fn deref(&self) -> &Guest {
        &self.guest
    }
}

impl Scene {
    /// A new instance of the smallest type.
    pub(crate) fn new(lab: &Lab) -> Outcome<Self> {
        Self::of(lab.open(SMALL)?)
    }

    /// A new instance in a container that others may be in.
    pub(crate) fn within(lab: &Lab, container: &Container) -> Outcome<Self> {
        let instance = lab.instance(SMALL)?;
        Self::of(Guest {
            device: instance.open(container)?,
            container: container.clone(),
            instance,
        })
    }

    /// Takes over a device that is open.
    pub(crate) fn of(guest: Guest) -> Outcome<Self> {
        let Some(migration) = guest.device.migration_v1()? else {
            crate::fail!("the device has no migration region");
        };
        Ok(Scene {
            mdma: Mdma::open(&guest.device)?,
            migration,
            guest,
        })
    }

    /// Closes the device; the instance stays.
    pub(crate) fn close(self) -> Instance {
        let Scene {
            mdma,
            migration,
            guest,
        } = self;
        drop((mdma, migration));
        guest.close()
    }

    /// Enables a queue of `1 << order` entries at [`QUEUE`].
    pub(crate) fn queue(&self, order: u32) -> Outcome<VfioQueue> {
        self.queue_at(QUEUE, order)
    }

    /// Enables a queue of `1 << order` entries.
    pub(crate) fn queue_at(&self, iova: u64, order: u32) -> Outcome<VfioQueue> {
        let memory = self.guest.buffer(iova, VfioQueue::size(order))?;
        Ok(Queue::new(self.mdma.clone(), memory, order)?)
    }

    /// Changes the device's state.
    pub(crate) fn go(&self, states: &[State]) -> Outcome {
        for state in states {
            self.migration.set_state(*state)?;
        }
        Ok(())
    }

    /// Reads the device's state.
    pub(crate) fn state(&self) -> Outcome<State> {
        Ok(self.migration.state()?)
    }

    /// Reads all registers of the device.
    pub(crate) fn registers(&self) -> Outcome<Snapshot> {
        Ok(self.mdma.snapshot()?)
    }

    /// Reads device memory, by system calls.
    pub(crate) fn read_memory(&self, offset: u64, len: usize) -> Outcome<Vec<u8>> {
        let mut out = vec![0; len];
        self.mdma.memory()?.read(offset, &mut out)?;
        Ok(out)
    }

    /// Writes device memory, by system calls.
    pub(crate) fn write_memory(&self, offset: u64, data: &[u8]) -> Outcome {
        Ok(self.mdma.memory()?.write(offset, data)?)
    }

    /// Puts something into every kind of the device's state, and into these pages of its memory.
    pub(crate) fn furnish(&self, pages: &[u64]) -> Outcome {
        self.mdma.set(Reg::Scratch, 0x0123_4567_89ab_cdef)?;
        self.mdma.set(Reg::Throttle, 77)?;
        self.mdma.set_interrupts(mdma::regs::INT_HALT)?;
        let mut rng = fastrand::Rng::with_seed(25);
        for page in pages {
            self.write_memory(page * PAGE, &random_bytes(&mut rng, PAGE as usize))?;
        }
        Ok(())
    }

    /// Compares two devices in all that migrates.
    pub(crate) fn expect_equal(&self, other: &Scene, when: &str) -> Outcome {
        let diff = self.registers()?.diff(&other.registers()?);
        assert!(diff.is_empty(), "{when}: registers differ: {diff:x?}");
        let size = self.mdma.memory_size() as usize;
        same(
            &other.read_memory(0, size)?,
            &self.read_memory(0, size)?,
            device(0),
            when,
        );
        Ok(())
    }

    /// Saves all that is pending, one vector a buffer.
    pub(crate) fn save_pending(&self) -> Outcome<Vec<Vec<u8>>> {
        let mut buffers = Vec::new();
        self.migration.save_all(&mut |buffer| {
            buffers.push(buffer.to_vec());
            Ok(())
        })?;
        Ok(buffers)
    }

    /// Saves the device without pre-copy, from the state it is in, and leaves it stopped.
    pub(crate) fn save(&self) -> Outcome<Vec<u8>> {
        self.go(&[State::STOP_AND_COPY])?;
        let bytes = self.save_pending()?.concat();
        self.go(&[State::STOP])?;
        Ok(bytes)
    }

    /// [`save`](Self::save), taken apart.
    pub(crate) fn save_stream(&self) -> Outcome<Stream> {
        parse(&self.save()?)
    }

    /// Loads a saved device from the running or stopped state, and leaves it running.
    pub(crate) fn load(&self, bytes: &[u8]) -> Outcome {
        self.go(&[State::RESUMING])?;
        self.feed(bytes, self.section())?;
        self.go(&[State::RUNNING])
    }

    /// Hands a stream over in pieces of at most `piece` bytes.
    pub(crate) fn feed(&self, bytes: &[u8], piece: usize) -> Outcome {
        for piece in bytes.chunks(piece) {
            self.migration.load_buffer(piece)?;
        }
        Ok(())
    }

    /// The size of the data section.
    pub(crate) fn section(&self) -> usize {
        let info = self.migration.region().info();
        (info.size - self.data_offset()) as usize
    }

    /// Where the data section starts. It is constant (P27), so that it is read from the capability where there is one,
    /// which has no side effect.
    pub(crate) fn data_offset(&self) -> u64 {
        match self.migration.region().info().sparse.as_deref() {
            Some([area]) => area.offset,
            _ => PAGE,
        }
    }
}

/// Takes a stream apart.
#[track_caller]
pub(crate) fn parse(bytes: &[u8]) -> Outcome<Stream> {
    Stream::parse(bytes).map_err(crate::outcome::Ended::failed)
}

/// Does jobs one after the other, and expects each to succeed.
pub(crate) fn run_jobs(queue: &mut VfioQueue, jobs: &[Descriptor]) -> Outcome {
    for job in jobs {
        queue.submit(job)?;
        let completion = queue.wait(PATIENCE)?;
        assert_eq!(completion.error, 0, "{job:?} ended with {completion:?}");
    }
    Ok(())
}

/// Waits until a register of the device satisfies a condition.
pub(crate) fn wait_register(
    mdma: &Mdma<Region>,
    reg: Reg,
    what: &str,
    done: impl Fn(u64) -> bool,
) -> Outcome {
    crate::check::wait_for(what, || Ok(done(mdma.get(reg)?)))
}

/// Guest memory.
pub(crate) const fn guest(iova: u64) -> Place {
    Place::Guest(iova)
}

/// Device memory.
pub(crate) const fn device(offset: u64) -> Place {
    Place::Device(offset)
}
