// SPDX-License-Identifier: GPL-2.0

//! The workload against a simulated device: it accepts a device that works, and detects any loss.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use guest::event::Losses;
use guest::{Options, Parts, Window, Wrong, WrongResult};
use mdma::sim::{Guest, GuestBuffer, Sim, Step};
use mdma::{Bar, Buffer};

const MEMORY: u64 = 1 << 20;
const BLOCK: usize = 128 << 10;
const BLOCKS: u64 = 6;
const TICK: Duration = Duration::from_millis(10);

/// The IOVA of the other device's memory.
const PEER: u64 = 0x8000_0000;

/// The present device.
#[derive(Clone)]
struct Slot(Rc<RefCell<Sim>>);

impl Bar for Slot {
    fn read32(&self, offset: u64) -> io::Result<u32> {
        self.0.borrow().read32(offset)
    }
    fn write32(&self, offset: u64, value: u32) -> io::Result<()> {
        self.0.borrow().write32(offset, value)
    }
    fn read64(&self, offset: u64) -> io::Result<u64> {
        self.0.borrow().read64(offset)
    }
    fn write64(&self, offset: u64, value: u64) -> io::Result<()> {
        self.0.borrow().write64(offset, value)
    }
}

impl Window for Slot {
    fn read(&self, offset: u64, out: &mut [u8]) {
        self.0.borrow().memory().read(offset, out);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut memory = self.0.borrow().memory();
        memory.write(offset, data);
        self.0.borrow().set_memory(memory);
    }
}

/// A guest with one device.
struct Machine {
    slot: Slot,
    guest: Guest,
    workload: guest::Workload<Slot, GuestBuffer, Slot>,
    now: Duration,
    rng: fastrand::Rng,
}

/// Returns the IOVA of a block. No two blocks are adjacent.
fn iova(block: u64) -> u64 {
    0x10_0000 + block * 0x123_4000
}

/// Returns a function that moves a block to an IOVA that no other had before.
fn mover(guest: Guest) -> guest::Remap<GuestBuffer> {
    let mut next = 0x1_0000_0000;
    Box::new(move |block| {
        let moved = guest.map(next, block.size());
        next += 2 * BLOCK as u64;
        let mut contents = vec![0; block.size()];
        block.read(0, &mut contents);
        moved.write(0, &contents);
        guest.unmap(block.iova());
        Ok(moved)
    })
}

impl Machine {
    fn new(seed: u64) -> Self {
        Self::with(seed, false)
    }

    /// With `peer`, there is another device, which has a part of its memory behind the blocks.
    fn with(seed: u64, peer: bool) -> Self {
        Self::of(seed, peer, false)
    }

