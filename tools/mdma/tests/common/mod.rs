// SPDX-License-Identifier: GPL-2.0

//! A machine for the tests: a simulated device, its queue and an oracle.

#![allow(dead_code, reason = "no test uses all of it")]

use mdma::sim::{Guest, GuestBuffer, Sim};
use mdma::{job, Completion, Descriptor, Entry, List, Mdma, Place, Queue, World};
use proptest::prelude::*;
use std::sync::Arc;

/// IOVA of the queue.
pub(crate) const QUEUE: u64 = 0xffff_0000_0000;
/// IOVA of the data, mapped up to `DATA + DATA_SIZE`.
pub(crate) const DATA: u64 = 0x40_0000;
/// Size of the mapped data.
pub(crate) const DATA_SIZE: u64 = 1 << 20;
/// IOVA of the scatter lists.
pub(crate) const LISTS: u64 = 0x7700_0000_0000;
/// Size of the memory mapped for lists.
pub(crate) const LISTS_SIZE: u64 = 1 << 20;
/// Size of the device memory.
pub(crate) const MEMORY: u64 = 1 << 20;

/// A device with a queue.
pub(crate) struct Machine {
    pub(crate) guest: Guest,
    pub(crate) sim: Arc<Sim>,
    pub(crate) queue: Queue<Bar, GuestBuffer>,
}

/// The registers of a simulated device.
#[derive(Clone, Debug)]
pub(crate) struct Bar(pub(crate) Arc<Sim>);

impl mdma::Bar for Bar {
    fn read32(&self, offset: u64) -> std::io::Result<u32> {
        self.0.read32(offset)
    }
    fn write32(&self, offset: u64, value: u32) -> std::io::Result<()> {
        self.0.write32(offset, value)
    }
    fn read64(&self, offset: u64) -> std::io::Result<u64> {
        self.0.read64(offset)
    }
    fn write64(&self, offset: u64, value: u64) -> std::io::Result<()> {
        self.0.write64(offset, value)
    }
}

impl Machine {
    /// Creates a device with an enabled ring of `1 << order` entries.
    pub(crate) fn new(order: u32) -> Self {
        let guest = Guest::new();
        guest.map(DATA, DATA_SIZE as usize);
        guest.map(LISTS, LISTS_SIZE as usize);
        let size = Queue::<Bar, GuestBuffer>::size(order);
        let memory = guest.map(QUEUE, size);
        let sim = Arc::new(Sim::new(guest.clone(), MEMORY, 0));
        let mdma = Mdma::new(Bar(sim.clone())).unwrap();
        let queue = Queue::new(mdma, memory, order).unwrap();
        Machine { guest, sim, queue }
    }

    /// Runs all jobs in the ring and returns their completions.
    pub(crate) fn run(&mut self) -> Vec<Completion> {
        self.sim.run();
        std::iter::from_fn(|| self.queue.poll()).collect()
    }

    /// Moves to a new device with the state and the memory of the old one.
    pub(crate) fn migrate(self) -> Machine {
        let sim = Arc::new(Sim::new(self.guest.clone(), MEMORY, 0));
        sim.set_memory(self.sim.memory());
        sim.load(&self.sim.save()).unwrap();
        assert_eq!(sim.save(), self.sim.save());
        let memory = self.queue.memory().clone();
        let mdma = Mdma::new(Bar(sim.clone())).unwrap();
        Machine {
            queue: self.queue.moved(mdma, memory),
            guest: self.guest,
            sim,
        }
    }

    /// Writes a scatter list to guest memory.
    pub(crate) fn write_list(&self, iova: u64, entries: &[Entry]) -> List {
        let mut world = World {
            guest: self.guest.contents(),
            ..World::new(MEMORY)
        };
        let list = world.write_list(iova, entries);
        self.guest.set_contents(world.guest);
        list
    }

    /// Returns a copy of the memory that jobs use, without the queue.
    pub(crate) fn world(&self) -> World {
        let mut world = World::new(MEMORY);
        let contents = self.guest.contents();
        for (iova, size) in [(DATA, DATA_SIZE), (LISTS, LISTS_SIZE)] {
            world
                .guest
                .write(iova, &contents.to_vec(iova, size as usize));
        }
        world.device = self.sim.memory();
        world
    }
}

/// Writes different bytes everywhere, and returns a copy of the memory.
pub(crate) fn scatter(machine: &Machine) -> World {
    let noise: Vec<u8> = (0u64..DATA_SIZE / 8)
        .flat_map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (i >> 3)).to_le_bytes())
        .collect();
    let mut guest = machine.guest.contents();
    guest.write(DATA, &noise);
    machine.guest.set_contents(guest);
    let mut memory = mdma::Sparse::new();
    memory.write(0, &noise[1..]);
    machine.sim.set_memory(memory);
    machine.world()
}

/// Generates a range of data in guest or device memory, of at most `max` bytes.
pub(crate) fn range(max: u64) -> impl Strategy<Value = (Place, u64)> {
    (any::<bool>(), 1..=max).prop_flat_map(|(device, len)| {
        (0..=DATA_SIZE - len).prop_map(move |at| {
            let place = match device {
                true => Place::Device(at),
                false => Place::Guest(DATA + at),
            };
            (place, len)
        })
    })
}

/// Generates a job that succeeds.
pub(crate) fn good_job() -> impl Strategy<Value = Descriptor> {
    let max = 300 << 10;
    prop_oneof![
        1 => Just(job::nop()),
        4 => (range(max), range(max)).prop_map(|((src, a), (dst, b))| job::copy(src, dst, a.min(b))),
        4 => (range(max), any::<u64>()).prop_map(|((dst, len), value)| job::fill(dst, value, len)),
        2 => range(max).prop_map(|(src, len)| job::crc32c(src, len)),
    ]
    .prop_flat_map(|desc| {
        (any::<u64>(), any::<bool>()).prop_map(move |(cookie, interrupt)| {
            let desc = desc.cookie(cookie);
            if interrupt {
                desc.interrupt()
            } else {
                desc
            }
        })
    })
}
