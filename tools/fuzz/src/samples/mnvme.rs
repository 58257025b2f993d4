// SPDX-License-Identifier: GPL-2.0

//! The NVMe controller `mnvme`: registers, doorbells, and commands whose data PRP entries describe.
//!
//! Offsets in the memory for devices:
//!
//! ```text
//! 0x4000    PRP lists, and ranges of Dataset Management
//! 0x8000    the submission queue 0, its completion queue 0x1000 behind it; queue 1 is 0x2000 further, and so on
//! 0x10000   data
//! ```

use std::thread;
use std::time::Duration;

use fastrand::Rng;
use mnvme::{Command, Disk};
use mnvme_model::command::{ADMIN as ADMIN_COMMANDS, NVM};
use mnvme_model::queue::COMPLETION_SIZE;
use mnvme_model::{regs, PAGE};
use vfio_client::{Device, Mapping, Node};

use crate::domain::{GROUND, IOVA};
use crate::ended::{Ended, Result};
use crate::ground::{part, scribble};

/// Registers, in the order of the device's table.
pub(crate) const REGISTERS: &[&str] = &[
    "CAP", "VS", "INTMS", "INTMC", "CC", "CSTS", "AQA", "ASQ", "ACQ",
];
/// The doorbells of a queue pair.
pub(crate) const DOORBELLS: &[&str] = &["sq", "cq"];
/// Admin commands, in the order of the device's table.
pub(crate) const ADMIN: &[&str] = &[
    "delete_sq",
    "create_sq",
    "get_log_page",
    "delete_cq",
    "create_cq",
    "identify",
    "abort",
    "set_features",
    "get_features",
    "async_event_request",
];
/// I/O commands, in the order of the device's table.
pub(crate) const IO: &[&str] = &[
    "flush",
    "write",
    "read",
    "compare",
    "write_zeroes",
    "dataset_management",
];

/// The places in memory.
const LIST: u64 = 0x4000;
const QUEUE: u64 = 0x8000;
const DATA: u64 = 0x1_0000;
/// Queues that have a place of their own.
const PLACES: u64 = 4;
/// The end of the lists.
const LIST_END: u64 = QUEUE;
/// Bytes of the smallest namespace, and its last block.
const SMALLEST: u64 = 64 << 20;
const LAST: u64 = SMALLEST / mnvme_model::BLOCK as u64 - 1;

/// Values of registers: of `CC`, `AQA`, `ASQ` and `ACQ`, valid and not.
pub(crate) const VALUES: &[u64] = &[
    0,
    1,
    0x46_0001,
    0x46_0001,
    0x46_0000,
    0x46_4001,
    0x46_8000,
    0x46_0011,
    0x46_0081,
    0x36_0001,
    0x1ff,
    0x3f_000f,
    0x0f_0001,
    0x01_0001,
    0x0fff_0fff,
    IOVA + QUEUE,
    IOVA + QUEUE + 0x1000,
    IOVA + GROUND - 0x1000,
    0x1000_0000,
    u64::MAX - 0xfff,
    u64::MAX,
];
/// Namespaces of admin commands: some concern none, some all, some the only one.
pub(crate) const NAMESPACES: &[u64] = &[0, 0, 0, 1, 1, 2, 0xffff_ffff];
/// Numbers of queues.
pub(crate) const QUEUES: &[u64] = &[0, 1, 1, 1, 2, 2, 3, 8, 9, 511];
/// PRP entries: data, offsets that are valid and not, lists, the queues themselves, and memory that is not mapped.
pub(crate) const PRPS: &[u64] = &[
    0,
    IOVA + DATA,
    IOVA + DATA,
    IOVA + DATA + 0x1000,
    IOVA + DATA + 0x200,
    IOVA + DATA + 0xffc,
    IOVA + DATA + 2,
    IOVA + LIST,
    IOVA + LIST,
    IOVA + LIST + 0xff8,
    IOVA + LIST + 0xff0,
    IOVA + LIST + 4,
    IOVA + LIST + 0x1000,
    IOVA + QUEUE,
    IOVA + QUEUE + 0x1000,
    IOVA + QUEUE + 0x3000,
    IOVA + GROUND - 0x1000,
    IOVA + GROUND,
    0x200_0000,
    0x200_1000,
    0x1000_0000,
    1 << 63,
    u64::MAX - 0xfff,
    u64::MAX - 3,
];
/// Dwords of admin commands: numbers and sizes of queues, what to identify, log pages, features and their values.
pub(crate) const DWORDS: &[u64] = &[
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
    9,
    0xb,
    0x0001_0001,
    0x0001_0003,
    0x0002_0001,
    0x0002_0003,
    0x000f_0001,
    0x003f_0001,
    0x000f_0002,
    0x003f_0002,
    0x03ff_0003,
    0x0400_0001,
    0x0101_0001,
    0x007f_0002,
    0x007f_0003,
    0x03ff_0005,
    0x8000_0004,
    0x0000_012c,
    0x0000_0157,
    0xffff_ffff,
];
/// First blocks. Those with bit 34 make a Dataset Management command deallocate.
pub(crate) const BLOCKS: &[u64] = &[
    0,
    0,
    1,
    8,
    9,
    2048,
    LAST - 7,
    LAST,
    LAST + 1,
    0x4_0000_0000,
    0x4_0000_0003,
    0x4_0000_00ff,
    u64::MAX,
];
/// Numbers of blocks, minus 1, and flags above them.
pub(crate) const COUNTS: &[u64] = &[
    0,
    0,
    1,
    6,
    7,
    8,
    15,
    16,
    63,
    127,
    254,
    255,
    256,
    0xffff,
    0x4000_0007,
    0xffff_ffff,
];
/// Where lists begin: at the start of a page, and at its end, so that they continue in the next one.
pub(crate) const LISTS: &[u64] = &[
    LIST,
    LIST,
    LIST + 0xff0,
    LIST + 0xff8,
    LIST + 0x1000,
    LIST + 0x1ff8,
    LIST + 0x2000,
    LIST + 0x3008,
];

