// SPDX-License-Identifier: GPL-2.0

//! The counts and the digest of a stream.

use crate::checksum::{crc_finish, Checksum, CRC_SEED};
use crate::error::Error;
use crate::format::{Kind, END_SIZE};
use crate::record::{pack, Header};
use crate::state_codec::Reader;

/// What END says about the records before it. The writer and the reader both keep it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// Records of all kinds.
    pub records: u64,
    /// Bytes of MEMORY payload.
    pub memory_bytes: u64,
    /// Bytes cleared by ZERO.
    pub zero_bytes: u64,
    /// Bytes of DEVICE payload.
    pub state_bytes: u64,
    /// Running checksum of the headers, from [`CRC_SEED`].
    pub digest: u32,
}

impl Totals {
    /// Returns the totals of a stream that has not begun.
    pub const fn new() -> Totals {
        Totals {
            records: 0,
            memory_bytes: 0,
            zero_bytes: 0,
            state_bytes: 0,
            digest: CRC_SEED,
        }
    }

    /// Returns the totals with one more record. `extent` is the number of bytes it sends, clears or
    /// restores, depending on its kind. [`Error::Overflow`] if a count does not fit.
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
            Some(Kind::Identity | Kind::End | Kind::Part) | None => {}
        }
        totals.digest = header.digest::<C>(totals.digest);
        Ok(totals)
    }

    /// Returns the payload of the END record.
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

    /// Compares the payload of an END record with these totals. [`Error::Count`] names the first
    /// field that differs.
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
