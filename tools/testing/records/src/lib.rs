// SPDX-License-Identifier: GPL-2.0

//! The stream of a saved device as a list of records, to inspect and to corrupt.
//!
//! [`Stream::parse`] decodes with the header of crate `migration`. [`Stream::seal`] computes sequence numbers,
//! checksums and the closing record from the documented layout, independently of that crate. So a test can change
//! exactly one thing in an otherwise consistent stream.

pub mod spoil;

use migration::stream::{
    Checksum, Header, Identity, Kind, CRC_SEED, END_SIZE, FLAG_AGAIN, FLAG_OPTIONAL, FLAG_START,
    FLAG_UNCHECKED, HEADER_SIZE,
};

/// Computes a CRC-32C with the host's crate.
pub struct Crc;

impl Checksum for Crc {
    fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
        // The crate's function continues a finished value.
        !crc32c::crc32c_append(!crc, bytes)
    }
}

/// Computes the CRC-32C of some bytes.
pub fn crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its header, without the checksum.
    pub header: Header,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// A whole stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Its records, in order.
    pub records: Vec<Record>,
}

impl Record {
    /// Creates an unsealed record of a kind.
    pub fn new(kind: u16, position: u64, payload: Vec<u8>) -> Self {
        Record {
            header: Header {
                kind,
                flags: 0,
                length: payload.len() as u32,
                sequence: 0,
                position,
                payload_crc: 0,
            },
            payload,
        }
    }

    /// Adds the flag that lets a reader skip the record.
    pub fn optional(mut self) -> Self {
        self.header.flags |= FLAG_OPTIONAL;
        self
    }

    /// Returns its kind, if this version knows it.
    pub fn kind(&self) -> Option<Kind> {
        Kind::from_u16(self.header.kind)
    }

    /// Returns its size in the stream in bytes.
    pub fn size(&self) -> usize {
        HEADER_SIZE + self.payload.len()
    }

    /// Returns header and payload, with the checksum computed from the header as it is.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = self.header.encode::<Crc>().to_vec();
        out.extend_from_slice(&self.payload);
        out
    }

    /// Returns the device memory it covers: first byte and length, for MEMORY and ZERO.
    pub fn extent(&self) -> Option<(u64, u64)> {
        match self.kind()? {
            Kind::Memory => Some((self.header.position, self.payload.len() as u64)),
            Kind::Zero => Some((self.header.position, u64_at(&self.payload, 0))),
            _ => None,
        }
    }
}

