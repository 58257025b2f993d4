// SPDX-License-Identifier: GPL-2.0

//! The guest: a driver that gives the device random jobs, and knows what each must do.

use std::collections::VecDeque;
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use mdma::regs::{Reg, INT_COMPLETION};
use mdma::{job, Descriptor, Expected, Mdma, Place, Queue, Snapshot, World};

use crate::error::{fail, Result};
use crate::machine::{Machine, RANGES};
use crate::transport::{Registers, Slice};

/// Timeout of one job and of one interrupt, in an emulated machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// Order of the ring: 64 descriptors.
const RING_ORDER: u32 = 6;
/// Address of the queue.
const QUEUE: u64 = 1 << 20;
/// Guest memory for data. The first part of it is the queue's.
const DATA: [Range<u64>; 2] = [
    2 << 20..RANGES[0].1 as u64,
    RANGES[1].0..RANGES[1].0 + RANGES[1].1 as u64,
];
/// Device memory in use.
pub(crate) const USED: u64 = 4 << 20;
/// Size of the largest job: three units of the engine.
const LARGEST: u64 = 192 << 10;
/// Jobs of a round.
const JOBS: usize = 12;
/// Wait of the device after each unit while jobs are left in flight.
const THROTTLE_US: u32 = 500_000;

/// The driver, and the expected contents of all memory.
pub(crate) struct Work {
    queue: Queue<Registers, Slice>,
    world: World,
    /// Expected results of the jobs in flight, oldest first.
    expected: VecDeque<Expected>,
    rng: fastrand::Rng,
    cookie: u64,
}

impl Work {
    /// Turns on the device and its queue.
    pub(crate) fn new(machine: &Machine, seed: u64) -> Result<Self> {
        machine.enable()?;
        let mdma = Mdma::new(machine.registers())?;
        mdma.set_interrupts(INT_COMPLETION)?;
        let world = World::new(mdma.memory_size());
        Ok(Work {
            queue: Queue::new(mdma, Self::memory(machine), RING_ORDER)?,
            world,
            expected: VecDeque::new(),
            rng: fastrand::Rng::with_seed(seed),
            cookie: seed << 32,
        })
    }

    /// Returns the memory of the queue.
    fn memory(machine: &Machine) -> Slice {
        Slice {
            ram: machine.ram.clone(),
            at: QUEUE,
            size: Queue::<Registers, Slice>::size(RING_ORDER),
        }
    }

    /// Continues on a machine that has taken over everything.
    pub(crate) fn moved(self, to: &Machine) -> Result<Self> {
        let mdma = Mdma::new(to.registers())?;
        Ok(Work {
            queue: self.queue.moved(mdma, Self::memory(to)),
            ..self
        })
    }

    /// Reads all registers.
    pub(crate) fn registers(&self) -> Result<Snapshot> {
        Ok(self.queue.mdma().snapshot()?)
    }

    /// The processor writes guest memory and device memory, and the device runs jobs. Each is verified, and interrupts.
    pub(crate) fn round(&mut self, machine: &Machine) -> Result {
        for _ in 0..4 {
            let at = self.guest(4096);
            let data = self.bytes(4096);
            self.world.write(Place::Guest(at), &data);
            machine.ram.write(at, &data);

            let at = self.rng.u64(0..USED - 4096);
            let data = self.bytes(4096);
            self.world.write(Place::Device(at), &data);
            machine.memory.write(at as usize, &data);
        }
        self.queue.mdma().acknowledge()?;
        machine.interrupts();
        for _ in 0..JOBS {
            self.fill()?;
        }
        self.queue.ring_doorbell()?;
        self.drain()?;
        self.expect_interrupt(machine)
    }

    /// Submits jobs, and leaves all but the first in flight.
    pub(crate) fn leave(&mut self) -> Result {
        let mdma = self.queue.mdma().clone();
        mdma.set_throttle(THROTTLE_US)?;
        let before = mdma.get(Reg::JobsDone)?;
        while self.queue.room() > 0 {
            self.fill()?;
        }
        self.queue.ring_doorbell()?;
        let start = Instant::now();
        while mdma.get(Reg::JobsDone)? == before {
            if start.elapsed() > PATIENCE {
                fail!("no job completed within {PATIENCE:?}");
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Returns how many jobs the stopped device has not completed.
    pub(crate) fn unfinished(&self) -> Result<u64> {
        let mdma = self.queue.mdma();
        let (head, tail) = (mdma.get(Reg::Head)?, mdma.get(Reg::Tail)?);
        Ok(tail.wrapping_sub(head) & ((1 << RING_ORDER) - 1))
    }

    /// Returns the device to full speed, and checks the result of each job in flight.
    pub(crate) fn drain(&mut self) -> Result {
        self.queue.mdma().set_throttle(0)?;
        while let Some(expected) = self.expected.front() {
            let completion = self.queue.wait(PATIENCE)?;
            if let Err(why) = expected.check(&completion) {
                fail!("job {:#x}: {why}", expected.cookie);
            }
            self.expected.pop_front();
        }
        Ok(())
    }

    /// Compares all of guest memory and of device memory with what it must be. No job may be in flight.
    pub(crate) fn check(&self, machine: &Machine) -> Result {
        for range in DATA {
            let mut found = vec![0; (range.end - range.start) as usize];
            machine.ram.read(range.start, &mut found);
            self.same(Place::Guest(range.start), &found)?;
        }
        let size = machine.memory.len();
        self.same(Place::Device(0), &machine.memory.to_vec(0, size))
    }

    fn same(&self, from: Place, found: &[u8]) -> Result {
        let expected = self.world.read(from, found.len());
        let differs = expected.iter().zip(found).position(|(a, b)| a != b);
        match differs {
            None => Ok(()),
            Some(at) => fail!(
                "byte {at:#x} from {from:?} is {:#x}, expected {:#x}",
                found[at],
                expected[at]
            ),
        }
    }

    fn expect_interrupt(&self, machine: &Machine) -> Result {
        let start = Instant::now();
        while machine.interrupts() == 0 {
            if start.elapsed() > PATIENCE {
                fail!("no interrupt within {PATIENCE:?}");
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn fill(&mut self) -> Result {
        self.cookie += 1;
        let job = self.random_job().cookie(self.cookie).interrupt();
        self.queue.fill(&job)?;
        self.expected.push_back(self.world.apply(&job));
        Ok(())
    }

    fn random_job(&mut self) -> Descriptor {
        let largest = if self.rng.bool() { 4096 } else { LARGEST };
        let len = self.rng.u64(1..=largest);
        match self.rng.u8(0..8) {
            0..=4 => job::copy(self.place(len), self.place(len), len),
            5 | 6 => job::fill(self.place(len), self.rng.u64(..), len),
            _ => job::crc32c(self.place(len), len),
        }
    }

    fn place(&mut self, len: u64) -> Place {
        match self.rng.bool() {
            true => Place::Guest(self.guest(len)),
            false => Place::Device(self.rng.u64(0..=USED - len)),
        }
    }

    /// Picks guest memory of this size.
    fn guest(&mut self, len: u64) -> u64 {
        let range = &DATA[usize::from(self.rng.bool())];
        self.rng.u64(range.start..=range.end - len)
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.rng.u8(..)).collect()
    }
}
