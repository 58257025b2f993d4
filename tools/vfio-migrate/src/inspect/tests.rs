// SPDX-License-Identifier: GPL-2.0

use super::*;
use migration::stream::{
    device_type, END_SIZE, FLAG_AGAIN, FLAG_OPTIONAL, FLAG_START, IDENTITY_SIZE,
};

const PAGE: usize = 4096;

fn identity() -> Identity {
    Identity {
        device_type: device_type("test"),
        device_version: 3,
        features: 0x5,
        memory_size: 1 << 20,
        page_size: PAGE as u32,
        state_size_max: 256,
    }
}

/// Puts records together by hand, as the format's table says, not with the code that the parser shares.
#[derive(Default)]
struct Stream {
    bytes: Vec<u8>,
    sequence: u64,
    digest: u32,
    memory: u64,
    zero: u64,
    state: u64,
    /// Where each record starts.
    starts: Vec<usize>,
}

fn crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

impl Stream {
    fn record(&mut self, kind: u16, flags: u16, position: u64, payload: &[u8]) {
        let mut h = Vec::new();
        h.extend(kind.to_le_bytes());
        h.extend(flags.to_le_bytes());
        h.extend((payload.len() as u32).to_le_bytes());
        h.extend(self.sequence.to_le_bytes());
        h.extend(position.to_le_bytes());
        h.extend(crc(payload).to_le_bytes());
        let mut covered = h.clone();
        covered[2..4].copy_from_slice(&(flags & !FLAG_AGAIN).to_le_bytes());
        if kind != 5 {
            self.digest = crc32c::crc32c_append(self.digest, &covered);
        }
        let check = crc(&h);
        self.starts.push(self.bytes.len());
        self.bytes.extend(h);
        self.bytes.extend(check.to_le_bytes());
        self.bytes.extend(payload);
        self.sequence += 1;
        match kind {
            2 => self.memory += payload.len() as u64,
            3 => self.zero += u64::from_le_bytes(payload.try_into().unwrap()),
            4 => self.state += payload.len() as u64,
            _ => {}
        }
    }

    fn begin() -> Self {
        let mut s = Stream::default();
        s.record(1, FLAG_START, 0, &identity().encode());
        s
    }

    fn memory(&mut self, page: u64, pages: usize) {
        let payload: Vec<u8> = (0..pages * PAGE)
            .map(|i| (i as u64 * 7 + page) as u8)
            .collect();
        self.record(2, FLAG_START, page * PAGE as u64, &payload);
    }

    fn end(&mut self) {
        let mut p = Vec::new();
        for v in [self.sequence, self.memory, self.zero, self.state] {
            p.extend(v.to_le_bytes());
        }
        p.extend(self.digest.to_le_bytes());
        p.extend([0; 4]);
        assert_eq!(p.len(), END_SIZE);
        self.record(5, FLAG_START, 0, &p);
    }

    /// Two passes, a cleared range, an unknown optional record, device state and the end.
    fn complete() -> Self {
        let mut s = Stream::begin();
        s.memory(0, 2);
        s.memory(16, 1);
        s.record(99, FLAG_OPTIONAL, 0, b"whatever");
        s.memory(1, 1);
        s.record(3, 0, 32 * PAGE as u64, &(2 * PAGE as u64).to_le_bytes());
        s.record(4, FLAG_START, 0, b"device state");
        s.end();
        s
    }
}

fn run(bytes: &[u8]) -> Inspection {
    inspect(&mut &bytes[..], &mut |_| {}).unwrap()
}

#[test]
fn a_complete_stream() {
    let s = Stream::complete();
    let found = run(&s.bytes);
    assert_eq!(found.broken, None);
    assert_eq!(found.device_type.as_deref(), Some("test"));
    assert_eq!((found.device_version, found.features), (3, 5));
    assert_eq!(found.record_count, 8);
    assert_eq!(found.bytes, s.bytes.len() as u64);
    let records = |kind: &str| found.records[kind];
    assert_eq!(records("MEMORY").count, 3);
    assert_eq!(records("MEMORY").bytes, 4 * PAGE as u64);
    assert_eq!(records("DEVICE").bytes, 12);
    assert_eq!(records("kind 99").count, 1);
    assert_eq!((found.passes, found.pages, found.pages_again), (2, 4, 1));
    assert_eq!((found.skipped, found.repeated), (1, 0));
}

