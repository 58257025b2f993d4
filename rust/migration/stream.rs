// SPDX-License-Identifier: GPL-2.0

//! The bytes of a saved device (P49-P51), the same by v1 and v2. All numbers are little endian.
//!
//! A stream is a sequence of records, each a header of 32 bytes and a payload:
//!
//! ```text
//!   offset  size  field
//!        0     2  kind
//!        2     2  flags        bit 0 OPTIONAL  who does not know the kind skips the record
//!                              bit 1 START     first record of a buffer
//!                              bit 2 AGAIN     with START: the buffer may have been read before
//!        4     4  length       of the payload, in bytes
//!        8     8  sequence     0, 1, 2, ...
//!       16     8  position     what it counts depends on the kind
//!       24     4  payload_crc  CRC-32C of the payload
//!       28     4  header_crc   CRC-32C of the 28 bytes before it
//!
//!   kind  name      position                payload
//!      1  IDENTITY  0                       56 bytes, below; first and only first
//!      2  MEMORY    byte in device memory   whole pages of device memory
//!      3  ZERO      byte in device memory   u64: so many bytes from there read 0
//!      4  DEVICE    byte in device's state  a piece of it, in order and without gaps
//!      5  END       0                       40 bytes, below; last
//!
//!   IDENTITY                 END
//!    0   8  magic             0   8  records before this one
//!    8   4  version           8   8  bytes of MEMORY payload
//!   12   4  reserved, 0      16   8  bytes cleared by ZERO
//!   16  16  device_type      24   8  bytes of DEVICE payload
//!   32   4  device_version   32   4  digest
//!   36   4  features         36   4  reserved, 0
//!   40   8  memory_size
//!   48   4  page_size
//!   52   4  state_size_max
//! ```
//!
//! The digest is the CRC-32C over the first 28 bytes of all headers before END, with AGAIN cleared.
//! As those bytes hold the payloads' checksums, it covers the whole stream.
//!
//! A reader starts from a device whose memory reads 0, so memory that was never written is not
//! sent.
//!
//! # A buffer that may have been read
//!
//! When v1 goes from pre-copy to stop-and-copy, the source cannot know whether the user took the
//! buffer staged last, and sends it again (P23). It sends the same bytes, except that AGAIN is set
//! in the first header. The reader remembers the header of the last START record, and what it had
//! counted when that arrived. A record with AGAIN is accepted at the number expected next, which
//! means that the buffer had not been read, or with otherwise that remembered header, which takes
//! the reader back to it. Nothing else ever goes back, so a record that is repeated or out of place
//! is refused.

pub use crate::codec::{Reader, Writer};
pub use crate::error::Error;
pub use crate::identity::{device_type, Identity};
use core::fmt;

/// First bytes of the IDENTITY payload.
pub const MAGIC: [u8; 8] = *b"VFIOMDEV";
/// Version of the format. A reader takes exactly this one.
pub const VERSION: u32 = 1;
/// Size of a record header in bytes.
pub const HEADER_SIZE: usize = 32;
/// Size of the IDENTITY payload in bytes.
pub const IDENTITY_SIZE: usize = 56;
/// Size of the END payload in bytes.
pub const END_SIZE: usize = 40;
/// Size of the ZERO payload in bytes.
pub const ZERO_SIZE: usize = 8;

/// Header flag: a reader that does not know the kind skips the record (P51).
pub const FLAG_OPTIONAL: u16 = 1 << 0;
/// Header flag: first record of a buffer.
pub const FLAG_START: u16 = 1 << 1;
/// Header flag, only with [`FLAG_START`]: this buffer may have been read before (P23).
pub const FLAG_AGAIN: u16 = 1 << 2;
/// All flags of this version.
pub const FLAGS: u16 = FLAG_OPTIONAL | FLAG_START | FLAG_AGAIN;

/// Part of the header that the header's checksum and the digest cover.
const COVERED: usize = HEADER_SIZE - 4;

/// CRC-32C (Castagnoli) as a running value, without inversions: the kernel's `crc32c()`.
pub trait Checksum {
    /// Continues `crc` over `bytes`.
    fn crc32c(crc: u32, bytes: &[u8]) -> u32;
}

/// Where a running checksum starts.
pub const CRC_SEED: u32 = !0;

/// What is stored of a running checksum.
pub const fn crc_finish(crc: u32) -> u32 {
    !crc
}

pub(crate) fn crc_of<C: Checksum + ?Sized>(bytes: &[u8]) -> u32 {
    crc_finish(C::crc32c(CRC_SEED, bytes))
}

/// Kind of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// Which device this is the state of.
    Identity = 1,
    /// Pages of device memory.
    Memory = 2,
    /// A range of device memory that reads 0.
    Zero = 3,
    /// A piece of the device's own state.
    Device = 4,
    /// Counts, and the end.
    End = 5,
}

impl Kind {
    /// The kind with this number, if this version has it.
    pub const fn from_u16(kind: u16) -> Option<Kind> {
        match kind {
            1 => Some(Kind::Identity),
            2 => Some(Kind::Memory),
            3 => Some(Kind::Zero),
            4 => Some(Kind::Device),
            5 => Some(Kind::End),
            _ => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Identity => "IDENTITY",
            Kind::Memory => "MEMORY",
            Kind::Zero => "ZERO",
            Kind::Device => "DEVICE",
            Kind::End => "END",
        })
    }
}

