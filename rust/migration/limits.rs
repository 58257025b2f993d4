// SPDX-License-Identifier: GPL-2.0

//! What the fields of a record may be.

use crate::error::Error;
use crate::format::{Kind, END_SIZE, FLAGS, FLAG_AGAIN, FLAG_START, FLAG_UNCHECKED, ZERO_SIZE};
use crate::identity::Identity;
use crate::part::PartTable;
use crate::record::Header;

/// The bounds of the next record of a stream.
pub(crate) struct Limits<'a> {
    pub(crate) identity: &'a Identity,
    pub(crate) parts: PartTable,
    /// Bytes of DEVICE payload in the records before it.
    pub(crate) state_bytes: u64,
}

impl Limits<'_> {
    /// Checks length and position of a record. IDENTITY and ZERO have more in their payloads.
    pub(crate) fn check(&self, header: &Header, kind: Kind) -> Result<(), Error> {
        let position = header.position;
        let length = u64::from(header.length);
        match kind {
            Kind::Identity if header.sequence != 0 => {
                return Err(Error::DuplicateIdentity {
                    sequence: header.sequence,
                })
            }
            // Another version may have an IDENTITY of another length: check the version first.
            Kind::Identity => {}
            Kind::Memory => self.check_memory(kind, position, length)?,
            Kind::Zero if length != ZERO_SIZE as u64 => {
                return Err(Error::Length {
                    kind,
                    found: length,
                })
            }
            Kind::Zero => {}
            Kind::Device => self.check_device(position, length)?,
            Kind::Part => self.check_part(position, length)?,
            Kind::End if length != END_SIZE as u64 => {
                return Err(Error::Length {
                    kind,
                    found: length,
                })
            }
            Kind::End => {}
        }
        if matches!(kind, Kind::Identity | Kind::End) && position != 0 {
            return Err(Error::Reserved {
                kind,
                found: position,
            });
        }
        Ok(())
    }

    /// Checks a range of device memory.
    pub(crate) fn check_memory(&self, kind: Kind, position: u64, length: u64) -> Result<(), Error> {
        if length == 0 {
            return Err(Error::Length {
                kind,
                found: length,
            });
        }
        let below_page = u64::from(self.identity.page_size).saturating_sub(1);
        if (position | length) & below_page != 0 {
            return Err(Error::Misaligned { position, length });
        }
        in_range(kind, position, length, self.identity.memory_size)
    }

    fn check_device(&self, position: u64, length: u64) -> Result<(), Error> {
        let kind = Kind::Device;
        if length == 0 {
            return Err(Error::Length {
                kind,
                found: length,
            });
        }
        if position != self.state_bytes {
            return Err(Error::StateOrder {
                expected: self.state_bytes,
                found: position,
            });
        }
        let limit = u64::from(self.identity.state_size_max);
        in_range(kind, position, length, limit)
    }

    fn check_part(&self, number: u64, length: u64) -> Result<(), Error> {
        let kind = Kind::Part;
        if length == 0 {
            return Err(Error::Length {
                kind,
                found: length,
            });
        }
        match self.parts.index(number).and_then(|i| self.parts.get(i)) {
            Some(part) if length <= u64::from(part.size_max) => Ok(()),
            part => Err(Error::Range {
                kind,
                position: number,
                length,
                limit: part.map_or(0, |part| part.size_max.into()),
            }),
        }
    }
}

/// Checks the flags of a record, of a known kind or not.
pub(crate) fn check_flags(header: &Header) -> Result<(), Error> {
    let flag = |flag: u16| header.flags & flag != 0;
    let is_unchecked = flag(FLAG_UNCHECKED);
    if flag(!FLAGS)
        || (flag(FLAG_AGAIN) && !flag(FLAG_START))
        || (is_unchecked && header.kind != Kind::Memory as u16)
    {
        return Err(Error::Flags {
            sequence: header.sequence,
            found: header.flags,
        });
    }
    if is_unchecked && header.payload_crc != 0 {
        return Err(Error::Reserved {
            kind: Kind::Memory,
            found: header.payload_crc.into(),
        });
    }
    Ok(())
}

fn in_range(kind: Kind, position: u64, length: u64, limit: u64) -> Result<(), Error> {
    match position.checked_add(length) {
        Some(end) if end <= limit => Ok(()),
        _ => Err(Error::Range {
            kind,
            position,
            length,
            limit,
        }),
    }
}
