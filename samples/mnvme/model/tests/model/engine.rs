// SPDX-License-Identifier: GPL-2.0

//! Units of work: each command completes exactly once, whatever comes in between.

use crate::machine::{random, Driver, Entry, BLOCKS, DATA};
use mnvme_model::state;
use mnvme_model::BLOCK;
use std::collections::BTreeMap;

/// Saves the state and loads it, as a migration does.
fn migrate(driver: &Driver) {
    let mut bytes = Vec::new();
    let mut controller = driver.machine.controller.borrow_mut();
    state::encode(controller.state(), |field| {
        bytes.extend_from_slice(field);
        Ok::<(), ()>(())
    })
    .unwrap();
    let mut rest = &bytes[..];
    let state = state::decode(BLOCKS, |field| {
        let (now, later) = rest.split_at(field.len());
        field.copy_from_slice(now);
        rest = later;
        Ok::<(), ()>(())
    })
    .unwrap();
    assert_eq!(state, *controller.state());
    // At power-on, whatever the source did.
    controller.power_on();
    controller.load(&state);
}

#[test]
fn commands_complete_exactly_once_across_migrations() {
    let mut driver = Driver::with_queues(8);
    let mut model = vec![0_u8; BLOCKS as usize * BLOCK];
    let mut inflight: BTreeMap<u16, (usize, Entry)> = BTreeMap::new();
    let mut submitted = 0;
    let mut completed = 0;
    for _ in 0..4000 {
        // Each queue has its part of the namespace and of guest memory, one command at a time writes.
        let queue = fastrand::usize(1..=8);
        if !inflight.values().any(|(other, _)| *other == queue) {
            let slba = queue as u64 * 900 + fastrand::u64(..200);
            let blocks = fastrand::u32(1..=8);
            let opcode = [1, 2, 8, 9][fastrand::usize(..4)];
            let mut entry = Entry::blocks(opcode, slba, blocks);
            entry.prp1 = DATA + queue as u64 * 0x2000;
            let at = slba as usize * BLOCK;
            let len = blocks as usize * BLOCK;
            match opcode {
                1 => {
                    let data = random(len);
                    driver.poke(entry.prp1, &data);
                    model[at..at + len].copy_from_slice(&data);
                }
                8 => model[at..at + len].fill(0),
                9 => {
                    let mut range = [0; 32];
                    for (i, at) in [slba, slba + 100].into_iter().enumerate() {
                        range[16 * i + 4..][..4].copy_from_slice(&blocks.to_le_bytes());
                        range[16 * i + 8..][..8].copy_from_slice(&at.to_le_bytes());
                        model[at as usize * BLOCK..][..len].fill(0);
                    }
                    driver.poke(entry.prp1, &range);
                    entry.dwords = [1, 4, 0, 0, 0, 0];
                }
                _ => {}
            }
            let cid = driver.submit(queue, entry);
            inflight.insert(cid, (queue, entry));
            submitted += 1;
        }
        for _ in 0..fastrand::u8(..3) {
            driver.step();
        }
        if fastrand::bool() {
            migrate(&driver);
        }
        for queue in 1..=8 {
            while fastrand::bool() {
                let Some(done) = driver.take(queue) else {
                    break;
                };
                let (other, entry) = inflight.remove(&done.cid).expect("completed twice");
                assert_eq!((other, done.status), (queue, 0));
                if entry.opcode == 2 {
                    let slba = u64::from(entry.dwords[0]);
                    let blocks = entry.dwords[2] as usize + 1;
                    let data = driver.memory(entry.prp1, blocks * BLOCK);
                    assert!(data == model[slba as usize * BLOCK..][..blocks * BLOCK]);
                }
                completed += 1;
            }
        }
    }
    driver.work();
    for queue in 1..=8 {
        while let Some(done) = driver.take(queue) {
            inflight.remove(&done.cid).expect("completed twice");
            completed += 1;
        }
    }
    assert!(inflight.is_empty() && submitted > 500);
    assert_eq!(submitted, completed);
    assert!(driver.storage(0, BLOCKS as usize) == model);
}

#[test]
fn a_loaded_state_asserts_what_was_not_taken() {
    let mut driver = Driver::with_queues(3);
    driver.submit(2, Entry::blocks(0, 0, 1));
    driver.submit(3, Entry::blocks(0, 0, 1));
    driver.work();
    driver.take(3).unwrap();
    migrate(&driver);
    assert_eq!(driver.asserted(), 1 << 2);
}

#[test]
fn a_reset_in_each_access_ends_the_command() {
    use mnvme_model::host::Host;
    use std::cell::Cell;
    use std::rc::Rc;
    for at in 0..12 {
        let mut driver = Driver::with_queues(1);
        let seen = Rc::new(Cell::new(0));
        let count = seen.clone();
        let mut entry = Entry::blocks(2, 0, 16);
        entry.prp2 = DATA + 0x1000;
        driver.submit(1, entry);
        *driver.machine.before.borrow_mut() =
            Some(Box::new(move |machine: &crate::machine::Machine, _| {
                if count.replace(count.get() + 1) == at {
                    machine
                        .lock(|c| c.write(0x14, &0_u32.to_le_bytes()))
                        .unwrap();
                }
            }));
        driver.work();
        *driver.machine.before.borrow_mut() = None;
        if seen.get() <= at {
            assert!(at >= 5, "fetch, two pages, completion, tag");
            continue;
        }
        assert_eq!(driver.read(mnvme_model::regs::Reg::Csts), 0);
        assert_eq!((driver.asserted(), driver.effects().signal & 2), (0, 0));
        driver.enable();
        driver.create(1);
        assert_eq!(driver.io(Entry::blocks(2, 0, 1)), 0, "reset at access {at}");
    }
}

#[test]
fn deleting_a_queue_drops_its_command_in_progress() {
    let mut driver = Driver::with_queues(1);
    driver.submit(1, Entry::blocks(8, 0, 8000));
    assert!(driver.step() && driver.step());
    assert_eq!(driver.admin(Entry::admin(0, 1, 0)).status, 0);
    driver.work();
    assert_eq!(driver.peek(1), None);
}
