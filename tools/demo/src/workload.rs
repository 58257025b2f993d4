// SPDX-License-Identifier: GPL-2.0

//! The workload: random jobs, each verified, and writes by the processor.
//!
//! The workload computes the expected contents of all memory without the device. Jobs go in batches. Between two
//! batches, when no job is in flight, the processor writes to guest memory and, through the mapping, to device memory.

use std::collections::VecDeque;
use std::thread;
use std::time::{Duration, Instant};

use mdma::regs::{Reg, INT_COMPLETION};
use mdma::{job, Descriptor, Expected, Place, Queue, World};
use vfio_client::Region;

use crate::error::{fail, Result};
use crate::machine::{Machine, RING_ORDER};
use crate::ram::Ram;
use crate::rng::Rng;

/// Timeout of one job, in an emulated machine.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Jobs per batch.
const BATCH: usize = 24;
/// Jobs left in flight when the processor stops: no more than the ring holds.
pub(crate) const LEFT: usize = (1 << RING_ORDER) - 4;
/// Jobs of those that complete before the stop.
const BEGUN: u64 = 3;
/// Size in bytes of the largest job of a batch: three units of the engine.
const LARGE: u64 = 192 << 10;

/// What the workload has done.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub(crate) struct Done {
    /// Jobs that completed and were verified.
    pub(crate) jobs: u64,
    /// Bytes processed by them.
    pub(crate) bytes: u64,
    /// Bytes that the processor wrote to device memory.
    pub(crate) direct: u64,
    /// Interrupts.
    pub(crate) interrupts: u64,
}

/// The driver of one device.
pub(crate) struct Workload {
    queue: Queue<Region, Ram>,
    /// Expected contents of memory.
    world: World,
    /// IOVA and size of the ranges of guest memory for data.
    ram: Vec<(u64, u64)>,
    /// Bytes of device memory in use.
    used: u64,
    /// Expected results of the jobs in flight, oldest first.
    expected: VecDeque<Expected>,
    cookie: u64,
    rng: Rng,
    pub(crate) done: Done,
}

impl Workload {
    /// Enables the device and its queue.
    pub(crate) fn new(machine: &Machine, used: u64, seed: u64) -> Result<Self> {
        machine.device.config()?.enable()?;
        machine.enable_interrupt()?;
        let mdma = machine.mdma()?;
        let size = mdma.memory_size();
        mdma.set_interrupts(INT_COMPLETION)?;
        let ram = machine.ram.iter();
        Ok(Workload {
            queue: Queue::new(mdma, machine.queue.clone(), RING_ORDER)?,
            world: World::new(size),
            ram: ram.map(|r| (r.iova(), r.len() as u64)).collect(),
            used: used.min(size),
            expected: VecDeque::new(),
            cookie: seed,
            rng: Rng::new(seed),
            done: Done::default(),
        })
    }

    /// Continues on a machine that has taken over everything.
    pub(crate) fn moved(self, to: &Machine) -> Result<Self> {
        let mdma = to.mdma()?;
        Ok(Workload {
            queue: self.queue.moved(mdma, to.queue.clone()),
            done: Done::default(),
            ..self
        })
    }

    pub(crate) fn world(&self) -> &World {
        &self.world
    }

    /// Disables the queue.
    pub(crate) fn close(self) -> Result<()> {
        self.queue.close()?;
        Ok(())
    }

    /// Fills the memory in use, so that there is something to migrate. The processor fills guest memory and part of
    /// device memory, the device fills the rest.
    pub(crate) fn prepare(&mut self, machine: &Machine) -> Result<()> {
        const STEP: u64 = 1 << 20;
        for ram in &machine.ram {
            for at in (0..ram.len()).step_by(STEP as usize) {
                let data = self.rng.bytes((STEP as usize).min(ram.len() - at));
                ram.store(at, &data);
                self.world
                    .write(Place::Guest(ram.iova() + at as u64), &data);
            }
        }
        // The processor fills every fourth MiB, the device the others.
        for at in (0..self.used).step_by(STEP as usize) {
            let len = STEP.min(self.used - at);
            if at / STEP % 4 == 0 {
                self.write_device(machine, at, len as usize);
                continue;
            }
            let job = match at / STEP % 4 {
                1 => job::fill(Place::Device(at), self.rng.next(), len),
                _ => job::copy(self.guest(len), Place::Device(at), len),
            };
            self.submit(job)?;
            if self.queue.room() == 0 {
                self.drain()?;
            }
        }
        self.drain()
    }