/// Returns the offset in memory of a submission queue; its completion queue is a page further.
fn place(queue: u64) -> u64 {
    QUEUE + queue % PLACES * 2 * PAGE as u64
}

/// Writes a register and reads it.
pub(crate) fn register(device: &Node, number: u64, value: u64) -> Result {
    let row = regs::REGISTERS[(number % REGISTERS.len() as u64) as usize];
    let width = row.width as usize;
    let written = device.pwrite(row.offset, &value.to_le_bytes()[..width]);
    let mut out = [0; 8];
    device.pread(row.offset, &mut out[..width])?;
    Ok(written? as u64)
}

/// Writes a doorbell.
pub(crate) fn doorbell(device: &Node, which: u64, queue: u64, value: u64) -> Result {
    let at = regs::DOORBELLS + queue % 512 * 8 + which % 2 * 4;
    Ok(device.pwrite(at, &(value as u32).to_le_bytes())? as u64)
}

/// Writes an admin command: slot, command, flags, namespace, two PRP entries, dwords 10 to 12.
pub(crate) fn admin(ground: &Mapping, args: &[u64]) -> u64 {
    let [slot, command, flags, nsid, prp1, prp2, dword10, dword11, dword12] = *args else {
        return 0;
    };
    let row = ADMIN_COMMANDS.get(command as usize);
    let command = Command {
        opcode: row.map_or(command as u8, |row| row.opcode),
        nsid: nsid as u32,
        prp1,
        prp2,
        dwords: [dword10 as u32, dword11 as u32, dword12 as u32, 0, 0, 0],
    };
    put(ground, 0, slot, &command, flags as u8)
}

/// Writes an I/O command: queue, slot, command, namespace, two PRP entries, first block, dword 12.
pub(crate) fn io(ground: &Mapping, args: &[u64]) -> u64 {
    let [queue, slot, command, nsid, prp1, prp2, block, dword12] = *args else {
        return 0;
    };
    let row = NVM.get(command as usize);
    let command = Command {
        opcode: row.map_or(command as u8, |row| row.opcode),
        nsid: nsid as u32,
        prp1,
        prp2,
        dwords: [block as u32, (block >> 32) as u32, dword12 as u32, 0, 0, 0],
    };
    put(ground, queue, slot, &command, 0)
}

