// SPDX-License-Identifier: GPL-2.0

//! A reader of streams, written from Documentation/stream.rst: it has all of the stream at once and keeps whole copies
//! where the real one counts.

use migration::stream::{Identity, Part};
use std::collections::BTreeMap;

/// What a device is after a load.
pub(crate) struct Loaded {
    pub(crate) memory: Vec<u8>,
    pub(crate) state: Vec<u8>,
    pub(crate) parts: BTreeMap<u32, Vec<u8>>,
}

/// What has been counted.
#[derive(Clone, Default)]
struct Counts {
    records: u64,
    memory: u64,
    zero: u64,
    state: Vec<u8>,
    parts: BTreeMap<u32, Vec<u8>>,
    /// The first 28 bytes of all headers.
    headers: Vec<u8>,
}

const OPTIONAL: u16 = 1;
const START: u16 = 2;
const AGAIN: u16 = 4;
const UNCHECKED: u16 = 8;

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("inside"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("inside"))
}

/// What a device of this identity and with these parts becomes; `None` for what is no stream for it.
pub(crate) fn read(identity: &Identity, parts: &[Part], stream: &[u8]) -> Option<Loaded> {
    let page = u64::from(identity.page_size);
    let mut memory = vec![0; identity.memory_size as usize];
    let mut counts = Counts::default();
    let mut start: Option<(Counts, Vec<u8>)> = None;
    let mut rest = stream;
    let mut ended = false;
    loop {
        if ended && rest.is_empty() {
            return Some(Loaded {
                memory,
                state: counts.state,
                parts: counts.parts,
            });
        }
        let (header, behind) = rest.split_at_checked(32)?;
        if u32_at(header, 28) != crc32c::crc32c(&header[..28]) {
            return None;
        }
        let (kind, flags) = (u16_at(header, 0), u16_at(header, 2));
        let (length, sequence, position) =
            (u32_at(header, 4), u64_at(header, 8), u64_at(header, 16));
        let (payload, behind) = behind.split_at_checked(length as usize)?;
        rest = behind;
        if flags & !(OPTIONAL | START | AGAIN | UNCHECKED) != 0 || flags & (AGAIN | START) == AGAIN
        {
            return None;
        }
        let checksum = match flags & UNCHECKED {
            0 => crc32c::crc32c(payload),
            // Only of device memory.
            _ if kind != 2 => return None,
            _ => 0,
        };
        if u32_at(header, 24) != checksum {
            return None;
        }

        let mut covered = header[..28].to_vec();
        covered[2] &= !(AGAIN as u8);
        // Another stream, whatever became of the one before it.
        if kind == 1 && sequence == 0 && flags & START != 0 {
            memory.fill(0);
            counts = Counts::default();
            start = None;
            ended = false;
        }
        if ended {
            return None;
        }
        if sequence != counts.records {
            // The record that the buffer began with, and no other.
            let (back, _) = start.as_ref().filter(|(_, first)| *first == covered)?;
            if flags & AGAIN == 0 {
                return None;
            }
            counts = back.clone();
        }
        // The beginning of the stream is the beginning of a buffer, whether it says so or not.
        if flags & START != 0 || start.is_none() {
            start = Some((counts.clone(), covered.clone()));
        }

        let range = |length: u64| -> Option<std::ops::Range<usize>> {
            let end = position.checked_add(length)?;
            let whole = length > 0 && position % page == 0 && length % page == 0;
            (whole && end <= identity.memory_size).then_some(position as usize..end as usize)
        };
        // Numbers count from the identity on, so it is the first, and no other has its number.
        if (kind == 1) != (sequence == 0) {
            return None;
        }
        match kind {
            1 => {
                if position != 0 || payload != identity.encode() {
                    return None;
                }
            }
            2 => {
                memory[range(u64::from(length))?].copy_from_slice(payload);
                counts.memory += u64::from(length);
            }
            3 => {
                if length != 8 {
                    return None;
                }
                let length = u64_at(payload, 0);
                memory[range(length)?].fill(0);
                counts.zero += length;
            }
            4 => {
                let end = counts.state.len() + payload.len();
                if position != counts.state.len() as u64
                    || payload.is_empty()
                    || end > identity.state_size_max as usize
                {
                    return None;
                }
                counts.state.extend(payload);
            }
            5 => {
                let mut expected = Vec::new();
                for number in [
                    counts.records,
                    counts.memory,
                    counts.zero,
                    counts.state.len() as u64,
                ] {
                    expected.extend(number.to_le_bytes());
                }
                expected.extend(crc32c::crc32c(&counts.headers).to_le_bytes());
                expected.extend([0; 4]);
                if position != 0 || payload != expected {
                    return None;
                }
                ended = true;
            }
            6 if parts.iter().any(|part| u64::from(part.number) == position) => {
                let part = parts
                    .iter()
                    .find(|part| u64::from(part.number) == position)?;
                if payload.is_empty() || length > part.size_max {
                    return None;
                }
                counts.parts.insert(part.number, payload.to_vec());
            }
            _ if flags & OPTIONAL == 0 => return None,
            _ => {}
        }
        counts.records += 1;
        counts.headers.extend(covered);
    }
}
