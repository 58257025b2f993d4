// SPDX-License-Identifier: GPL-2.0

//! Checks a stream as a destination would, without a device, and counts its contents.
//!
//! The parser is the kernel's: `migration`'s [`LoadSession`], with a device that accepts everything. A device of the
//! right kind accepts any stream that is valid here, unless its own state is invalid, which only the device can tell.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::{self, Read};

use migration::load::{LoadSession, Sink};
use migration::stream::{
    self, Checksum, Header, Identity, Kind, SavedState, FLAG_OPTIONAL, FLAG_UNCHECKED, HEADER_SIZE,
    IDENTITY_SIZE,
};
use serde::Serialize;

/// Count of the records of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Records {
    /// Records.
    pub count: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
}

/// Where and why a stream is broken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Broken {
    /// Index of the record, from 0.
    pub record: u64,
    /// Offset of the record in the file.
    pub offset: u64,
    /// What is wrong.
    pub reason: String,
    /// The errno that a device returns.
    pub errno: i32,
}

/// Contents of a stream, up to its end or its first error.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Inspection {
    /// The identity of the saved device.
    #[serde(skip)]
    pub identity: Option<Identity>,
    /// Type name of the device.
    pub device_type: Option<String>,
    /// Version of the device.
    pub device_version: u32,
    /// Its features.
    pub features: u32,
    /// Bytes of device memory.
    pub memory_size: u64,
    /// Bytes per page of device memory.
    pub page_size: u32,
    /// Upper limit of the device's own state in bytes.
    pub state_size_max: u32,
    /// Records by kind.
    pub records: BTreeMap<String, Records>,
    /// Number of records.
    pub record_count: u64,
    /// Bytes of the stream.
    pub bytes: u64,
    /// Passes over device memory from low to high addresses.
    pub passes: u64,
    /// Pages of device memory in MEMORY records.
    pub pages: u64,
    /// Those of them that an earlier record contained too.
    pub pages_again: u64,
    /// Bytes of device memory that no checksum covers.
    pub unchecked_bytes: u64,
    /// Buffers sent twice because the source could not know whether they had arrived.
    pub repeated: u64,
    /// Times that a new stream replaced the previous one.
    pub restarted: u64,
    /// Numbers of the parts of the device's state that a destination must know.
    pub parts: BTreeSet<u64>,
    /// Numbers of the parts that it need not know.
    pub optional_parts: BTreeSet<u64>,
    /// Skipped records of unknown optional kinds.
    pub skipped: u64,
    /// Why the stream is invalid; `None` for a complete and valid stream.
    pub broken: Option<Broken>,
}

/// Largest device state that is read, which limits the memory that a file can claim.
const STATE_MAX: u32 = 256 << 20;

/// A device that accepts everything.
struct Anything;

impl Checksum for Anything {
    fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
        // The crate's function inverts before and after.
        !crc32c::crc32c_append(!crc, bytes)
    }
}

impl Sink for Anything {
    type In = [u8];

    fn get(&self, input: &[u8], at: usize, buf: &mut [u8]) -> Result<(), i32> {
        buf.copy_from_slice(&input[at..at + buf.len()]);
        Ok(())
    }

    fn copy_memory(
        &self,
        input: &[u8],
        at: usize,
        _position: u64,
        len: usize,
        crc: Option<u32>,
    ) -> Result<Option<u32>, i32> {
        Ok(crc.map(|crc| Self::crc32c(crc, &input[at..at + len])))
    }

    fn zero_memory(&self, _position: u64, _len: u64) -> Result<(), i32> {
        Ok(())
    }

    fn discard(&self) -> Result<(), i32> {
        Ok(())
    }

    fn interrupted(&self) -> bool {
        false
    }

    fn check_state(&self, _state: &SavedState<'_>) -> Result<(), i32> {
        Ok(())
    }

    fn commit_state(&self, _state: &SavedState<'_>) -> Result<(), i32> {
        Ok(())
    }
}

/// Counts the contents of records.
#[derive(Default)]
struct Counter {
    found: Inspection,
    seen: HashSet<u64>,
    /// End of the last MEMORY or ZERO record.
    last: Option<u64>,
}

impl Counter {
    fn header(&mut self, header: &Header) {
        let name = match Kind::from_u16(header.kind) {
            Some(kind) => kind.to_string(),
            None => format!("kind {}", header.kind),
        };
        let records = self.found.records.entry(name).or_default();
        records.count += 1;
        records.bytes += u64::from(header.length);
        self.found.record_count += 1;
        if header.flags & FLAG_UNCHECKED != 0 {
            self.found.unchecked_bytes += u64::from(header.length);
        }
        if header.kind == Kind::Part as u16 {
            let parts = match header.flags & FLAG_OPTIONAL {
                0 => &mut self.found.parts,
                _ => &mut self.found.optional_parts,
            };
            parts.insert(header.position);
        }
        let memory = matches!(Kind::from_u16(header.kind), Some(Kind::Memory | Kind::Zero));
        if memory {
            if self.last.is_none_or(|last| header.position < last) {
                self.found.passes += 1;
            }
            self.last = Some(header.position);
        }
        // Pages smaller than any device's would only make this slow.
        if header.kind == Kind::Memory as u16 && self.found.page_size >= 512 {
            let page_size = u64::from(self.found.page_size);
            let first = header.position / page_size;
            for page in first..first.saturating_add(u64::from(header.length) / page_size) {
                self.found.pages += 1;
                self.found.pages_again += u64::from(!self.seen.insert(page));
            }
        }
    }