/// Writes a command into a queue at its place. The identifier has the numbers of queue and slot.
fn put(ground: &Mapping, queue: u64, slot: u64, command: &Command, flags: u8) -> u64 {
    let slot = slot % 64;
    let mut bytes = command.encode(((queue << 8) | slot) as u16);
    bytes[1] = flags;
    scribble(ground, place(queue) + slot * bytes.len() as u64, &bytes)
}

/// Writes a PRP list, mostly with valid entries. Behind the end of a page it continues in the next one.
pub(crate) fn list(ground: &Mapping, offset: u64, entries: u64, seed: u64) -> u64 {
    let rng = &mut Rng::with_seed(seed);
    let mut bytes = Vec::new();
    for entry in 0..entries.min(1024) {
        let at = offset.wrapping_add(8 * entry);
        let next = at % PAGE as u64 == PAGE as u64 - 8 && entry + 1 < entries;
        let page = rng.u64(0..(GROUND - DATA) / PAGE as u64) * PAGE as u64;
        let prp = match rng.u32(0..60) {
            0 => rng.u64(..) >> rng.u32(0..64),
            1 => IOVA + DATA + page + rng.u64(1..PAGE as u64),
            2 => IOVA + rng.u64(LIST / PAGE as u64..LIST_END / PAGE as u64) * PAGE as u64,
            3 => IOVA + GROUND + page,
            _ if next => IOVA.wrapping_add(at + 8),
            _ => IOVA + DATA + page,
        };
        bytes.extend(prp.to_le_bytes());
    }
    scribble(ground, offset, &bytes)
}

/// Writes ranges of a Dataset Management command: with an even seed long ones, all valid, so that a save can find the
/// command in progress; otherwise short ones, most of them valid.
pub(crate) fn ranges(ground: &Mapping, offset: u64, count: u64, seed: u64) -> u64 {
    let rng = &mut Rng::with_seed(seed);
    let mut bytes = Vec::new();
    let long = seed % 2 == 0;
    for _ in 0..count.min(256) {
        let (blocks, first) = if long {
            (rng.u32(..LAST as u32 / 2), rng.u64(..LAST / 2))
        } else {
            let blocks = match rng.u32(0..20) {
                0 => rng.u32(..),
                1 => 0,
                _ => rng.u32(..5000),
            };
            let first = match rng.u32(0..20) {
                0 => rng.u64(..) >> rng.u32(0..64),
                1 => LAST - rng.u64(0..2),
                _ => rng.u64(0..LAST - 5000),
            };
            (blocks, first)
        };
        bytes.extend(rng.u32(..).to_le_bytes());
        bytes.extend(blocks.to_le_bytes());
        bytes.extend(first.to_le_bytes());
    }
    scribble(ground, offset, &bytes)
}

/// Waits at most 20 ms for an entry of a completion queue at its place, which must have been cleared.
pub(crate) fn wait(ground: &Mapping, queue: u64, entry: u64) -> Result {
    let at = place(queue) + PAGE as u64 + entry % 64 * COMPLETION_SIZE as u64;
    let (at, len) = part(ground, at, COMPLETION_SIZE as u64);
    for _ in 0..200 {
        if ground.to_vec(at, len).iter().any(|byte| *byte != 0) {
            return Ok(0);
        }
        thread::sleep(Duration::from_micros(100));
    }
    Err(Ended::Empty)
}

