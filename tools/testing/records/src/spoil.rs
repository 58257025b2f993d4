// SPDX-License-Identifier: GPL-2.0

//! Corruption of a saved stream before it is loaded: of raw bytes, and of single records with the rest of the stream
//! made consistent again.

use fastrand::Rng;
use migration::stream::{FLAG_AGAIN, FLAG_START};

use crate::{Record, Stream};

/// The names of the ways.
pub const WAYS: &[&str] = &[
    "bits", "cut", "bytes", "header", "payload", "state", "remove", "repeat", "swap", "insert",
    "splice", "counts", "identity", "again", "field",
];

/// Corrupts a stream in the way of this index in [`WAYS`].
pub fn spoil(bytes: &mut Vec<u8>, how: u64, seed: u64) {
    let rng = &mut Rng::with_seed(seed);
    let name = WAYS[(how % WAYS.len() as u64) as usize];
    match name {
        "bits" => {
            for _ in 0..rng.u32(1..4) {
                flip(rng, bytes);
            }
        }
        "cut" => bytes.truncate(rng.usize(0..=bytes.len())),
        "bytes" => {
            let at = rng.usize(0..=bytes.len());
            let more: Vec<u8> = (0..rng.u32(1..100)).map(|_| rng.u8(..)).collect();
            match rng.bool() {
                true => drop(bytes.splice(at..at, more)),
                false => {
                    let end = bytes.len().min(at + more.len());
                    bytes.splice(at..end, more);
                }
            }
        }
        _ => {
            // Bytes that are no longer a stream can still be corrupted one by one.
            match Stream::parse(bytes) {
                Ok(mut stream) if !stream.records.is_empty() => {
                    by_records(rng, &mut stream, name);
                    *bytes = stream.bytes();
                }
                _ => flip(rng, bytes),
            }
        }
    }
}

fn flip(rng: &mut Rng, bytes: &mut [u8]) {
    if !bytes.is_empty() {
        // The first records matter as much as all memory after them.
        let end = match rng.bool() {
            true => bytes.len().min(256),
            false => bytes.len(),
        };
        bytes[rng.usize(0..end)] ^= 1 << rng.u32(0..8);
    }
}

/// Sets a number of any width at any place: the fields of a device have no gaps between them.
fn set_field(rng: &mut Rng, payload: &mut [u8]) {
    let width = 1 << rng.u32(0..4);
    let Some(last) = payload.len().checked_sub(width) else {
        return;
    };
    let at = rng.usize(0..=last);
    let field = &mut payload[at..at + width];
    let mut bytes = [0; 8];
    bytes[..width].copy_from_slice(field);
    let old = u64::from_le_bytes(bytes);
    let new = match rng.u32(0..6) {
        0 => rng.u64(..) >> rng.u32(0..64),
        1 => u64::MAX,
        2 => 0,
        3 => old ^ (1 << rng.u32(0..8 * width as u32)),
        4 => old.wrapping_add(1),
        _ => old.wrapping_sub(1),
    };
    field.copy_from_slice(&new.to_le_bytes()[..width]);
}

