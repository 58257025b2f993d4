// SPDX-License-Identifier: GPL-2.0

//! Record headers.

use crate::checksum::{crc_of, Checksum};
use crate::error::Error;
use crate::format::{FLAG_AGAIN, HEADER_SIZE};
use crate::state_codec::Reader;

/// Size of the part of the header that its checksum and the digest cover, in bytes.
const COVERED: usize = HEADER_SIZE - 4;

/// Concatenates `fields` into `N` bytes.
pub(crate) fn pack<const N: usize>(fields: &[&[u8]]) -> [u8; N] {
    let mut out = [0; N];
    let bytes = fields.iter().flat_map(|field| field.iter());
    for (to, from) in out.iter_mut().zip(bytes) {
        *to = *from;
    }
    out
}

/// Stores `bytes` at the beginning of `out`, if they fit, and returns the rest.
#[inline]
fn put<const N: usize>(out: &mut [u8], bytes: [u8; N]) -> &mut [u8] {
    match out.split_first_chunk_mut() {
        Some((to, rest)) => {
            *to = bytes;
            rest
        }
        None => &mut [],
    }
}

/// Header of a record, without its checksum. Its 32 bytes are laid out in [`crate::stream`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Number of the record's kind: [`Kind::from_u16`](crate::stream::Kind::from_u16).
    pub kind: u16,
    /// Bits of [`FLAGS`](crate::stream::FLAGS).
    pub flags: u16,
    /// Length of the payload in bytes.
    pub length: u32,
    /// Number of the record in the stream, from 0.
    pub sequence: u64,
    /// Position of the payload in bytes; the kind says in what.
    pub position: u64,
    /// CRC-32C of the payload.
    pub payload_crc: u32,
}

impl Header {
    /// Stores the covered bytes in `out`. A scattered page has a record of its own, whose header is put together
    /// twice, so this does not go byte by byte.
    #[inline]
    fn put<'a>(&self, out: &'a mut [u8]) -> &'a mut [u8] {
        let out = put(out, self.kind.to_le_bytes());
        let out = put(out, self.flags.to_le_bytes());
        let out = put(out, self.length.to_le_bytes());
        let out = put(out, self.sequence.to_le_bytes());
        let out = put(out, self.position.to_le_bytes());
        put(out, self.payload_crc.to_le_bytes())
    }

    #[inline]
    fn covered(&self) -> [u8; COVERED] {
        let mut out = [0; COVERED];
        self.put(&mut out);
        out
    }

    /// Returns the header's bytes, with the checksum.
    pub fn encode<C: Checksum + ?Sized>(&self) -> [u8; HEADER_SIZE] {
        let crc = crc_of::<C>(&self.covered());
        let mut out = [0; HEADER_SIZE];
        let rest = self.put(&mut out);
        put(rest, crc.to_le_bytes());
        out
    }

    /// Decodes `bytes`. [`Error::HeaderChecksum`] if the checksum does not match; the error names
    /// the record `sequence`.
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

    /// Returns the header that the record had when it was offered for the first time.
    pub(crate) fn without_again(&self) -> Header {
        Header {
            flags: self.flags & !FLAG_AGAIN,
            ..*self
        }
    }

    /// Returns the stream's `digest` continued over this header.
    pub(crate) fn digest<C: Checksum + ?Sized>(&self, digest: u32) -> u32 {
        C::crc32c(digest, &self.without_again().covered())
    }
}
