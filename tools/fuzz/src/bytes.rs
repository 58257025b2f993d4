// SPDX-License-Identifier: GPL-2.0

//! Bytes from a seed.

use fastrand::Rng;

/// Makes `len` bytes: zeroes, random bytes or, most often, small numbers of 4 bytes.
pub(crate) fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = Rng::with_seed(seed);
    let mut out = vec![0; len];
    match seed % 4 {
        0 => {}
        1 => rng.fill(&mut out),
        // Small numbers of 4 bytes.
        _ => {
            for word in out.chunks_exact_mut(4) {
                let value = match rng.u32(0..4) {
                    0 => 0,
                    1 => rng.u32(0..8),
                    2 => 1 << rng.u32(0..32),
                    _ => rng.u32(..) >> rng.u32(0..32),
                };
                word.copy_from_slice(&value.to_ne_bytes());
            }
        }
    }
    out
}
