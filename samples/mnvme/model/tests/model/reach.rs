// SPDX-License-Identifier: GPL-2.0

//! What the device reads and writes: nothing but what a command describes.

use crate::machine::{
    cq_base, sq_base, status, Access, Driver, Entry, BLOCKS, DATA, ENTRIES, LISTS, MEMORY,
};
use mnvme_model::log::PAGES;
use mnvme_model::status::Status;
use mnvme_model::BLOCK;
use std::collections::BTreeSet;
use std::ops::Range;

/// Bytes of guest memory, as ranges that do not touch, in order.
#[derive(Clone, Default, PartialEq, Eq)]
struct Bytes(Vec<Range<u128>>);

impl Bytes {
    fn add(&mut self, at: u64, len: usize) {
        let at = u128::from(at);
        self.0.push(at..at + len as u128);
        self.merge();
    }

    fn extend(&mut self, other: &Bytes) {
        self.0.extend_from_slice(&other.0);
        self.merge();
    }

    fn merge(&mut self) {
        self.0.sort_by_key(|range| range.start);
        let mut merged: Vec<Range<u128>> = Vec::new();
        for range in self.0.drain(..).filter(|range| !range.is_empty()) {
            match merged.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        self.0 = merged;
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn is_subset(&self, other: &Bytes) -> bool {
        let inside = |range: &Range<u128>| {
            let mut others = other.0.iter();
            others.any(|other| other.start <= range.start && range.end <= other.end)
        };
        self.0.iter().all(inside)
    }
}

/// What PRP entries describe.
#[derive(Default)]
struct Prps {
    /// Bytes of data.
    data: Bytes,
    /// Bytes of lists.
    lists: Bytes,
}

/// Follows the PRP entries of a transfer as the specification describes them.
fn follow(driver: &Driver, prp1: u64, prp2: u64, len: usize) -> Prps {
    let mut prps = Prps::default();
    let first = len.min(4096 - (prp1 % 4096) as usize);
    prps.data.add(prp1, first);
    let mut left = len - first;
    if left == 0 {
        return prps;
    }
    if left <= 4096 {
        prps.data.add(prp2, left);
        return prps;
    }
    let mut at = prp2;
    while left > 0 {
        if at > MEMORY as u64 - 8 {
            // Not accessible, nor is the rest of this page of the list.
            let room = 4096 - (at % 4096) as usize;
            prps.lists.add(at, room.min(left.div_ceil(4096) * 8));
            break;
        }
        prps.lists.add(at, 8);
        let entry = driver.memory(at, 8);
        let entry = u64::from_le_bytes(entry.try_into().unwrap());
        if at % 4096 == 4088 && left > 4096 {
            // The device follows only starts of pages. Anything else has ended by now.
            if entry % 4096 != 0 {
                break;
            }
            at = entry;
            continue;
        }
        let part = left.min(4096);
        prps.data.add(entry, part);
        left -= part;
        at += 8;
    }
    prps
}

/// An address: good, bad, or anywhere.
fn address() -> u64 {
    match fastrand::u8(..12) {
        0 => fastrand::u64(..),
        1 => u64::MAX - fastrand::u64(..0x2000),
        2 => MEMORY as u64 - fastrand::u64(..0x2000),
        3 => DATA + fastrand::u64(..0x10_0000),
        4 => DATA + fastrand::u64(..0x4_0000) * 4,
        _ => DATA + fastrand::u64(..0x100) * 4096,
    }
}

/// Writes a PRP list that is good but for some entries.
fn list(driver: &Driver) -> u64 {
    let bad = fastrand::u8(..4) == 0;
    let entries = [(); 64].map(|()| match bad && fastrand::u8(..8) == 0 {
        true => address(),
        false => DATA + fastrand::u64(..0x100) * 4096,
    });
    // Near the end of a page the list needs a second one.
    let room = fastrand::u64(1..64);
    let at = LISTS + 4096 - 8 * room;
    driver.list(at, &entries[..room as usize]);
    if room < 64 {
        driver.list(at + 8 * (room - 1), &[LISTS + 0x5000]);
        driver.list(LISTS + 0x5000, &entries);
    }
    at
}

/// Returns the bytes of blocks.
fn stored(slba: u64, blocks: u32) -> Range<u64> {
    let at = slba.wrapping_mul(BLOCK as u64);
    at..at.wrapping_add(u64::from(blocks) * BLOCK as u64)
}

fn command(driver: &Driver) -> Entry {
    let blocks = match fastrand::u8(..4) {
        0 => fastrand::u32(1..9),
        1 => fastrand::u32(..) & 0xffff,
        _ => fastrand::u32(1..257),
    };
    let slba = match fastrand::u8(..8) {
        0 => fastrand::u64(..),
        1 => BLOCKS - fastrand::u64(..300),
        _ => fastrand::u64(..BLOCKS - 300),
    };
    let opcode = [0, 1, 1, 2, 2, 2, 5, 8, 9][fastrand::usize(..9)];
    let mut entry = Entry::blocks(opcode, slba, blocks);
    entry.prp1 = address();
    entry.prp2 = match fastrand::u8(..4) {
        0 => address(),
        _ => list(driver),
    };
    if opcode == 9 {
        entry.dwords = [fastrand::u32(..256), fastrand::u32(..8), 0, 0, 0, 0];
    }
    if fastrand::u8(..16) == 0 {
        entry.nsid = fastrand::u32(..4);
    }
    entry
}

/// The bytes that a command may access: those that it reads and writes in guest memory, those of the storage that it
/// reads and writes.
#[derive(Default)]
struct Reach {
    read: Bytes,
    written: Bytes,
    loaded: Range<u64>,
    stored: Vec<Range<u64>>,
    /// The bytes of its lists.
    lists: Bytes,
    /// The bytes of its data.
    data: Bytes,
}

fn reach(driver: &Driver, entry: &Entry) -> Reach {
    let mut reach = Reach::default();
    let slba = u64::from(entry.dwords[0]) | (u64::from(entry.dwords[1]) << 32);
    let blocks = (entry.dwords[2] & 0xffff) + 1;
    let range = stored(slba, blocks);
    let ranges = (entry.dwords[0] & 0xff) as usize + 1;
    let len = match entry.opcode {
        1 | 2 | 5 => blocks as usize * BLOCK,
        9 => ranges * 16,
        _ => 0,
    };
    if len > 0 && len <= 128 << 10 {
        let prps = follow(driver, entry.prp1, entry.prp2, len);
        (reach.lists, reach.data) = (prps.lists, prps.data);
    }
    reach.read = reach.lists.clone();
    match entry.opcode {
        1 => {
            reach.read.extend(&reach.data);
            reach.stored.push(range);
        }
        2 => {
            reach.written = reach.data.clone();
            reach.loaded = range;
        }
        5 => {
            reach.read.extend(&reach.data);
            reach.loaded = range;
        }
        8 => reach.stored.push(range),
        9 => {
            reach.read.extend(&reach.data);
            // The ranges are in guest memory. They may lie in any page of it.
            reach.stored = dsm(driver, entry, ranges);
        }
        _ => {}
    }
    reach
}

/// Returns the ranges of a Dataset Management command, as far as they can be read.
fn dsm(driver: &Driver, entry: &Entry, ranges: usize) -> Vec<Range<u64>> {
    let mut bytes = Vec::new();
    let first = 4096 - (entry.prp1 % 4096);
    for i in 0..16 * ranges as u64 {
        let at = match i < first {
            true => entry.prp1.wrapping_add(i),
            false => entry.prp2.wrapping_add(i - first),
        };
        if at >= MEMORY as u64 {
            break;
        }
        bytes.push(driver.memory(at, 1)[0]);
    }
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
    let range = |range: &[u8]| stored(number(&range[8..]), (number(&range[..8]) >> 32) as u32);
    bytes.chunks_exact(16).map(range).collect()
}

#[test]
fn commands_reach_what_they_describe_and_nothing_else() {
    let mut driver = Driver::with_queues(1);
    driver.fill(0, BLOCKS as usize);
    let (mut done, mut slot) = ([0_u32; 256], 0);
    let mut failed = BTreeSet::new();
    for number in 0..6000 {
        let entry = command(&driver);
        if entry.opcode == 9 && entry.prp1 < MEMORY as u64 - 4096 {
            // Ranges that are legal, most of the time.
            for i in 0..256 {
                let blocks = fastrand::u32(..8).to_le_bytes();
                let slba = fastrand::u64(..BLOCKS + 1).to_le_bytes();
                let at = entry.prp1 + 16 * i;
                if at + 16 <= MEMORY as u64 && at >= DATA {
                    driver.poke(at, &[&[0; 4], blocks.as_slice(), &slba].concat());
                }
            }
        }
        let reach = reach(&driver, &entry);
        driver.accesses();
        let result = driver.io(entry);
        let (mut read, mut written) = (Bytes::default(), Bytes::default());
        let (mut loaded, mut stored) = (0, 0);
        for access in driver.accesses() {
            let what = || format!("command {number}, {:#x}, {access:x?}", entry.opcode);
            match access {
                Access::Read(at, 64) if at == sq_base(1) + 64 * slot => {}
                Access::Write(at, 16) if at == cq_base(1) + 16 * slot => {}
                Access::Write(at, 1) if at == cq_base(1) + 16 * slot + 14 => {}
                Access::Read(at, len) => read.add(at, len),
                Access::Write(at, len) => written.add(at, len),
                Access::Load(at, len) => {
                    assert!(reach.loaded.start <= at, "{}", what());
                    assert!(at + len as u64 <= reach.loaded.end, "{}", what());
                    loaded += len;
                }
                Access::Store(at, len) => {
                    let end = at + len as u64;
                    let mut ranges = reach.stored.iter();
                    let inside = ranges.any(|range| range.start <= at && end <= range.end);
                    assert!(inside, "{}", what());
                    stored += len;
                }
            }
        }
        slot = (slot + 1) % u64::from(ENTRIES);
        assert!(read.is_subset(&reach.read), "command {number}: reads");
        assert!(
            written.is_subset(&reach.written),
            "command {number}: writes"
        );
        let len: usize = (reach.loaded.end - reach.loaded.start) as usize;
        match (entry.opcode, result) {
            (opcode, 0) => {
                done[usize::from(opcode)] += 1;
                match opcode {
                    1 => assert!(read == reach.read),
                    2 => assert!(written == reach.data && loaded == len),
                    5 => assert!(read == reach.read && loaded == len),
                    0 => assert!(read.is_empty() && stored == 0),
                    _ => {}
                }
            }
            (_, result) => {
                failed.insert(result);
                let early = [
                    Status::InvalidField,
                    Status::InvalidNamespace,
                    Status::InvalidPrpOffset,
                ];
                if early.map(status).contains(&result) {
                    // Refused before anything of it was touched.
                    let lists = read.is_subset(&reach.lists);
                    assert!(lists && written.is_empty() && loaded + stored == 0);
                }
            }
        }
    }
    for opcode in [0, 1, 2, 8, 9] {
        assert!(done[opcode] > 20, "{} of {opcode:#x}", done[opcode]);
    }
    for expected in [
        Status::InvalidField,
        Status::InvalidNamespace,
        Status::InvalidPrpOffset,
        Status::LbaOutOfRange,
        Status::DataTransferError,
        Status::CompareFailure,
    ] {
        assert!(failed.contains(&status(expected)), "{expected:?}");
    }
}

#[test]
fn admin_commands_write_their_data_and_nothing_else() {
    let mut driver = Driver::new();
    // Identify, and log pages of 256 to 4096 bytes from an offset on.
    let pages = PAGES
        .iter()
        .flat_map(|page| [0, 4, 200].map(|first| (page, first)));
    let logs = pages.map(|(page, first)| {
        let len = page.size - first as usize;
        let dwords = (len / 4 - 1) as u32;
        (2, u32::from(page.id) | (dwords << 16), first, len)
    });
    let identify = (0..4).map(|cns| (6, cns, 0, 4096));
    let mut slot = 0;
    for (opcode, dw10, first, len) in identify.chain(logs) {
        for offset in [0, 4, 2048, 4092] {
            let mut entry = Entry::admin(opcode, dw10, 0);
            entry.nsid = match (opcode, dw10) {
                (2, _) => 0xffff_ffff,
                (_, 0 | 3) => 1,
                _ => 0,
            };
            entry.prp1 = DATA + offset;
            entry.prp2 = DATA + 0x5000;
            entry.dwords[2] = first;
            let expected = follow(&driver, entry.prp1, entry.prp2, len).data;
            driver.accesses();
            assert_eq!(driver.admin(entry).status, 0);
            let mut written = Bytes::default();
            for access in driver.accesses() {
                match access {
                    Access::Read(at, 64) if at == sq_base(0) + 64 * slot => {}
                    Access::Write(at, 16) if at == cq_base(0) + 16 * slot => {}
                    Access::Write(at, 1) if at == cq_base(0) + 16 * slot + 14 => {}
                    Access::Write(at, len) => written.add(at, len),
                    // The identity of the controller.
                    Access::Load(at, 16) | Access::Store(at, 16) if at == BLOCKS * 512 => {}
                    other => panic!("{opcode:#x}, {dw10:#x}: {other:x?}"),
                }
            }
            assert!(written == expected, "{opcode:#x}, {dw10:#x}, {offset}");
            slot = (slot + 1) % u64::from(ENTRIES);
        }
    }
}