impl Stream {
    /// Parses a stream. The error says where it is invalid.
    pub fn parse(bytes: &[u8]) -> Result<Stream, String> {
        let mut records = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let number = records.len() as u64;
            let header = bytes
                .get(at..at + HEADER_SIZE)
                .and_then(|b| b.first_chunk())
                .ok_or_else(|| format!("header {number} at byte {at} is cut off"))?;
            let header = Header::decode::<Crc>(header, number)
                .map_err(|e| format!("header {number} at byte {at}: {e}"))?;
            at += HEADER_SIZE;
            let payload = bytes
                .get(at..at + header.length as usize)
                .ok_or_else(|| format!("payload of record {number} at byte {at} is cut off"))?;
            let found = payload_crc(&header, payload);
            if found != header.payload_crc {
                return Err(format!(
                    "payload of record {number}: checksum {:#x}, its bytes have {found:#x}",
                    header.payload_crc
                ));
            }
            at += payload.len();
            records.push(Record {
                header,
                payload: payload.to_vec(),
            });
        }
        Ok(Stream { records })
    }

    /// Returns the bytes, with the headers unchanged.
    pub fn bytes(&self) -> Vec<u8> {
        self.records.iter().flat_map(Record::bytes).collect()
    }

    /// Returns the stream that a reader ends up with: of a buffer sent twice only the second copy, and after a restart
    /// only the new stream.
    pub fn effective(&self) -> Stream {
        let mut records: Vec<Record> = Vec::new();
        for record in &self.records {
            let flags = record.header.flags;
            let begins = record.kind() == Some(Kind::Identity) && flags & FLAG_START != 0;
            if begins && record.header.sequence == 0 {
                records.clear();
            } else if flags & FLAG_AGAIN != 0 {
                records.retain(|r| r.header.sequence < record.header.sequence);
            }
            records.push(record.clone());
        }
        Stream { records }
    }

    /// Numbers the records, and corrects lengths, checksums and the closing record.
    pub fn seal(&mut self) {
        for (record, number) in self.records.iter_mut().zip(0..) {
            record.header.sequence = number;
        }
        self.seal_numbered();
    }

    /// [`seal`](Self::seal) without the sequence numbers.
    pub fn seal_numbered(&mut self) {
        let mut digest = CRC_SEED;
        let (mut memory, mut zero, mut state) = (0u64, 0u64, 0u64);
        for (record, number) in self.records.iter_mut().zip(0u64..) {
            match record.kind() {
                Some(Kind::Memory) => memory = memory.wrapping_add(record.payload.len() as u64),
                Some(Kind::Device) => state = state.wrapping_add(record.payload.len() as u64),
                Some(Kind::Zero) if record.payload.len() >= 8 => {
                    zero = zero.wrapping_add(u64_at(&record.payload, 0));
                }
                Some(Kind::End) if record.payload.len() == END_SIZE => {
                    let totals = [number, memory, zero, state];
                    for (field, total) in record.payload.chunks_exact_mut(8).zip(totals) {
                        field.copy_from_slice(&total.to_le_bytes());
                    }
                    record.payload[32..36].copy_from_slice(&(!digest).to_le_bytes());
                }
                _ => {}
            }
            record.header.length = record.payload.len() as u32;
            record.header.payload_crc = payload_crc(&record.header, &record.payload);
            digest = Crc::crc32c(digest, &covered(&record.header));
        }
    }

    /// Returns the first record of a kind.
    ///
    /// # Panics
    ///
    /// If there is none, as the stream is then useless to the test.
    pub fn position(&self, kind: Kind) -> usize {
        self.records
            .iter()
            .position(|r| r.kind() == Some(kind))
            .unwrap_or_else(|| panic!("the stream has no {kind} record"))
    }

    /// Number of records of a kind.
    pub fn count(&self, kind: Kind) -> usize {
        let of_kind = |r: &&Record| r.kind() == Some(kind);
        self.records.iter().filter(of_kind).count()
    }

    /// Returns the identity at its start.
    pub fn identity(&self) -> Result<Identity, String> {
        let first = self.records.first().ok_or("the stream is empty")?;
        Identity::decode(&first.payload, first.header.length).map_err(|e| e.to_string())
    }

    /// Returns the device memory that a reader ends up with.
    pub fn memory(&self, size: usize) -> Vec<u8> {
        let mut memory = vec![0; size];
        for record in &self.effective().records {
            let Some((position, length)) = record.extent() else {
                continue;
            };
            let range = position as usize..(position + length) as usize;
            match record.kind() {
                Some(Kind::Memory) => memory[range].copy_from_slice(&record.payload),
                _ => memory[range].fill(0),
            }
        }
        memory
    }

    /// Returns the pages sent, each as often as it was sent.
    pub fn pages(&self, page_size: u64) -> Vec<u64> {
        let mut pages = Vec::new();
        for (position, length) in self.records.iter().filter_map(Record::extent) {
            pages.extend(position / page_size..(position + length) / page_size);
        }
        pages
    }
}

/// Returns the checksum that a payload must have in its header.
fn payload_crc(header: &Header, payload: &[u8]) -> u32 {
    match header.flags & FLAG_UNCHECKED {
        0 => crc(payload),
        _ => 0,
    }
}

/// Returns the header bytes that checksum and digest cover. AGAIN is cleared, as the digest requires.
fn covered(header: &Header) -> [u8; HEADER_SIZE - 4] {
    let mut masked = *header;
    masked.flags &= !FLAG_AGAIN;
    let bytes = masked.encode::<Crc>();
    let mut out = [0; HEADER_SIZE - 4];
    out.copy_from_slice(&bytes[..HEADER_SIZE - 4]);
    out
}

