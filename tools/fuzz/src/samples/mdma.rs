// SPDX-License-Identifier: GPL-2.0

//! The DMA engine `mdma`: registers, and a ring of descriptors with scatter lists.

use fastrand::Rng;
use mdma::desc::{Op, DESCRIPTOR_SIZE, DST_KEY, DST_LIST, SRC_KEY, SRC_LIST};
use mdma::list::{DEVICE, ENTRY_SIZE};
use mdma::regs::{self, Reg};
use mdma::{job, Mdma, Place, Queue};
use vfio_client::{Container, Device, DmaBuffer, Mapping, Node};

use crate::domain::{GROUND, IOVA};
use crate::ended::Result;
use crate::ground::scribble;
use crate::patience::PATIENCE;

/// Registers, in the order of the device's table.
pub(crate) const REGISTERS: &[&str] = &[
    "ID",
    "VERSION",
    "CAPS",
    "MEM_SIZE",
    "CONTROL",
    "STATUS",
    "ERROR",
    "ERROR_INDEX",
    "INT_CAUSE",
    "INT_MASK",
    "RING_BASE",
    "RING_ORDER",
    "COMPLETION_BASE",
    "HEAD",
    "TAIL",
    "JOBS_DONE",
    "BYTES_DONE",
    "SCRATCH",
    "THROTTLE",
    "REFUSED",
];
/// Operations of descriptors.
pub(crate) const OPERATIONS: &[&str] = &["nop", "copy", "fill", "crc32c", "register", "deregister"];

/// Bytes that the checking job moves.
const BYTES: u64 = 8192;

/// Writes a register and reads it.
pub(crate) fn register(device: &Node, number: u64, value: u64) -> Result {
    let row = &regs::REGISTERS[(number % regs::REGISTERS.len() as u64) as usize];
    write(device, row, value)
}

/// Writes the tail of the ring.
pub(crate) fn doorbell(device: &Node, tail: u64) -> Result {
    write(device, Reg::Tail.row(), tail)
}

fn write(device: &Node, row: &regs::Register, value: u64) -> Result {
    // A wait of a second after each unit would only cost time.
    let value = match row.offset == Reg::Throttle.row().offset {
        true if value <= u64::from(regs::MAX_THROTTLE_US) => value % 2000,
        _ => value,
    };
    let width = row.width as usize;
    let written = device.pwrite(row.offset, &value.to_le_bytes()[..width]);
    let mut out = [0; 8];
    device.pread(row.offset, &mut out[..width])?;
    Ok(written? as u64)
}

/// Writes a descriptor: slot in the ring, op, flags, src, dst, len, and the entries of both its lists, which are also
/// its keys.
pub(crate) fn descriptor(ground: &Mapping, args: &[u64]) -> u64 {
    let [slot, op, flags, src, dst, len, entries] = *args else {
        return 0;
    };
    let mut bytes = [0; DESCRIPTOR_SIZE];
    let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
    put(0, &(op as u32).to_le_bytes());
    put(4, &(flags as u32).to_le_bytes());
    let value = match mdma::desc::OPERATIONS.get(op as usize).map(|row| row.op) {
        // The access, mostly a valid one.
        Some(Op::Register) if entries % 7 != 3 => entries & 1,
        Some(Op::Deregister) => entries,
        _ => len ^ src,
    };
    for (at, value) in [(8, src), (16, dst), (24, len), (32, value)] {
        put(at, &value.to_le_bytes());
    }
    put(48, &(entries as u32).to_le_bytes());
    put(52, &(entries as u32).to_le_bytes());
    put(56, &(entries as u32).to_le_bytes());
    put(60, &(entries as u32).to_le_bytes());
    // A side without a list has no entries, and one without a key no key, unless the descriptor is invalid anyway.
    for (flag, at) in [(SRC_LIST, 48), (DST_LIST, 52), (SRC_KEY, 56), (DST_KEY, 60)] {
        let flag = u64::from(flag);
        if flags & flag == 0 && entries % 7 != 3 {
            put(at, &[0; 4]);
        }
    }
    scribble(ground, slot % 64 * DESCRIPTOR_SIZE as u64, &bytes)
}