    /// Returns the number of PART records, which the session skips.
    fn part_records(&self) -> u64 {
        let parts = self.found.records.get(&Kind::Part.to_string());
        parts.map_or(0, |records| records.count)
    }

    /// A new stream begins, with its own passes.
    fn begin_again(&mut self) {
        self.seen.clear();
        self.last = None;
    }

    fn identity(&mut self, identity: &Identity) {
        let name = identity.device_type.split(|b| *b == 0).next();
        let found = &mut self.found;
        found.identity = Some(*identity);
        found.device_type = Some(name.unwrap_or_default().escape_ascii().to_string());
        found.device_version = identity.device_version;
        found.features = identity.features;
        found.memory_size = identity.memory_size;
        found.page_size = identity.page_size;
        found.state_size_max = identity.state_size_max;
    }
}

/// Reads until `buf` is full or the input ends.
fn read_full(input: &mut dyn Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < buf.len() {
        match input.read(&mut buf[got..]) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(got)
}

/// Reads a stream to its end or its first error.
///
/// Calls `progress` with the bytes read so far. An error means that reading failed; a broken stream is a result.
pub fn inspect(input: &mut dyn Read, progress: &mut dyn FnMut(u64)) -> io::Result<Inspection> {
    let mut counter = Counter::default();
    let broken = records(input, &mut counter, progress)?;
    counter.found.broken = broken;
    Ok(counter.found)
}

fn broken(record: u64, offset: u64, error: stream::Error) -> Broken {
    Broken {
        record,
        offset,
        reason: error.to_string(),
        errno: error.errno(),
    }
}

fn records(
    input: &mut dyn Read,
    counter: &mut Counter,
    progress: &mut dyn FnMut(u64),
) -> io::Result<Option<Broken>> {
    // The session's parameters come from the first record.
    let mut first = [0; HEADER_SIZE + IDENTITY_SIZE];
    let got = read_full(input, &mut first)?;
    counter.found.bytes = got as u64;
    let identity = match first_identity(&first[..got]) {
        Ok(identity) => identity,
        Err(error) => return Ok(Some(broken(0, 0, error))),
    };
    counter.identity(&identity);
    let session = LoadSession::new(identity, vec![0; identity.state_size_max as usize]);
    let mut session = match session {
        Ok(session) => session.with_any_parts(),
        Err(error) => return Ok(Some(broken(0, 0, error))),
    };
    let (header, identity) = first.split_at(HEADER_SIZE);
    let mut record = 0;
    let mut offset = 0;
    let mut header: [u8; HEADER_SIZE] = header.try_into().unwrap();
    let mut payload = identity.to_vec();
    let mut buffer = vec![0; 1 << 20];
    loop {
        if let Err(error) = session.feed(&Anything, &header[..], HEADER_SIZE) {
            return Ok(Some(broken(record, offset, error)));
        }
        let decoded = Header::decode::<Anything>(&header, record);
        let decoded = decoded.expect("the session has accepted this header");
        let mut left = decoded.length as usize - payload.len();
        let mut fed = session.feed(&Anything, &payload, payload.len());
        payload.clear();
        while fed.is_ok() && left > 0 {
            let step = left.min(buffer.len());
            let got = read_full(input, &mut buffer[..step])?;
            counter.found.bytes += got as u64;
            progress(counter.found.bytes);
            fed = session.feed(&Anything, &buffer[..got], got);
            left -= got;
            if got < step {
                break;
            }
        }
        if let Err(error) = fed {
            return Ok(Some(broken(record, offset, error)));
        }
        if left > 0 {
            break;
        }
        counter.header(&decoded);
        if session.stats().restarted != counter.found.restarted {
            counter.begin_again();
        }
        counter.found.restarted = session.stats().restarted;
        counter.found.repeated = session.stats().repeated;
        counter.found.skipped = session.stats().skipped - counter.part_records();
        record += 1;
        offset = counter.found.bytes;
        let got = read_full(input, &mut header)?;
        counter.found.bytes += got as u64;
        progress(counter.found.bytes);
        if got < HEADER_SIZE {
            let rest = session.feed(&Anything, &header[..got], got);
            if let Err(error) = rest {
                return Ok(Some(broken(record, offset, error)));
            }
            break;
        }
    }
    match session.finish(&Anything) {
        Ok(()) => Ok(None),
        Err(error) => Ok(Some(broken(record, offset, error))),
    }
}

/// Returns the identity in the first record of a stream.
pub(crate) fn first_identity(bytes: &[u8]) -> Result<Identity, stream::Error> {
    let incomplete = stream::Error::Incomplete { sequence: 0 };
    let (header, payload) = bytes.split_first_chunk().ok_or(incomplete)?;
    let header = Header::decode::<Anything>(header, 0).map_err(|error| {
        // The checksum of other data is wrong as well.
        match payload.starts_with(&stream::MAGIC) {
            true => error,
            false => stream::Error::Foreign,
        }
    })?;
    // The session checks later identities against this one.
    if header.kind != Kind::Identity as u16 {
        return Err(stream::Error::Foreign);
    }
    let identity = Identity::decode(payload, header.length).map_err(|error| {
        let cut = payload.len() < IDENTITY_SIZE.min(header.length as usize);
        match error {
            stream::Error::Version { .. } => error,
            _ if cut => incomplete,
            _ => error,
        }
    })?;
    if identity.state_size_max > STATE_MAX {
        return Err(stream::Error::Space {
            needed: identity.state_size_max.into(),
            available: STATE_MAX.into(),
        });
    }
    Ok(identity)
}

#[cfg(test)]
mod tests;