/// Reads a little-endian number at an offset.
///
/// # Panics
///
/// If it is cut off.
pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use migration::stream::{device_type, SavedState};

    fn stream() -> Stream {
        let identity = Identity {
            device_type: device_type("test"),
            device_version: 1,
            features: 0,
            memory_size: 16384,
            page_size: 4096,
            state_size_max: 64,
        };
        let mut stream = Stream {
            records: vec![
                Record::new(Kind::Identity as u16, 0, identity.encode().to_vec()),
                Record::new(Kind::Memory as u16, 4096, vec![7; 8192]),
                Record::new(Kind::Device as u16, 0, vec![1, 2, 3]),
                Record::new(Kind::End as u16, 0, vec![0; END_SIZE]),
            ],
        };
        stream.seal();
        stream
    }

    /// A device that accepts everything; only the session's own checks matter.
    struct Nothing;

    impl Checksum for Nothing {
        fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
            Crc::crc32c(crc, bytes)
        }
    }

    impl migration::load::Sink for Nothing {
        type In = [u8];
        fn get(&self, input: &[u8], at: usize, buf: &mut [u8]) -> Result<(), i32> {
            buf.copy_from_slice(&input[at..at + buf.len()]);
            Ok(())
        }
        fn copy_memory(
            &self,
            i: &[u8],
            at: usize,
            _: u64,
            n: usize,
            crc: Option<u32>,
        ) -> Result<Option<u32>, i32> {
            Ok(crc.map(|crc| Crc::crc32c(crc, &i[at..at + n])))
        }
        fn zero_memory(&self, _: u64, _: u64) -> Result<(), i32> {
            Ok(())
        }
        fn discard(&self) -> Result<(), i32> {
            Ok(())
        }
        fn interrupted(&self) -> bool {
            false
        }
        fn check_state(&self, _: &SavedState<'_>) -> Result<(), i32> {
            Ok(())
        }
        fn commit_state(&self, _: &SavedState<'_>) -> Result<(), i32> {
            Ok(())
        }
    }

    fn load(stream: &Stream) -> Result<(), migration::stream::Error> {
        let identity = stream.identity().unwrap();
        let mut session = migration::load::LoadSession::new(identity, vec![0; 64])?;
        let bytes = stream.bytes();
        session.feed(&Nothing, &bytes, bytes.len())?;
        session.finish(&Nothing)
    }

    #[test]
    fn what_is_sealed_is_accepted_and_parses_back() {
        let stream = stream();
        assert_eq!(Stream::parse(&stream.bytes()).unwrap(), stream);
        load(&stream).unwrap();
        let mut with = stream.clone();
        with.records
            .insert(2, Record::new(99, 5, vec![3; 7]).optional());
        assert!(load(&with).is_err());
        with.seal();
        load(&with).unwrap();
    }

    #[test]
    fn another_stream_takes_the_place_of_the_first() {
        let mut first = stream();
        first.records[0].header.flags |= FLAG_START;
        first.seal();
        let mut second = first.clone();
        second.records[1].header.position = 8192;
        second.seal();
        let both = Stream {
            records: [&first.records[..3], &second.records[..]].concat(),
        };
        assert_eq!(both.effective(), second);
        load(&both).unwrap();
    }

    #[test]
    fn a_buffer_sent_again_counts_once() {
        let mut stream = stream();
        let mut again = stream.records[1].clone();
        stream.records[1].header.flags |= FLAG_START;
        again.header.flags |= FLAG_START | FLAG_AGAIN;
        again.payload = vec![9; 8192];
        again.header.payload_crc = crc(&again.payload);
        stream.records.insert(2, again);
        assert_eq!(stream.pages(4096), [1, 2, 1, 2]);
        assert_eq!(stream.effective().pages(4096), [1, 2]);
        assert_eq!(stream.memory(16384)[4096..12288], [9; 8192]);
    }
}