#[test]
fn every_flipped_bit_is_found() {
    let s = Stream::complete();
    // Every bit of headers and small payloads; one a page of memory.
    let mut bits: Vec<usize> = Vec::new();
    for (i, start) in s.starts.iter().enumerate() {
        let end = s.starts.get(i + 1).copied().unwrap_or(s.bytes.len());
        bits.extend((start * 8..(end * 8).min((start + 100) * 8)).step_by(1));
        bits.extend(((start + 100) * 8..end * 8).step_by(8 * 1021));
    }
    for bit in bits {
        let mut bytes = s.bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let found = run(&bytes);
        let broken = found
            .broken
            .unwrap_or_else(|| panic!("bit {bit} unnoticed"));
        let record = s.starts.iter().filter(|start| **start <= bit / 8).count() - 1;
        assert_eq!(broken.record, record as u64, "bit {bit}: {broken:?}");
        assert_eq!(
            broken.offset, s.starts[record] as u64,
            "bit {bit}: {broken:?}"
        );
        assert!(!broken.reason.is_empty() && broken.errno > 0);
    }
}

#[test]
fn every_cut_is_found() {
    let s = Stream::complete();
    let mut cuts: Vec<usize> = (0..s.bytes.len()).step_by(97).collect();
    for start in &s.starts {
        cuts.extend(start.saturating_sub(2)..(start + 40).min(s.bytes.len()));
    }
    for cut in cuts {
        let broken = run(&s.bytes[..cut]).broken;
        let broken = broken.unwrap_or_else(|| panic!("cut at {cut} unnoticed"));
        let record = s.starts.iter().filter(|start| **start <= cut).count() - 1;
        assert_eq!(broken.record, record as u64, "cut at {cut}: {broken:?}");
        // ENODATA, but less than a header cannot be told from something else.
        if cut >= HEADER_SIZE + IDENTITY_SIZE {
            assert_eq!(broken.errno, 61, "cut at {cut}: {broken:?}");
        }
    }
}

#[test]
fn more_after_the_end() {
    let mut s = Stream::complete();
    let end = s.bytes.len() as u64;
    s.bytes.push(0);
    let broken = run(&s.bytes).broken.unwrap();
    assert_eq!((broken.record, broken.offset), (8, end));
}

#[test]
fn something_else() {
    for bytes in [
        &b"\x7fELF and so on, which is no stream at all and long enough to hold a record \
        of the kind that comes first"[..],
        b"short",
        b"",
    ] {
        let broken = run(bytes).broken.unwrap();
        assert_eq!((broken.record, broken.offset), (0, 0));
    }
}

#[test]
fn a_buffer_sent_again() {
    let mut s = Stream::begin();
    s.memory(0, 1);
    s.memory(5, 1);
    // The last buffer once more, as after pre-copy (P23).
    let again = s.bytes[s.starts[2]..].to_vec();
    s.sequence -= 1;
    let payload = again[HEADER_SIZE..].to_vec();
    let (digest, memory) = (s.digest, s.memory);
    s.record(2, FLAG_START | FLAG_AGAIN, 5 * PAGE as u64, &payload);
    (s.digest, s.memory) = (digest, memory);
    s.record(4, FLAG_START, 0, b"state");
    s.end();
    let found = run(&s.bytes);
    assert_eq!(found.broken, None);
    assert_eq!((found.repeated, found.pages_again), (1, 1));
}

#[test]
fn an_absurd_state_size_is_not_allocated() {
    let mut s = Stream::default();
    let absurd = Identity {
        state_size_max: u32::MAX,
        ..identity()
    };
    s.record(1, FLAG_START, 0, &absurd.encode());
    assert!(run(&s.bytes).broken.is_some());
}
