// SPDX-License-Identifier: GPL-2.0

//! Queues, doorbells and interrupts.

use crate::machine::{sq_base, Driver, Entry, Machine, ENTRIES};
use mnvme_model::regs::Reg;
use mnvme_model::QUEUES;

#[test]
fn queues_wrap_and_keep_their_order() {
    let mut driver = Driver::with_queues(1);
    for round in 0..5 {
        let cids: Vec<u16> = (0..ENTRIES - 1)
            .map(|_| driver.put(1, Entry::blocks(0, 0, 1)))
            .collect();
        driver.ring(2, driver.tails[1].into());
        driver.work();
        for (i, cid) in cids.into_iter().enumerate() {
            let done = driver.take(1).unwrap();
            assert_eq!(done.cid, cid, "round {round}");
            // The head tells which entries can be filled again.
            let head = (round * (ENTRIES - 1) + i as u16 + 1) % ENTRIES;
            assert_eq!(done.sq_head, head, "round {round}");
        }
        assert_eq!(driver.take(1), None);
    }
}

#[test]
fn a_full_completion_queue_holds_commands_back() {
    let mut driver = Driver::with_queues(1);
    for _ in 0..ENTRIES - 1 {
        driver.submit(1, Entry::blocks(0, 0, 1));
    }
    driver.work();
    for _ in 0..3 {
        driver.submit(1, Entry::blocks(0, 0, 1));
    }
    assert!(!driver.step(), "there is no room for a completion");
    driver.effects();
    let mut count = 0;
    while driver.take(1).is_some() {
        count += 1;
        assert!(driver.effects().schedule);
        driver.work();
    }
    assert_eq!(count, ENTRIES - 1 + 3);
}

#[test]
fn several_submission_queues_share_a_completion_queue() {
    let mut driver = Driver::with_queues(1);
    let mut entry = Entry::admin(0x01, 2 | (7 << 16), 1 | (1 << 16));
    entry.prp1 = sq_base(2);
    assert_eq!(driver.admin(entry).status, 0);
    let mut expected: Vec<(u16, u16)> = Vec::new();
    for _ in 0..3 {
        for queue in [1, 2] {
            expected.push((queue, driver.submit(queue.into(), Entry::blocks(0, 0, 1))));
        }
    }
    driver.work();
    let mut seen = Vec::new();
    while let Some(done) = driver.take(1) {
        seen.push((done.sq, done.cid));
    }
    assert_eq!(seen, expected, "round robin");
}

#[test]
fn each_completion_raises_the_message_of_its_vector() {
    let mut driver = Driver::with_queues(3);
    driver.effects();
    driver.submit(3, Entry::blocks(0, 0, 1));
    driver.work();
    assert_eq!(driver.effects().signal, 1 << 3);
    assert_eq!(driver.asserted(), 1 << 3);
    driver.take(3).unwrap();
    assert!(driver.effects().asserted);
    assert_eq!(driver.asserted(), 0);
}

#[test]
fn a_queue_without_interrupts_raises_none() {
    let mut driver = Driver::new();
    let mut cq = Entry::admin(0x05, 1 | (7 << 16), 1 | (1 << 16));
    cq.prp1 = crate::machine::cq_base(1);
    assert_eq!(driver.admin(cq).status, 0);
    let mut sq = Entry::admin(0x01, 1 | (7 << 16), 1 | (1 << 16));
    sq.prp1 = sq_base(1);
    assert_eq!(driver.admin(sq).status, 0);
    driver.effects();
    driver.submit(1, Entry::blocks(0, 0, 1));
    driver.work();
    assert_eq!((driver.effects().signal, driver.asserted()), (0, 0));
    assert!(driver.peek(1).is_some());
}

#[test]
fn the_mask_hides_vectors() {
    let mut driver = Driver::with_queues(1);
    driver.submit(1, Entry::blocks(0, 0, 1));
    driver.work();
    driver.write(Reg::Intms, 2);
    assert_eq!(driver.asserted(), 0);
    driver.write(Reg::Intmc, 2);
    assert_eq!(driver.asserted(), 2);
}

