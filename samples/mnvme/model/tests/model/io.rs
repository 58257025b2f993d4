// SPDX-License-Identifier: GPL-2.0

//! I/O commands.

use crate::machine::{random, status, Driver, Entry, BLOCKS, DATA, LISTS};
use mnvme_model::command::NVM;
use mnvme_model::status::Status;
use mnvme_model::{BLOCK, PAGE};

const FLUSH: u8 = 0x00;
const WRITE: u8 = 0x01;
const READ: u8 = 0x02;
const COMPARE: u8 = 0x05;
const ZEROES: u8 = 0x08;
const DSM: u8 = 0x09;

/// A command whose data begins at [`DATA`] plus `offset`.
fn command(driver: &Driver, opcode: u8, slba: u64, blocks: u32, offset: u64) -> Entry {
    let mut entry = Entry::blocks(opcode, slba, blocks);
    entry.prp1 = DATA + offset;
    let pages = (offset as usize % PAGE + blocks as usize * BLOCK).div_ceil(PAGE);
    let page = |number: usize| (DATA + offset) / 4096 * 4096 + 4096 * number as u64;
    entry.prp2 = match pages {
        0 | 1 => 0,
        2 => page(1),
        _ => driver.list(LISTS, &(1..pages).map(page).collect::<Vec<_>>()),
    };
    entry
}

#[test]
fn writes_and_reads_reach_exactly_their_bytes() {
    let mut driver = Driver::with_queues(1);
    for blocks in [1, 2, 7, 8, 9, 15, 16, 17, 64, 255, 256] {
        for offset in [0, 4, 512, 2048, 4092] {
            let slba = fastrand::u64(1..BLOCKS - 300);
            let len = blocks as usize * BLOCK;
            driver.fill(slba - 1, blocks as usize + 2);
            let around = driver.storage(slba - 1, blocks as usize + 2);
            let data = random(len);
            driver.poke(DATA + offset, &data);
            driver.dirty();
            assert_eq!(driver.io(command(&driver, WRITE, slba, blocks, offset)), 0);
            assert_eq!(driver.dirty(), [], "a write only reads guest memory");
            let stored = driver.storage(slba - 1, blocks as usize + 2);
            assert_eq!(stored[BLOCK..BLOCK + len], data);
            assert_eq!(stored[..BLOCK], around[..BLOCK]);
            assert_eq!(stored[BLOCK + len..], around[BLOCK + len..]);

            let before = driver.memory(DATA, 256 << 10);
            let at = 64 << 10;
            driver.poke(DATA + at, &vec![0; len + 8192]);
            assert_eq!(
                driver.io(command(&driver, READ, slba, blocks, at + offset)),
                0
            );
            let first = (DATA + at + offset) >> 12;
            let last = (DATA + at + offset + len as u64 - 1) >> 12;
            assert_eq!(driver.dirty(), (first..=last).collect::<Vec<_>>());
            let memory = driver.memory(DATA, 256 << 10);
            let start = (at + offset) as usize;
            assert_eq!(memory[start..start + len], data);
            assert_eq!(memory[..at as usize], before[..at as usize]);
            assert!(memory[at as usize..start].iter().all(|byte| *byte == 0));
            assert!(memory[start + len..at as usize + len + 8192]
                .iter()
                .all(|byte| *byte == 0));
        }
    }
}

#[test]
fn blocks_outside_the_namespace_are_refused() {
    let mut driver = Driver::with_queues(1);
    let before = driver.machine.storage.borrow().clone();
    for opcode in [WRITE, READ, COMPARE, ZEROES] {
        for (slba, blocks) in [
            (BLOCKS, 1),
            (BLOCKS - 1, 2),
            (u64::MAX, 1),
            (u64::MAX, 2),
            (BLOCKS - 255, 256),
        ] {
            let entry = command(&driver, opcode, slba, blocks, 0);
            assert_eq!(
                driver.io(entry),
                status(Status::LbaOutOfRange),
                "{opcode} {slba:#x}"
            );
        }
        let entry = command(&driver, opcode, BLOCKS - 1, 1, 0);
        assert_eq!(driver.io(entry), 0);
    }
    assert!(*driver.machine.storage.borrow() == before);
}

#[test]
fn transfers_are_limited_by_mdts() {
    let mut driver = Driver::with_queues(1);
    for opcode in [WRITE, READ, COMPARE] {
        for blocks in [257, 65536] {
            let entry = Entry::blocks(opcode, 0, blocks);
            let expected = if blocks > 8192 {
                Status::LbaOutOfRange
            } else {
                Status::InvalidField
            };
            assert_eq!(driver.io(entry), status(expected));
        }
    }
}

#[test]
fn namespaces_opcodes_and_flags_are_checked() {
    let mut driver = Driver::with_queues(1);
    for opcode in 0..=0xff {
        if NVM.iter().all(|row| row.opcode != opcode) {
            assert_eq!(
                driver.io(Entry::blocks(opcode, 0, 1)),
                status(Status::InvalidOpcode)
            );
        }
    }
    for row in &NVM {
        for nsid in [0, 2, 0xffff_ffff] {
            let mut entry = Entry::blocks(row.opcode, 0, 1);
            entry.nsid = nsid;
            let legal = row.opcode == FLUSH && nsid == 0xffff_ffff;
            let expected = if legal {
                0
            } else {
                status(Status::InvalidNamespace)
            };
            assert_eq!(driver.io(entry), expected, "{} {nsid:#x}", row.name);
        }
        let mut entry = Entry::blocks(row.opcode, 0, 1);
        entry.flags = 0x40;
        assert_eq!(driver.io(entry), status(Status::InvalidField));
    }
}