    /// With `remap`, blocks move to other IOVAs.
    fn of(seed: u64, peer: bool, remap: bool) -> Self {
        let guest = Guest::new();
        let blocks = (0..BLOCKS).map(|i| guest.map(iova(i), BLOCK)).collect();
        let slot = Slot(Rc::new(RefCell::new(Sim::new(guest.clone(), MEMORY, 0))));
        let options = Options {
            seed,
            device: MEMORY / 2,
            // What is registered or written does not move.
            registered: if remap { BLOCK as u64 } else { 2 << 20 },
            written: if remap { 2 * BLOCK as u64 } else { u64::MAX },
            ..Options::default()
        };
        let parts = Parts {
            registers: slot.clone(),
            window: slot.clone(),
            blocks,
            remap: remap.then(|| mover(guest.clone())),
            peer: peer.then(|| guest.map(PEER, BLOCK)),
            lent: if peer { BLOCK as u64 } else { 0 },
        };
        Machine {
            workload: guest::Workload::new(parts, &options, 0).unwrap(),
            slot,
            guest,
            now: Duration::ZERO,
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// Runs the guest for a moment. The device does up to `units` units of work.
    fn tick(&mut self, units: u32, wanted: bool) -> WrongResult {
        self.now += TICK;
        self.workload.step(self.now, wanted)?;
        for _ in 0..units {
            if self.slot.0.borrow().step() == Step::Idle {
                break;
            }
        }
        let events = self.slot.0.borrow().take_events().iter().sum();
        if events > 0 {
            self.workload.interrupted(events, self.now)?;
        }
        self.workload.overdue(self.now)
    }

    fn run(&mut self, ticks: u32) -> WrongResult {
        for _ in 0..ticks {
            let units = self.rng.u32(..24);
            self.tick(units, true)?;
        }
        Ok(())
    }

    /// Waits for the jobs in flight, and verifies everything.
    fn check(&mut self) -> WrongResult {
        while !self.workload.idle() {
            self.tick(100, false)?;
        }
        self.workload.check()
    }

    /// Replaces the device, as a migration does. The new one gets the old one's memory after `change`.
    fn migrate(&mut self, change: impl FnOnce(&mut mdma::Sparse)) {
        let to = Sim::new(self.guest.clone(), MEMORY, 7);
        {
            let from = self.slot.0.borrow();
            let mut memory = from.memory();
            change(&mut memory);
            to.load(&from.save()).unwrap();
            to.set_memory(memory);
        }
        *self.slot.0.borrow_mut() = to;
    }

    fn wrong(&mut self, ticks: u32) -> Wrong {
        let result = self.run(ticks).and_then(|()| self.check());
        *result.expect_err("nobody noticed")
    }
}

#[test]
fn nothing_is_wrong_with_a_device_that_works() {
    for seed in 0..4 {
        let mut machine = Machine::new(seed);
        for _ in 0..4 {
            machine.run(1500).unwrap();
            machine.check().unwrap();
        }
        let totals = machine.workload.totals();
        assert_eq!(totals.checked, 4 * (MEMORY + (BLOCKS - 1) * BLOCK as u64));
        assert!(totals.verified > 3000 && totals.halts > 0, "{totals:?}");
        // Jobs dropped when the queue halts are not verified.
        assert_eq!(totals.jobs, totals.verified + totals.halts);
        assert!(totals.interrupts < totals.jobs);
        assert!(totals.memory_writes > 0 && totals.memory_reads > 0 && totals.ram_writes > 0);
    }
}

#[test]
fn memory_of_another_device_is_used_and_verified() {
    for seed in 0..2 {
        let mut machine = Machine::with(500 + seed, true);
        for _ in 0..4 {
            machine.run(1500).unwrap();
            // The other device writes what it was lent.
            machine.migrate(|memory| memory.write(MEMORY - BLOCK as u64, &[seed as u8; BLOCK]));
            machine.check().unwrap();
        }
        let totals = machine.workload.totals();
        // The lists and the peer, and the memory that is not lent.
        assert_eq!(totals.checked, 4 * (MEMORY + (BLOCKS - 1) * BLOCK as u64));
        assert!(totals.peer > 300 && totals.by_key > 300, "{totals:?}");
        // What is lost there is noticed.
        let mut contents = machine.guest.contents();
        contents.write(PEER + 4095, &[0x5a; 2]);
        machine.guest.set_contents(contents);
        let wrong = machine.wrong(0);
        assert!(wrong.what.starts_with("guest memory"), "{wrong:?}");
    }
}

#[test]
fn blocks_that_move_are_used_and_verified() {
    let mut machine = Machine::of(600, false, true);
    for _ in 0..4 {
        machine.run(1500).unwrap();
        machine.migrate(|_| ());
        machine.check().unwrap();
    }
    let totals = machine.workload.totals();
    assert!(totals.moved > 100 && totals.by_key > 100, "{totals:?}");
}

#[test]
fn nothing_is_wrong_after_moves() {
    for seed in 0..4 {
        let mut machine = Machine::new(100 + seed);
        let mut in_flight = 0;
        for _ in 0..60 {
            machine.run(20).unwrap();
            in_flight += u32::from(!machine.workload.idle());
            machine.migrate(|_| ());
        }
        machine.check().unwrap();
        assert!(in_flight > 0);
    }
}

#[test]
fn a_page_of_device_memory_that_is_left_out_is_noticed() {
    for seed in 0..4 {
        let mut machine = Machine::new(200 + seed);
        machine.run(100).unwrap();
        let before = machine.slot.0.borrow().memory();
        machine.run(400).unwrap();
        machine.migrate(|memory| {
            let changed = |at: &u64| before.to_vec(*at, 4096) != memory.to_vec(*at, 4096);
            let page = (0..MEMORY).step_by(4096).find(changed);
            let page = page.expect("some page was written");
            memory.write(page, &before.to_vec(page, 4096));
        });
        let wrong = machine.wrong(0);
        assert!(wrong.offset.is_some(), "{wrong:?}");
        assert!(wrong.what.starts_with("device memory"), "{wrong:?}");
    }
}

/// Whatever uses the page first: a job that writes it does not cover the loss.
#[test]
fn a_lost_page_is_noticed_by_its_next_use() {
    let mut overwritten = 0;
    for seed in 0..8 {
        let mut machine = Machine::new(400 + seed);
        machine.run(400).unwrap();
        while !machine.workload.idle() {
            machine.tick(100, false).unwrap();
        }
        machine.migrate(|memory| {
            let page = (0..MEMORY).step_by(4096).last().unwrap();
            memory.write(page, &[0; 4096]);
        });
        let wrong = machine.run(20_000).expect_err("nobody noticed");
        overwritten += u32::from(wrong.what.ends_with("overwrites it"));
    }
    assert!(overwritten > 0, "no page was written before it was read");
}

#[test]
fn lost_pages_are_counted_and_repaired() {
    let mut machine = Machine::new(250);
    machine.run(400).unwrap();
    while !machine.workload.idle() {
        machine.tick(100, false).unwrap();
    }
    machine.migrate(|memory| {
        for page in [0, MEMORY - 4096] {
            memory.write(page, &[0; 4096]);
        }
    });
    let mut contents = machine.guest.contents();
    contents.write(iova(3) + 4095, &[0x5a; 2]);
    machine.guest.set_contents(contents);
    let mend = |machine: &mut Machine| {
        let mut losses = Losses::default();
        machine.workload.mend(&mut losses).unwrap();
        losses
    };
    let losses = Losses {
        device_pages: 2,
        guest_pages: 2,
    };
    assert_eq!(mend(&mut machine), losses);
    assert_eq!(mend(&mut machine), Losses::default());
    machine.run(400).unwrap();
    machine.check().unwrap();
}

#[test]
fn a_page_of_guest_memory_that_is_left_out_is_noticed() {
    for seed in 0..4 {
        let mut machine = Machine::new(300 + seed);
        machine.run(100).unwrap();
        let before = machine.guest.contents();
        machine.run(400).unwrap();
        let mut contents = machine.guest.contents();
        let block = iova(3);
        let changed = |at: &u64| before.to_vec(*at, 4096) != contents.to_vec(*at, 4096);
        let page = (block..block + BLOCK as u64).step_by(4096).find(changed);
        let page = page.expect("some page was written");
        contents.write(page, &before.to_vec(page, 4096));
        machine.guest.set_contents(contents);
        let wrong = machine.wrong(0);
        let there = wrong.iova.is_some_and(|iova| iova / 4096 == page / 4096);
        assert!(there, "{wrong:?}");
        assert!(wrong.what.starts_with("guest memory"), "{wrong:?}");
    }
}

#[test]
fn what_changes_by_itself_is_noticed_in_time() {
    for seed in 0..4 {
        // No full check: jobs and accesses find it.
        let mut machine = Machine::new(400 + seed);
        machine.run(100).unwrap();
        machine.migrate(|memory| {
            for at in (0..64 << 10).step_by(64) {
                let byte = memory.to_vec(at, 1)[0];
                memory.write(at, &[byte ^ (1 << (at % 7))]);
            }
        });
        let noticed = (0..10_000).any(|_| machine.run(1).is_err());
        assert!(noticed, "seed {seed}");
    }
}

#[test]
fn a_lost_interrupt_is_noticed() {
    let mut machine = Machine::new(1);
    machine.run(50).unwrap();
    while machine.workload.idle() {
        machine.tick(0, true).unwrap();
    }
    machine.slot.0.borrow().run();
    machine.slot.0.borrow().take_events();
    let begin = machine.now;
    let wrong = loop {
        machine.now += Duration::from_secs(1);
        if let Err(wrong) = machine.workload.overdue(machine.now) {
            break wrong;
        }
    };
    assert!(wrong.what.starts_with("lost interrupt"), "{wrong:?}");
    let patience = Duration::from_secs(Options::default().patience - 1);
    assert!(machine.now - begin >= patience);
}

#[test]
fn a_device_that_stands_still_is_noticed() {
    let mut machine = Machine::new(2);
    while machine.workload.idle() {
        machine.tick(0, true).unwrap();
    }
    machine.now += Duration::from_secs(Options::default().patience + 1);
    let wrong = machine.workload.overdue(machine.now).unwrap_err();
    assert!(wrong.what.starts_with("no job has completed"), "{wrong:?}");
}

#[test]
fn a_register_that_was_lost_is_noticed() {
    let mut machine = Machine::new(3);
    machine.run(200).unwrap();
    machine.check().unwrap();
    let scratch = mdma::regs::Reg::Scratch.offset();
    machine.slot.write64(scratch, 1).unwrap();
    let wrong = machine.wrong(0);
    assert_eq!(wrong.what, "register SCRATCH");
}

#[test]
fn a_wrong_record_is_told_with_its_job() {
    let mut machine = Machine::new(4);
    let records = machine.guest.map(iova(0), BLOCK);
    let wrong = loop {
        machine.now += TICK;
        machine.workload.step(machine.now, true).unwrap();
        machine.slot.0.borrow().run();
        // The records are behind the ring of 64 entries; flip a bit of each one's checksum.
        for i in 0..64 {
            let mut crc = [0; 4];
            records.read(4096 + i * 32 + 12, &mut crc);
            crc[0] ^= 1;
            records.write(4096 + i * 32 + 12, &crc);
        }
        let events = machine.slot.0.borrow().take_events().iter().sum();
        if let Err(wrong) = machine.workload.interrupted(events, machine.now) {
            break wrong;
        }
    };
    assert_eq!(wrong.what, "completion record");
    assert!(wrong.job.is_some() && wrong.expected.is_some() && wrong.found.is_some());
}
