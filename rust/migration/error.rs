// SPDX-License-Identifier: GPL-2.0

//! Errors of writing and reading a stream, and their errnos.

use crate::format::{Kind, VERSION};
use core::fmt;

const EINTR: i32 = 4;
const EFAULT: i32 = 14;
pub(crate) const EIO: i32 = 5;
const ENOMEM: i32 = 12;
pub(crate) const EBUSY: i32 = 16;
pub(crate) const EINVAL: i32 = 22;
pub(crate) const ENOSPC: i32 = 28;
pub(crate) const ERANGE: i32 = 34;
pub(crate) const ENODATA: i32 = 61;
pub(crate) const EPROTO: i32 = 71;
pub(crate) const EBADMSG: i32 = 74;
pub(crate) const EOVERFLOW: i32 = 75;
pub(crate) const EPROTONOSUPPORT: i32 = 93;

/// Why a stream cannot be written or was refused. [`Error::errno`] has the errno of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The first record is not an IDENTITY with the right magic: the bytes are not a stream.
    Foreign,
    /// The reader does not know the version of the stream.
    Version {
        /// The version found.
        found: u32,
    },
    /// The stream is of another device type.
    DeviceType {
        /// The type of this device.
        expected: [u8; 16],
        /// The type in the stream.
        found: [u8; 16],
    },
    /// A field of the identity differs (P49).
    Identity {
        /// Name of the field.
        field: &'static str,
        /// This device's value.
        expected: u64,
        /// The stream's value.
        found: u64,
    },
    /// An identity as text has a field that is missing, there twice, unknown or no number.
    Text {
        /// Name of the field; `name` if the name is unknown.
        field: &'static str,
    },
    /// A header's checksum does not match.
    HeaderChecksum {
        /// Sequence number of the record that was expected.
        sequence: u64,
        /// The checksum in the header.
        stored: u32,
        /// The checksum of its bytes.
        computed: u32,
    },
    /// A payload's checksum does not match.
    PayloadChecksum {
        /// Sequence number of the record.
        sequence: u64,
        /// The checksum in its header.
        stored: u32,
        /// The checksum of the payload as it arrived.
        computed: u32,
    },
    /// A header has flags that this version does not define, or AGAIN without START.
    Flags {
        /// Sequence number of the record.
        sequence: u64,
        /// Its flags.
        found: u16,
    },
    /// A record is missing, repeated or out of place.
    Sequence {
        /// The number expected.
        expected: u64,
        /// The number found.
        found: u64,
    },
    /// A mandatory record of a kind that this version does not define (P51).
    UnknownKind {
        /// Sequence number of the record.
        sequence: u64,
        /// Its kind.
        kind: u16,
    },
    /// A mandatory part that this device does not have (P51).
    UnknownPart {
        /// Sequence number of the record.
        sequence: u64,
        /// Number of the part.
        number: u64,
    },
    /// An IDENTITY that is not record 0 and so does not begin a stream.
    DuplicateIdentity {
        /// Sequence number of the record.
        sequence: u64,
    },
    /// Bytes after the END record that do not begin another stream.
    AfterEnd,
    /// The record's kind does not allow the length of its payload.
    Length {
        /// The record's kind.
        kind: Kind,
        /// The payload's length in bytes.
        found: u64,
    },
    /// A field that must be 0 is not: a reserved one, or the position of IDENTITY or END.
    Reserved {
        /// The record's kind.
        kind: Kind,
        /// The value found.
        found: u64,
    },
    /// A record's position or extent is not a multiple of the page size.
    Misaligned {
        /// First byte in device memory.
        position: u64,
        /// Number of bytes.
        length: u64,
    },
    /// A record exceeds the device memory, the device's state or a part of it.
    Range {
        /// The record's kind.
        kind: Kind,
        /// First byte.
        position: u64,
        /// Number of bytes.
        length: u64,
        /// Size of device memory or of the device's state, in bytes.
        limit: u64,
    },
    /// A DEVICE record does not start where the one before it ended.
    StateOrder {
        /// The position expected.
        expected: u64,
        /// The position found.
        found: u64,
    },
    /// A count in END differs from what arrived.
    Count {
        /// Name of the count.
        field: &'static str,
        /// The count of what arrived.
        expected: u64,
        /// The count in END.
        found: u64,
    },
    /// The stream stops before END.
    Incomplete {
        /// Sequence number of the record that is missing or incomplete.
        sequence: u64,
    },
    /// A buffer is too small.
    Space {
        /// Bytes needed.
        needed: u64,
        /// Bytes available.
        available: u64,
    },
    /// The device's state ends inside a field.
    Short {
        /// Bytes needed.
        needed: u64,
        /// Bytes left.
        available: u64,
    },
    /// The device's state continues after its last field.
    Trailing {
        /// Bytes left.
        left: u64,
    },
    /// The identity contradicts itself or the device: a bug of the caller.
    Geometry {
        /// Name of the value that differs.
        field: &'static str,
        /// The identity's value.
        expected: u64,
        /// The device's value.
        found: u64,
    },
    /// A counter would overflow.
    Overflow,
    /// The calling task is being killed.
    Interrupted,
    /// The memory of the caller's buffer could not be accessed now.
    Buffer,
    /// A call of the device failed.
    Device {
        /// What the device was doing.
        step: &'static str,
        /// The positive errno it returned.
        errno: i32,
    },
}