#[test]
fn compare_finds_each_byte() {
    let mut driver = Driver::with_queues(1);
    let data = driver.fill(10, 40);
    driver.poke(DATA + 512, &data);
    let entry = command(&driver, COMPARE, 10, 40, 512);
    assert_eq!(driver.io(entry), 0);
    for at in [0, 511, 512, 3583, 3584, 20479] {
        driver.poke(DATA + 512 + at, &[!data[at as usize]]);
        assert_eq!(
            driver.io(entry),
            status(Status::CompareFailure),
            "byte {at}"
        );
        driver.poke(DATA + 512 + at, &[data[at as usize]]);
    }
    assert_eq!(driver.io(entry), 0);
    assert_eq!(driver.storage(10, 40), data);
}

#[test]
fn write_zeroes_takes_several_units() {
    let mut driver = Driver::with_queues(2);
    driver.fill(0, BLOCKS as usize);
    let before = driver.storage(0, BLOCKS as usize);
    driver.submit(1, Entry::blocks(ZEROES, 5, 6000));
    let other = driver.submit(2, Entry::blocks(READ, 0, 1));
    assert!(driver.step() && driver.step());
    assert_eq!(
        driver.take(2).unwrap().cid,
        other,
        "the other queue goes on"
    );
    driver.work();
    assert_eq!(driver.take(1).unwrap().status, 0);
    let after = driver.storage(0, BLOCKS as usize);
    assert_eq!(after[..5 * BLOCK], before[..5 * BLOCK]);
    assert!(after[5 * BLOCK..6005 * BLOCK].iter().all(|byte| *byte == 0));
    assert_eq!(after[6005 * BLOCK..], before[6005 * BLOCK..]);
    assert_eq!(driver.dirty(), [DATA >> 12]);
}

/// Writes ranges of Dataset Management.
fn ranges(driver: &Driver, at: u64, ranges: &[(u64, u32)]) {
    for (i, (slba, blocks)) in ranges.iter().enumerate() {
        let mut bytes = [0; 16];
        bytes[4..8].copy_from_slice(&blocks.to_le_bytes());
        bytes[8..].copy_from_slice(&slba.to_le_bytes());
        driver.poke(at + 16 * i as u64, &bytes);
    }
}

#[test]
fn deallocated_blocks_read_zero() {
    let mut driver = Driver::with_queues(1);
    driver.fill(0, BLOCKS as usize);
    let mut expected = driver.storage(0, BLOCKS as usize);
    // The list crosses a page, and a range crosses it too.
    let list: Vec<(u64, u32)> = (0..200).map(|i| (i * 40, (i % 11) as u32)).collect();
    ranges(&driver, DATA + 4096 - 24, &list);
    let mut entry = Entry::blocks(DSM, 0, 1);
    entry.prp1 = DATA + 4096 - 24;
    entry.prp2 = DATA + 4096;
    entry.dwords = [199, 4, 0, 0, 0, 0];
    assert_eq!(driver.io(entry), 0);
    for (slba, blocks) in list {
        let at = slba as usize * BLOCK;
        expected[at..at + blocks as usize * BLOCK].fill(0);
    }
    assert!(driver.storage(0, BLOCKS as usize) == expected);

    // Only Deallocate has an effect.
    entry.dwords[1] = 3;
    let data = driver.fill(0, 20);
    assert_eq!(driver.io(entry), 0);
    assert_eq!(driver.storage(0, 20), data);
}

#[test]
fn deallocate_checks_each_range() {
    let mut driver = Driver::with_queues(1);
    let data = driver.fill(0, BLOCKS as usize);
    let mut entry = Entry::blocks(DSM, 0, 1);
    entry.dwords = [1, 4, 0, 0, 0, 0];
    for bad in [
        (BLOCKS, 1),
        (0, BLOCKS as u32 + 1),
        (u64::MAX, 1),
        (1, u32::MAX),
    ] {
        ranges(&driver, DATA, &[bad, (0, 1)]);
        assert_eq!(driver.io(entry), status(Status::LbaOutOfRange), "{bad:?}");
        assert!(driver.storage(0, BLOCKS as usize) == data);
    }
    *driver.machine.hole.borrow_mut() = DATA..DATA + 1;
    assert_eq!(driver.io(entry), status(Status::DataTransferError));
}

#[test]
fn guest_memory_that_is_not_accessible_is_a_transfer_error() {
    let mut driver = Driver::with_queues(1);
    *driver.machine.hole.borrow_mut() = DATA + 0x3000..DATA + 0x3001;
    for opcode in [WRITE, READ, COMPARE] {
        let entry = command(&driver, opcode, 0, 64, 0);
        assert_eq!(
            driver.io(entry),
            status(Status::DataTransferError),
            "{opcode}"
        );
    }
}

#[test]
fn storage_that_fails_is_no_transfer_error() {
    let mut driver = Driver::with_queues(1);
    driver.machine.broken.set(true);
    for opcode in [WRITE, ZEROES] {
        let done = driver.io(Entry::blocks(opcode, 0, 1));
        assert_eq!(done, status(Status::WriteFault), "{opcode}");
    }
    for opcode in [READ, COMPARE] {
        let done = driver.io(Entry::blocks(opcode, 0, 1));
        assert_eq!(done, status(Status::InternalError), "{opcode}");
    }
    let done = driver.admin(Entry::admin(0x06, 1, 0)).status;
    assert_eq!(done, status(Status::InternalError), "the identity");
    driver.machine.broken.set(false);
    assert_eq!(driver.io(Entry::blocks(WRITE, 0, 1)), 0);
}