    /// Runs one batch of jobs, and the processor's writes between two batches.
    pub(crate) fn round(&mut self, machine: &Machine) -> Result<()> {
        for _ in 0..BATCH {
            let job = self.random_job(LARGE);
            self.submit(job)?;
        }
        self.drain()?;
        // No job is in flight now, so the processor may write everything.
        for _ in 0..4 {
            let len = 1 + self.rng.below(16 << 10);
            let at = self.rng.below(self.used - len);
            self.write_device(machine, at, len as usize);
        }
        let ram = &machine.ram[self.rng.below(machine.ram.len() as u64) as usize];
        let len = 1 + self.rng.below(16 << 10);
        let at = self.rng.below(ram.len() as u64 - len);
        let data = self.rng.bytes(len as usize);
        ram.store(at as usize, &data);
        self.world.write(Place::Guest(ram.iova() + at), &data);
        self.interrupts(machine)
    }

    /// Counts and acknowledges interrupts.
    pub(crate) fn interrupts(&mut self, machine: &Machine) -> Result<()> {
        self.queue.mdma().acknowledge()?;
        self.done.interrupts += machine.interrupt.take().unwrap_or(0);
        Ok(())
    }

    /// Submits jobs and leaves them in flight. The device is slowed down so that it stops before the last, and has
    /// begun the first.
    pub(crate) fn leave(&mut self, throttle_us: u32) -> Result<()> {
        let mdma = self.queue.mdma().clone();
        mdma.set_throttle(throttle_us)?;
        let begun = mdma.get(Reg::JobsDone)? + BEGUN;
        for _ in 0..LEFT {
            let job = self.random_job(LARGE);
            self.fill(job)?;
        }
        self.queue.ring_doorbell()?;
        let start = Instant::now();
        while mdma.get(Reg::JobsDone)? < begun {
            if start.elapsed() > TIMEOUT {
                fail!("the device did not complete {BEGUN} jobs within {TIMEOUT:?}");
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Waits for all jobs in flight and checks each.
    pub(crate) fn drain(&mut self) -> Result<()> {
        while let Some(expected) = self.expected.front() {
            let completion = self.queue.wait(TIMEOUT)?;
            if let Err(why) = expected.check(&completion) {
                fail!("job {:#x}: {why}", expected.cookie);
            }
            self.done.jobs += 1;
            self.done.bytes += completion.bytes;
            self.expected.pop_front();
        }
        Ok(())
    }

    /// Returns the device to full speed.
    pub(crate) fn unthrottle(&self) -> Result<()> {
        Ok(self.queue.mdma().set_throttle(0)?)
    }

    fn submit(&mut self, job: Descriptor) -> Result<()> {
        self.fill(job)?;
        Ok(self.queue.ring_doorbell()?)
    }

    fn fill(&mut self, job: Descriptor) -> Result<()> {
        self.cookie = self.cookie.wrapping_add(1);
        let job = job.cookie(self.cookie).interrupt();
        self.queue.fill(&job)?;
        self.expected.push_back(self.world.apply(&job));
        Ok(())
    }

    /// Writes to device memory as the processor, through its mapping.
    fn write_device(&mut self, machine: &Machine, at: u64, len: usize) {
        let data = self.rng.bytes(len);
        machine.memory.write(at as usize, &data);
        self.world.write(Place::Device(at), &data);
        self.done.direct += len as u64;
    }

    /// Picks guest memory of this size.
    fn guest(&mut self, len: u64) -> Place {
        let (iova, size) = self.ram[self.rng.below(self.ram.len() as u64) as usize];
        Place::Guest(iova + self.rng.below(size - len + 1))
    }

    /// Picks device memory of this size, in the part in use.
    fn device(&mut self, len: u64) -> Place {
        Place::Device(self.rng.below(self.used - len + 1))
    }

    fn place(&mut self, len: u64) -> Place {
        match self.rng.below(2) {
            0 => self.guest(len),
            _ => self.device(len),
        }
    }

    /// Picks an operation in any direction. Most are small, of any alignment.
    fn random_job(&mut self, largest: u64) -> Descriptor {
        let limit = match self.rng.below(4) {
            0 => 64,
            1 => 4096,
            2 => 32 << 10,
            _ => largest,
        };
        let len = 1 + self.rng.below(limit);
        match self.rng.below(8) {
            0..=4 => {
                let (src, dst) = (self.place(len), self.place(len));
                job::copy(src, dst, len)
            }
            5 | 6 => {
                let dst = self.place(len);
                job::fill(dst, self.rng.next(), len)
            }
            _ => {
                let src = self.place(len);
                job::crc32c(src, len)
            }
        }
    }
}
