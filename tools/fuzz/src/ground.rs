// SPDX-License-Identifier: GPL-2.0

//! The memory for devices, which has their queues and lists in its first 64 KiB.

use vfio_client::Mapping;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::GROUND;

    #[test]
    fn nothing_is_written_outside() {
        let ground = Mapping::anonymous(8192).unwrap();
        for offset in [0, 8191, 8192, u64::MAX] {
            assert!(scribble(&ground, offset, &[1; 100]) <= 100);
        }
        clean(&Mapping::anonymous(GROUND as usize).unwrap());
    }
}
