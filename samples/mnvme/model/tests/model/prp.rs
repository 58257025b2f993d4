// SPDX-License-Identifier: GPL-2.0

//! PRP entries and lists.

use crate::machine::{status, Driver, Entry, DATA, LISTS};
use mnvme_model::status::Status;
use mnvme_model::BLOCK;

/// A read of `blocks` blocks.
fn read(prp1: u64, prp2: u64, blocks: u32) -> Entry {
    let mut entry = Entry::blocks(2, 0, blocks);
    entry.prp1 = prp1;
    entry.prp2 = prp2;
    entry
}

#[test]
fn pages_may_be_anywhere() {
    let mut driver = Driver::with_queues(1);
    let data = driver.fill(0, 256);
    let mut pages: Vec<u64> = (0..64).map(|i| DATA + i * 0x1000).collect();
    fastrand::shuffle(&mut pages);
    let offset = 0x200;
    let list = driver.list(LISTS, &pages[1..33]);
    assert_eq!(driver.io(read(pages[0] + offset, list, 256)), 0);
    let mut seen = driver.memory(pages[0] + offset, 0x1000 - 0x200);
    for page in &pages[1..33] {
        seen.extend(driver.memory(*page, 0x1000));
    }
    assert!(seen[..256 * BLOCK] == data);
    let mut expected = pages[..33]
        .iter()
        .map(|page| page >> 12)
        .collect::<Vec<_>>();
    expected.sort_unstable();
    assert_eq!(driver.dirty(), expected);
}

#[test]
fn lists_are_chained() {
    let mut driver = Driver::with_queues(1);
    let data = driver.fill(0, 256);
    let pages: Vec<u64> = (0..32).map(|i| DATA + i * 0x1000).collect();
    // So many entries fit before the end of the list's first page; the last of them is a pointer.
    for room in 1..34 {
        let first = LISTS + 0x1000 - 8 * room as u64;
        let list = if room >= 31 {
            driver.list(first, &pages[1..])
        } else {
            let mut head = pages[1..room].to_vec();
            head.push(LISTS + 0x5000);
            driver.list(LISTS + 0x5000, &pages[room..]);
            driver.list(first, &head)
        };
        driver.poke(DATA, &vec![0; 256 * BLOCK]);
        assert_eq!(driver.io(read(pages[0], list, 256)), 0, "room for {room}");
        assert!(driver.memory(DATA, 256 * BLOCK) == data, "room for {room}");
    }
}

#[test]
fn offsets_are_checked_before_anything_is_copied() {
    let mut driver = Driver::with_queues(1);
    driver.fill(0, 256);
    let bad = status(Status::InvalidPrpOffset);
    assert_eq!(driver.io(read(DATA + 2, 0, 1)), bad);
    assert_eq!(driver.io(read(DATA, DATA + 0x1004, 16)), bad);
    assert_eq!(
        driver.io(read(DATA, LISTS + 4, 64)),
        bad,
        "pointer to a list"
    );
    let list = driver.list(LISTS, &[DATA + 0x1000, DATA + 0x2000, DATA + 0x3200]);
    assert_eq!(driver.io(read(DATA, list, 32)), bad);
    // A chain to the middle of a page.
    let list = driver.list(LISTS + 0xff8, &[LISTS + 0x2008]);
    assert_eq!(driver.io(read(DATA, list, 64)), bad);
    assert_eq!(driver.dirty(), []);
}

#[test]
fn prp2_is_ignored_where_it_is_not_needed() {
    let mut driver = Driver::with_queues(1);
    assert_eq!(driver.io(read(DATA, 3, 8)), 0);
    assert_eq!(driver.io(read(DATA + 512, 3, 7)), 0);
    assert_eq!(
        driver.io(read(DATA + 4, 3, 8)),
        status(Status::InvalidPrpOffset)
    );
}

#[test]
fn a_list_that_is_not_accessible_is_a_transfer_error() {
    let mut driver = Driver::with_queues(1);
    for list in [u64::MAX - 7, 1 << 40, !0xfff] {
        let done = driver.io(read(DATA, list, 64));
        assert_eq!(done, status(Status::DataTransferError), "{list:#x}");
    }
    // The last page of the address space, for data.
    assert_eq!(
        driver.io(read(!0xfff, 0, 8)),
        status(Status::DataTransferError)
    );
}

#[test]
fn random_entries_reach_nothing_else() {
    let mut driver = Driver::with_queues(1);
    let before = driver.machine.storage.borrow().clone();
    for _ in 0..3000 {
        let word = || match fastrand::u8(..4) {
            0 => fastrand::u64(..),
            1 => DATA + fastrand::u64(..0x10_0000),
            2 => DATA + fastrand::u64(..0x100) * 0x1000,
            _ => LISTS + fastrand::u64(..0x400) * 8,
        };
        driver.list(LISTS, &[(); 512].map(|()| word()));
        // Neither the queues nor the storage may change, but by the command itself.
        let mut entry = read(word(), word(), fastrand::u32(1..400));
        entry.opcode = [2, 5][fastrand::usize(..2)];
        driver.io(entry);
    }
    assert!(*driver.machine.storage.borrow() == before);
}