#[test]
fn the_phase_tag_is_written_last_and_alone() {
    let mut driver = Driver::with_queues(1);
    for _ in 0..20 {
        driver.submit(1, Entry::blocks(0, 0, 1));
        let at = crate::machine::cq_base(1);
        *driver.machine.before.borrow_mut() = Some(Box::new(move |machine: &Machine, iova| {
            // Before the write of the tag, the rest is there.
            if iova > at && iova < at + 4096 && iova % 16 == 14 {
                let memory = machine.memory.borrow();
                let entry = &memory[iova as usize - 14..][..16];
                assert_ne!(&entry[12..14], [0, 0]);
            }
        }));
        driver.work();
        *driver.machine.before.borrow_mut() = None;
        driver.take(1).unwrap();
    }
}

#[test]
fn bad_doorbells_change_no_queue() {
    let mut driver = Driver::with_queues(1);
    driver.submit(1, Entry::blocks(0, 0, 1));
    driver.work();
    let before = *driver.machine.controller.borrow().state();
    // Beyond the queue, taking entries that are not there, queues that do not exist, too large a number.
    for (number, value) in [
        (2, u32::from(ENTRIES)),
        (2, 0x1_0000),
        (3, u32::from(ENTRIES)),
        (3, 2),
        (4, 1),
        (5, 1),
        (2 * QUEUES, 0),
        (1023, 1),
    ] {
        driver.ring(number, value);
        let after = *driver.machine.controller.borrow().state();
        assert_eq!(
            (after.sq, after.cq),
            (before.sq, before.cq),
            "{number} {value}"
        );
        assert!(after.events.pending != 0);
    }
    assert_eq!(driver.machine.controller.borrow().state().errors.count, 8);
    assert!(driver.take(1).is_some());
}

#[test]
fn a_full_submission_queue_takes_no_more() {
    let mut driver = Driver::with_queues(1);
    // The third entry is fetched, four are not.
    for _ in 0..3 {
        driver.submit(1, Entry::blocks(0, 0, 1));
    }
    driver.work();
    for _ in 0..4 {
        driver.submit(1, Entry::blocks(0, 0, 1));
    }
    let tail = driver.tails[1];
    let before = *driver.machine.controller.borrow().state();
    // Three entries are free. Software says that it has filled four, or more.
    for more in 4..ENTRIES {
        driver.ring(2, ((tail + more) % ENTRIES).into());
        let after = *driver.machine.controller.borrow().state();
        assert_eq!(after.sq, before.sq, "{more} more entries");
        assert!(after.events.pending != 0);
    }
    // The same value again is no error, and neither is the last entry that is free.
    let errors = u64::from(ENTRIES) - 4;
    driver.ring(2, tail.into());
    driver.ring(2, ((tail + 3) % ENTRIES).into());
    let controller = driver.machine.controller.borrow();
    assert_eq!(controller.state().errors.count, errors);
    assert_eq!(controller.state().sq[1].tail, (tail + 3) % ENTRIES);
}

#[test]
fn a_disabled_controller_ignores_doorbells() {
    let driver = Driver::new();
    driver.write(Reg::Cc, 0);
    driver.ring(0, 5);
    driver.ring(1023, 5);
    let controller = driver.machine.controller.borrow();
    assert_eq!(controller.state().errors.count, 0);
    assert_eq!(controller.state().sq[0].tail, 0);
}

#[test]
fn queue_memory_that_is_not_accessible_is_fatal() {
    let mut driver = Driver::with_queues(1);
    *driver.machine.hole.borrow_mut() = sq_base(1)..sq_base(1) + 1;
    driver.submit(1, Entry::blocks(0, 0, 1));
    driver.work();
    assert_eq!(driver.read(Reg::Csts), 3);

    let mut driver = Driver::with_queues(1);
    *driver.machine.hole.borrow_mut() = crate::machine::cq_base(1)..crate::machine::cq_base(2);
    driver.submit(1, Entry::blocks(0, 0, 1));
    driver.work();
    assert_eq!(driver.read(Reg::Csts), 3);
    *driver.machine.hole.borrow_mut() = 0..0;
    driver.write(Reg::Cc, 0);
    driver.enable();
    driver.create(1);
    assert_eq!(driver.io(Entry::blocks(0, 0, 1)), 0);
}