fn by_records(rng: &mut Rng, stream: &mut Stream, name: &str) {
    let count = stream.records.len();
    let at = rng.usize(0..count);
    match name {
        "header" => {
            let header = &mut stream.records[at].header;
            let number = rng.u64(..) >> rng.u32(0..64);
            match rng.u32(0..4) {
                0 => header.kind = (number % 8) as u16,
                1 => header.flags ^= 1 << (number % 16),
                2 => header.position = number,
                _ => header.position ^= 1 << (number % 64),
            }
        }
        "payload" => {
            let payload = &mut stream.records[at].payload;
            match rng.u32(0..4) {
                0 => payload.truncate(rng.usize(0..=payload.len())),
                1 => payload.resize(payload.len() + rng.usize(1..5000), 0),
                _ => flip(rng, payload),
            }
        }
        "state" | "identity" => {
            let at = match name {
                "state" => stream.records.iter().position(|r| r.header.kind == 4),
                _ => Some(0),
            };
            let Some(at) = at else { return };
            let payload = &mut stream.records[at].payload;
            for _ in 0..rng.u32(1..3) {
                if payload.len() < 8 {
                    break;
                }
                // A multiple of 4 bytes, to reach what a single bit does not.
                let field = rng.usize(0..payload.len() / 4) * 4;
                let value = match rng.u32(0..4) {
                    0 => rng.u32(..) >> rng.u32(0..32),
                    1 => u32::MAX,
                    2 => 0,
                    _ => payload[field..field + 4]
                        .first_chunk()
                        .map_or(0, |b| u32::from_le_bytes(*b))
                        .wrapping_add(rng.u32(0..3).wrapping_sub(1)),
                };
                payload[field..field + 4].copy_from_slice(&value.to_le_bytes());
            }
        }
        "field" => {
            let device = stream.records.iter_mut().find(|r| r.header.kind == 4);
            if let Some(record) = device {
                for _ in 0..rng.u32(1..3) {
                    set_field(rng, &mut record.payload);
                }
            }
        }
        "remove" => drop(stream.records.remove(at)),
        "repeat" => {
            let record = stream.records[at].clone();
            stream.records.insert(rng.usize(0..=count), record);
        }
        "swap" => stream.records.swap(at, rng.usize(0..count)),
        "insert" => {
            let payload = (0..rng.usize(0..100)).map(|_| rng.u8(..)).collect();
            let record = Record::new(rng.u16(0..10), rng.u64(0..3), payload);
            let record = match rng.bool() {
                true => record.optional(),
                false => record,
            };
            stream.records.insert(at, record);
        }
        "splice" => {
            let to = rng.usize(0..count);
            let payload = stream.records[at].payload.clone();
            stream.records[to].payload = payload;
        }
        "counts" => {
            // The closing record alone, with a correct checksum: it is not sealed.
            if let Some(end) = stream.records.last_mut() {
                flip(rng, &mut end.payload);
                end.header.payload_crc = crate::crc(&end.payload);
            }
            return;
        }
        _ => {
            // A repeated buffer, at its right place or elsewhere.
            let mut record = stream.records[at].clone();
            record.header.flags |= FLAG_START;
            stream.records[at].header.flags |= FLAG_START;
            record.header.flags |= FLAG_AGAIN;
            let to = match rng.bool() {
                true => at + 1,
                false => rng.usize(0..=count),
            };
            stream.records.insert(to, record);
            return;
        }
    }
    match rng.u32(0..4) {
        0 => stream.seal_numbered(),
        _ => stream.seal(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_on_anything() {
        let mut rng = Rng::with_seed(3);
        let stream = Stream {
            records: vec![
                Record::new(1, 0, vec![1; 56]),
                Record::new(2, 4096, vec![2; 4096]),
                Record::new(4, 0, vec![3; 152]),
                Record::new(5, 0, vec![0; 40]),
            ],
        };
        let mut whole = stream.clone();
        whole.seal();
        for how in 0..WAYS.len() as u64 {
            let mut changed = 0;
            for _ in 0..200 {
                for bytes in [whole.bytes(), Vec::new(), vec![7; 33]] {
                    let seed = rng.u64(..);
                    let (mut a, mut b) = (bytes.clone(), bytes.clone());
                    spoil(&mut a, how, seed);
                    spoil(&mut b, how, seed);
                    assert_eq!(a, b);
                    changed += u32::from(a != bytes);
                }
            }
            assert!(changed > 100, "{}: {changed}", WAYS[how as usize]);
        }
    }

    #[test]
    fn every_byte_of_a_state_is_spoilt_alone() {
        let device = Record::new(4, 0, vec![0x55; 9]);
        let mut stream = Stream {
            records: vec![Record::new(1, 0, vec![1; 56]), device],
        };
        stream.seal();
        let how = WAYS.iter().position(|way| *way == "field").unwrap() as u64;
        let mut alone = [false; 9];
        for seed in 0..2000 {
            let mut bytes = stream.bytes();
            spoil(&mut bytes, how, seed);
            let spoilt = Stream::parse(&bytes).unwrap();
            assert_eq!(spoilt.records[0].payload, stream.records[0].payload);
            let pairs = spoilt.records[1].payload.iter().zip(&[0x55; 9]);
            let changed: Vec<_> = pairs.map(|(new, old)| new != old).collect();
            if let [only] = (0..9).filter(|n| changed[*n]).collect::<Vec<_>>()[..] {
                alone[only] = true;
            }
        }
        assert_eq!(alone, [true; 9]);
    }
}
