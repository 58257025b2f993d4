// SPDX-License-Identifier: GPL-2.0

//! The constants of the stream format: sizes, flags and record kinds.

use core::fmt;

/// First bytes of the IDENTITY payload.
pub const MAGIC: [u8; 8] = *b"VFIOMDEV";
/// Version of the format. A reader accepts no other.
pub const VERSION: u32 = 1;
/// Size of a record header in bytes.
pub const HEADER_SIZE: usize = 32;
/// Size of the IDENTITY payload in bytes.
pub const IDENTITY_SIZE: usize = 56;
/// Size of the END payload in bytes.
pub const END_SIZE: usize = 40;
/// Size of the ZERO payload in bytes.
pub const ZERO_SIZE: usize = 8;

/// Header flag: a reader that does not know the kind, or the number of the part, skips the record (P51).
pub const FLAG_OPTIONAL: u16 = 1 << 0;
/// Header flag: first record of a buffer.
pub const FLAG_START: u16 = 1 << 1;
/// Header flag, only with [`FLAG_START`]: the user may have read this buffer before (P23).
pub const FLAG_AGAIN: u16 = 1 << 2;
/// Header flag, only of MEMORY: the payload has no checksum, and `payload_crc` is 0.
pub const FLAG_UNCHECKED: u16 = 1 << 3;
/// All flags of this version.
pub const FLAGS: u16 = FLAG_OPTIONAL | FLAG_START | FLAG_AGAIN | FLAG_UNCHECKED;

/// Kind of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// Type, version and geometry of the saved device.
    Identity = 1,
    /// Pages of device memory.
    Memory = 2,
    /// A range of device memory that reads 0.
    Zero = 3,
    /// A piece of the device's own state.
    Device = 4,
    /// Counts; the last record.
    End = 5,
    /// A part of the device's own state, with a number.
    Part = 6,
}

impl Kind {
    /// Returns the kind with this number, if this version has it.
    pub const fn from_u16(kind: u16) -> Option<Kind> {
        match kind {
            1 => Some(Kind::Identity),
            2 => Some(Kind::Memory),
            3 => Some(Kind::Zero),
            4 => Some(Kind::Device),
            5 => Some(Kind::End),
            6 => Some(Kind::Part),
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
            Kind::Part => "PART",
        })
    }
}