impl Error {
    /// Returns the positive errno of this error.
    ///
    /// | errno             | means                                                         |
    /// |-------------------|---------------------------------------------------------------|
    /// | `EINVAL`          | not a stream, or a stream of another device                   |
    /// | `EPROTONOSUPPORT` | the reader does not know the version or a mandatory record    |
    /// | `EBADMSG`         | corrupt: a checksum or a count does not match                 |
    /// | `EPROTO`          | a record with the wrong order, length, position or flags      |
    /// | `ERANGE`          | a record exceeds the device memory or the device's state      |
    /// | `ENODATA`         | the stream or the device's state ends early                   |
    /// | `ENOSPC`          | a buffer of the caller is too small                           |
    /// | `EOVERFLOW`       | a counter would overflow                                      |
    /// | `EINTR`           | the calling task is being killed                              |
    /// | `EFAULT`          | the caller's buffer could not be accessed                     |
    /// | any               | an errno that the device returned                             |
    pub const fn errno(&self) -> i32 {
        match self {
            Error::Foreign
            | Error::DeviceType { .. }
            | Error::Identity { .. }
            | Error::Text { .. }
            | Error::Geometry { .. } => EINVAL,
            Error::Version { .. } | Error::UnknownKind { .. } | Error::UnknownPart { .. } => {
                EPROTONOSUPPORT
            }
            Error::HeaderChecksum { .. } | Error::PayloadChecksum { .. } | Error::Count { .. } => {
                EBADMSG
            }
            Error::Flags { .. }
            | Error::Sequence { .. }
            | Error::DuplicateIdentity { .. }
            | Error::AfterEnd
            | Error::Length { .. }
            | Error::Reserved { .. }
            | Error::Misaligned { .. }
            | Error::StateOrder { .. }
            | Error::Trailing { .. } => EPROTO,
            Error::Range { .. } => ERANGE,
            Error::Incomplete { .. } | Error::Short { .. } => ENODATA,
            Error::Space { .. } => ENOSPC,
            Error::Overflow => EOVERFLOW,
            Error::Interrupted => EINTR,
            Error::Buffer => EFAULT,
            Error::Device { errno, .. } => *errno,
        }
    }

    /// Returns whether the same call may succeed later: memory was short (`ENOMEM`), the calling task
    /// was being killed (`EINTR`), or the buffer was not accessible ([`Error::Buffer`]). None of these says
    /// anything about the stream.
    pub const fn is_transient(&self) -> bool {
        matches!(self, Error::Buffer) || matches!(self.errno(), EINTR | ENOMEM)
    }

    /// [`Error::device`] for a step that accesses the caller's buffer, too: `EFAULT` is about that.
    pub(crate) fn access(step: &'static str, errno: i32) -> Error {
        match errno.checked_abs() {
            Some(EFAULT) => Error::Buffer,
            _ => Error::device(step, errno),
        }
    }