/// Writes and reads the namespace of a device that was just reset, and discards what is in the smallest one: a reset
/// keeps that, and it stays charged to whoever wrote it.
pub(crate) fn works(device: &Device) -> std::result::Result<(), String> {
    let of = |e: mnvme::Error| e.to_string();
    let mut disk = Disk::open(device).map_err(of)?;
    // Three pages need a list.
    let data: Vec<u8> = (0..3 * PAGE).map(|i| (i / 7) as u8).collect();
    let at = SMALLEST - data.len() as u64;
    if disk.size() < SMALLEST {
        return Err(format!("the namespace has {} bytes", disk.size()));
    }
    let mut found = vec![0; data.len()];
    disk.write(at, &data).map_err(of)?;
    disk.read(at, &mut found).map_err(of)?;
    if found != data {
        return Err("blocks do not read as they were written".into());
    }
    for first in (0..SMALLEST).step_by(Disk::ZERO_MAX) {
        disk.zero(first, Disk::ZERO_MAX).map_err(of)?;
    }
    disk.read(at, &mut found).map_err(of)?;
    if found.iter().any(|byte| *byte != 0) {
        return Err("blocks that were set to 0 do not read 0".into());
    }
    disk.close().map_err(of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_the_devices() {
        let names: Vec<_> = regs::REGISTERS.iter().map(|row| row.name).collect();
        assert_eq!(names, REGISTERS);
        /// `DeleteSq` in the form `delete_sq`.
        fn word(name: String) -> String {
            let mut out = String::new();
            for c in name.chars() {
                if c.is_uppercase() && !out.is_empty() {
                    out.push('_');
                }
                out.push(c.to_ascii_lowercase());
            }
            out
        }
        let admin = ADMIN_COMMANDS.iter();
        let admin: Vec<_> = admin
            .map(|row| word(format!("{:?}", row.command)))
            .collect();
        assert_eq!(admin, ADMIN);
        let io = NVM.iter();
        let io: Vec<_> = io.map(|row| word(format!("{:?}", row.command))).collect();
        assert_eq!(io, IO);
    }

    #[test]
    fn commands_are_at_their_places() {
        let ground = Mapping::anonymous(GROUND as usize).unwrap();
        let identify = ADMIN.iter().position(|word| *word == "identify").unwrap() as u64;
        assert_eq!(
            admin(&ground, &[2, identify, 0, 1, 0x11_0000, 0, 1, 0, 0]),
            64
        );
        let at = (QUEUE + 2 * 64) as usize;
        assert_eq!(ground.to_vec(at, 8), [6, 0, 2, 0, 1, 0, 0, 0]);
        assert_eq!(ground.to_vec(at + 24, 8), 0x11_0000u64.to_le_bytes());
        let block = 0x4_0000_0003;
        assert_eq!(io(&ground, &[1, 3, 2, 1, 8, 16, block, 7]), 64);
        let at = (QUEUE + 0x2000 + 3 * 64) as usize;
        assert_eq!(ground.to_vec(at, 8), [2, 0, 3, 1, 1, 0, 0, 0]);
        let dwords = [3, 0, 0, 0, 4, 0, 0, 0, 7, 0, 0, 0];
        assert_eq!(ground.to_vec(at + 40, 12), dwords);
        // A command that the table does not have.
        assert_eq!(io(&ground, &[1, 0, 0x7f, 1, 0, 0, 0, 0]), 64);
        assert_eq!(ground.to_vec((QUEUE + 0x2000) as usize, 1), [0x7f]);
    }

    #[test]
    fn a_list_continues_in_the_next_page() {
        let ground = Mapping::anonymous(GROUND as usize).unwrap();
        let at = LIST + 0xff8;
        let mut continued = 0;
        for seed in 0..100 {
            list(&ground, at, 3, seed);
            let next = IOVA + LIST + 0x1000;
            continued += u32::from(ground.to_vec(at as usize, 8) == next.to_le_bytes());
        }
        assert!(continued > 80, "{continued}");
    }

    #[test]
    fn ranges_of_an_even_seed_are_valid() {
        let ground = Mapping::anonymous(GROUND as usize).unwrap();
        let invalid = |seed| {
            assert_eq!(ranges(&ground, LIST, 256, seed), 4096);
            let bytes = ground.to_vec(LIST as usize, 4096);
            let bad = |range: &&[u8]| {
                let blocks = u32::from_le_bytes(range[4..8].try_into().unwrap());
                let first = u64::from_le_bytes(range[8..16].try_into().unwrap());
                let end = first.checked_add(blocks.into());
                end.is_none_or(|end| end > LAST + 1)
            };
            bytes.chunks(16).filter(bad).count()
        };
        assert_eq!((invalid(2), invalid(4)), (0, 0));
        assert!((1..64).contains(&invalid(3)));
    }

    #[test]
    fn nothing_is_written_outside() {
        let ground = Mapping::anonymous(8192).unwrap();
        for offset in [0, 8191, 8192, u64::MAX] {
            assert!(list(&ground, offset, 2000, 1) <= 8192);
            assert!(ranges(&ground, offset, 2000, 1) <= 4096);
        }
        for queue in [0, 1, 511, u64::MAX] {
            assert!(io(&ground, &[queue, u64::MAX, 1, 1, 0, 0, 0, 0]) <= 64);
        }
    }
}