/// Writes a scatter list, mostly with valid entries.
pub(crate) fn list(ground: &Mapping, offset: u64, entries: u64, seed: u64) -> u64 {
    let rng = &mut Rng::with_seed(seed);
    let mut bytes = Vec::new();
    for _ in 0..entries.min(512) {
        let device = rng.u32(0..3) == 0;
        let space = if device { 16 << 20 } else { GROUND - 65536 };
        let address = rng.u64(0..space) & !(rng.u64(0..2) * 4095);
        let address = match rng.u32(0..40) {
            0 => rng.u64(..) >> rng.u32(0..64),
            _ if device => address,
            _ => IOVA + 65536 + address % (GROUND - 65536),
        };
        let len: u32 = match rng.u32(0..40) {
            0 => 0,
            1 => rng.u32(..),
            2..=10 => 4096,
            _ => rng.u32(1..20_000),
        };
        let flags = match rng.u32(0..60) {
            0 => rng.u32(..),
            _ if device => DEVICE,
            _ => 0,
        };
        bytes.extend(address.to_le_bytes());
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
    }
    debug_assert_eq!(bytes.len() % ENTRY_SIZE, 0);
    scribble(ground, offset, &bytes)
}

/// Runs jobs on a device that was just reset, with memory at unused IOVAs.
pub(crate) fn works(container: &Container, device: &Device) -> std::result::Result<(), String> {
    let text = |e: vfio_client::Error| e.to_string();
    let of = |e: mdma::Error| e.to_string();
    let mdma = Mdma::open(device).map_err(of)?;
    let found = mdma.get(Reg::Id).map_err(of)?;
    if found != u64::from(regs::ID) {
        return Err(format!("its ID is {found:#x}"));
    }
    let memory = mdma.memory().map_err(of)?;
    let mut at_first = [1; 16];
    memory.read(0, &mut at_first).map_err(text)?;
    if at_first != [0; 16] {
        return Err("after a reset its memory does not read 0".into());
    }

    let buffer = DmaBuffer::new(container, 0x10_0000, BYTES as usize).map_err(text)?;
    let size = Queue::<vfio_client::Region, DmaBuffer>::size(2);
    let ring = DmaBuffer::new(container, 0x20_0000, size).map_err(text)?;
    let mut queue = Queue::new(mdma, ring, 2).map_err(of)?;
    for job in [
        job::fill(Place::Device(0), 0x0102_0304_0506_0708, BYTES),
        job::copy(Place::Device(0), Place::Guest(0x10_0000), BYTES),
    ] {
        queue.submit(&job).map_err(of)?;
        let completion = queue.wait(PATIENCE).map_err(of)?;
        if completion.error != 0 {
            return Err(format!("a job ended with error {}", completion.error));
        }
    }
    let expected = 0x0102_0304_0506_0708u64.to_le_bytes().repeat(1024);
    if buffer.to_vec(0, BYTES as usize) != expected {
        return Err("a copy differs from its source".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_the_devices() {
        let names: Vec<_> = regs::REGISTERS.iter().map(|row| row.name).collect();
        assert_eq!(names, REGISTERS);
        let operations: Vec<_> = mdma::desc::OPERATIONS
            .iter()
            .map(|row| row.name.to_lowercase())
            .collect();
        assert_eq!(operations, OPERATIONS);
    }

    #[test]
    fn nothing_is_written_outside() {
        let ground = Mapping::anonymous(8192).unwrap();
        for offset in [0, 8191, 8192, u64::MAX] {
            assert!(list(&ground, offset, 64, 1) <= 64 * 16);
        }
        assert_eq!(descriptor(&ground, &[63, 1, 0x18, 1, 2, 3, 4]), 64);
        assert_eq!(ground.to_vec(63 * 64, 8), [1, 0, 0, 0, 0x18, 0, 0, 0]);
        assert_eq!(ground.to_vec(63 * 64 + 48, 8), [4, 0, 0, 0, 4, 0, 0, 0]);
    }
}