    /// Wraps an errno of either sign that the device returned during `step`; `EIO` if it is not an
    /// errno.
    pub(crate) fn device(step: &'static str, errno: i32) -> Error {
        let errno = match errno.checked_abs() {
            Some(errno) if (1..=4095).contains(&errno) => errno,
            _ => EIO,
        };
        Error::Device { step, errno }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Foreign => f.write_str("not a device state stream"),
            Error::Version { found } => {
                write!(f, "stream has version {found}, this reader needs {VERSION}")
            }
            Error::DeviceType { expected, found } => write!(
                f,
                "stream is of device_type \"{}\", this device is \"{}\"",
                name(found).escape_ascii(),
                name(expected).escape_ascii()
            ),
            Error::Identity {
                field,
                expected,
                found,
            } => write!(
                f,
                "{field} is {found:#x} in the stream and {expected:#x} here"
            ),
            Error::Text { field: "name" } => {
                f.write_str("the text of an identity has an unknown field")
            }
            Error::Text { field } => {
                write!(f, "{field} is missing, there twice, too large or no number")
            }
            Error::HeaderChecksum {
                sequence,
                stored,
                computed,
            } => write!(
                f,
                "record {sequence}: header checksum {stored:#010x}, computed {computed:#010x}"
            ),
            Error::PayloadChecksum {
                sequence,
                stored,
                computed,
            } => write!(
                f,
                "record {sequence}: payload checksum {stored:#010x}, computed {computed:#010x}"
            ),
            Error::Flags { sequence, found } => {
                write!(f, "record {sequence}: illegal flags {found:#x}")
            }
            Error::Sequence { expected, found } => {
                write!(f, "record {found} where {expected} was expected")
            }
            Error::UnknownKind { sequence, kind } => {
                write!(f, "record {sequence}: unknown mandatory kind {kind}")
            }
            Error::UnknownPart { sequence, number } => {
                write!(f, "record {sequence}: unknown mandatory part {number}")
            }
            Error::DuplicateIdentity { sequence } => {
                write!(f, "record {sequence}: an IDENTITY that is not record 0")
            }
            Error::AfterEnd => f.write_str("data after the END record does not begin a stream"),
            Error::Length { kind, found } => {
                write!(f, "{kind} record with a payload of {found} bytes")
            }
            Error::Reserved { kind, found } => {
                write!(f, "{kind} record with {found:#x} in a field that must be 0")
            }
            Error::Misaligned { position, length } => write!(
                f,
                "{length:#x} bytes at {position:#x} of device memory are not whole pages"
            ),
            Error::Range {
                kind,
                position,
                length,
                limit,
            } => write!(
                f,
                "{kind} record of {length:#x} bytes at {position:#x} exceeds the limit {limit:#x}"
            ),
            Error::StateOrder { expected, found } => {
                write!(
                    f,
                    "DEVICE record at {found:#x} where {expected:#x} was expected"
                )
            }
            Error::Count {
                field,
                expected,
                found,
            } => write!(f, "END says {field} {found:#x}, received {expected:#x}"),
            Error::Incomplete { sequence } => {
                write!(f, "stream is incomplete: record {sequence} is missing")
            }
            Error::Space { needed, available } => {
                write!(f, "buffer has {available} bytes and needs {needed}")
            }
            Error::Short { needed, available } => write!(
                f,
                "device state ends early: {available} bytes left, {needed} needed"
            ),
            Error::Trailing { left } => {
                write!(f, "device state has {left} bytes after its last field")
            }
            Error::Geometry {
                field,
                expected,
                found,
            } => write!(f, "{field} is {found:#x}, the identity says {expected:#x}"),
            Error::Overflow => f.write_str("a counter would overflow"),
            Error::Interrupted => f.write_str("interrupted"),
            Error::Buffer => f.write_str("the buffer cannot be accessed"),
            Error::Device { step, errno } => write!(f, "{step} failed with errno {errno}"),
        }
    }
}

impl core::error::Error for Error {}

/// Returns a device type without its padding.
fn name(device_type: &[u8; 16]) -> &[u8] {
    device_type
        .split(|&byte| byte == 0)
        .next()
        .unwrap_or_default()
}