/// Lays `fields` one behind the other in `N` bytes.
pub(crate) fn pack<const N: usize>(fields: &[&[u8]]) -> [u8; N] {
    let mut out = [0; N];
    let bytes = fields.iter().flat_map(|field| field.iter());
    for (to, from) in out.iter_mut().zip(bytes) {
        *to = *from;
    }
    out
}

/// Header of a record, without its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Number of the record's kind: [`Kind::from_u16`].
    pub kind: u16,
    /// [`FLAGS`] of the record.
    pub flags: u16,
    /// Length of the payload in bytes.
    pub length: u32,
    /// Number of the record in the stream.
    pub sequence: u64,
    /// What the payload belongs to, counted as its kind says.
    pub position: u64,
    /// CRC-32C of the payload.
    pub payload_crc: u32,
}

impl Header {
    fn covered(&self) -> [u8; COVERED] {
        pack(&[
            &self.kind.to_le_bytes(),
            &self.flags.to_le_bytes(),
            &self.length.to_le_bytes(),
            &self.sequence.to_le_bytes(),
            &self.position.to_le_bytes(),
            &self.payload_crc.to_le_bytes(),
        ])
    }

    /// The header's bytes.
    pub fn encode<C: Checksum + ?Sized>(&self) -> [u8; HEADER_SIZE] {
        let covered = self.covered();
        pack(&[&covered, &crc_of::<C>(&covered).to_le_bytes()])
    }

    /// The header in `bytes`, if its checksum matches. `sequence` is for the error.
    pub fn decode<C: Checksum + ?Sized>(
        bytes: &[u8; HEADER_SIZE],
        sequence: u64,
    ) -> Result<Header, Error> {
        let mut r = Reader::new(bytes);
        let header = Header {
            kind: r.get_u16()?,
            flags: r.get_u16()?,
            length: r.get_u32()?,
            sequence: r.get_u64()?,
            position: r.get_u64()?,
            payload_crc: r.get_u32()?,
        };
        let stored = r.get_u32()?;
        let computed = crc_of::<C>(&header.covered());
        if stored != computed {
            return Err(Error::HeaderChecksum {
                sequence,
                stored,
                computed,
            });
        }
        Ok(header)
    }

    /// Continues the digest of a stream over this header.
    pub(crate) fn digest<C: Checksum + ?Sized>(&self, digest: u32) -> u32 {
        let masked = Header {
            flags: self.flags & !FLAG_AGAIN,
            ..*self
        };
        C::crc32c(digest, &masked.covered())
    }
}

/// What END says about the stream before it; kept by writer and reader alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// Records, all kinds.
    pub records: u64,
    /// Bytes of MEMORY payload.
    pub memory_bytes: u64,
    /// Bytes cleared by ZERO.
    pub zero_bytes: u64,
    /// Bytes of DEVICE payload.
    pub state_bytes: u64,
    /// Running checksum of the headers.
    pub digest: u32,
}

impl Totals {
    /// The totals of a stream that has not begun.
    pub const fn new() -> Totals {
        Totals {
            records: 0,
            memory_bytes: 0,
            zero_bytes: 0,
            state_bytes: 0,
            digest: CRC_SEED,
        }
    }

    /// The totals with one more record, `extent` bytes of what its kind is about.
    pub(crate) fn with<C: Checksum + ?Sized>(
        &self,
        header: &Header,
        extent: u64,
    ) -> Result<Totals, Error> {
        let mut totals = *self;
        let add = |a: u64, b: u64| a.checked_add(b).ok_or(Error::Overflow);
        totals.records = add(totals.records, 1)?;
        match Kind::from_u16(header.kind) {
            Some(Kind::Memory) => totals.memory_bytes = add(totals.memory_bytes, extent)?,
            Some(Kind::Zero) => totals.zero_bytes = add(totals.zero_bytes, extent)?,
            Some(Kind::Device) => totals.state_bytes = add(totals.state_bytes, extent)?,
            Some(Kind::Identity | Kind::End) | None => {}
        }
        totals.digest = header.digest::<C>(totals.digest);
        Ok(totals)
    }

    /// The payload of the END record.
    pub fn encode(&self) -> [u8; END_SIZE] {
        pack(&[
            &self.records.to_le_bytes(),
            &self.memory_bytes.to_le_bytes(),
            &self.zero_bytes.to_le_bytes(),
            &self.state_bytes.to_le_bytes(),
            &crc_finish(self.digest).to_le_bytes(),
            &[0; 4],
        ])
    }

    /// Refuses the payload of an END record unless it says these totals.
    pub fn accept(&self, payload: &[u8]) -> Result<(), Error> {
        let mut r = Reader::new(payload);
        let fields = [
            ("records", self.records, r.get_u64()?),
            ("memory bytes", self.memory_bytes, r.get_u64()?),
            ("zero bytes", self.zero_bytes, r.get_u64()?),
            ("state bytes", self.state_bytes, r.get_u64()?),
            (
                "digest",
                u64::from(crc_finish(self.digest)),
                u64::from(r.get_u32()?),
            ),
            ("reserved", 0, u64::from(r.get_u32()?)),
        ];
        r.finish()?;
        for (field, expected, found) in fields {
            if expected != found {
                return Err(Error::Count {
                    field,
                    expected,
                    found,
                });
            }
        }
        Ok(())
    }
}

impl Default for Totals {
    fn default() -> Self {
        Totals::new()
    }
}
