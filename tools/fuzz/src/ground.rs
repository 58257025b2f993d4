// SPDX-License-Identifier: GPL-2.0

//! The memory for devices, with rings, descriptors and lists in it.

use fastrand::Rng;
use mdma::desc::{Op, DESCRIPTOR_SIZE, DST_KEY, DST_LIST, OPERATIONS, SRC_KEY, SRC_LIST};
use mdma::list::{DEVICE, ENTRY_SIZE};
use vfio_client::Mapping;

use crate::grammar::{GROUND, IOVA};

/// Clips a range to the mapping.
pub(crate) fn part(mapping: &Mapping, offset: u64, size: u64) -> (usize, usize) {
    let len = mapping.len() as u64;
    let offset = offset % len;
    (offset as usize, size.min(len - offset) as usize)
}

/// Clears the part of the memory that programs usually change.
pub(crate) fn clean(ground: &Mapping) {
    ground.fill(0, 64 << 10, 0);
}

/// Writes `data` to the memory; returns how much fits.
pub(crate) fn scribble(ground: &Mapping, offset: u64, data: &[u8]) -> u64 {
    let (offset, len) = part(ground, offset, data.len() as u64);
    ground.write(offset, &data[..len]);
    len as u64
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
    let value = match OPERATIONS.get(op as usize).map(|row| row.op) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_written_outside() {
        let ground = Mapping::anonymous(8192).unwrap();
        for offset in [0, 8191, 8192, u64::MAX] {
            assert!(scribble(&ground, offset, &[1; 100]) <= 100);
            assert!(list(&ground, offset, 64, 1) <= 64 * 16);
        }
        assert_eq!(descriptor(&ground, &[63, 1, 0x18, 1, 2, 3, 4]), 64);
        assert_eq!(ground.to_vec(63 * 64, 8), [1, 0, 0, 0, 0x18, 0, 0, 0]);
        assert_eq!(ground.to_vec(63 * 64 + 48, 8), [4, 0, 0, 0, 4, 0, 0, 0]);
        clean(&Mapping::anonymous(GROUND as usize).unwrap());
    }
}
