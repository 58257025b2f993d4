// SPDX-License-Identifier: GPL-2.0

//! Descriptors and completion records: layout, operations, flags and error codes.
//!
//! For each job, software puts a descriptor of 64 bytes into the ring, and the device writes a
//! completion record of 32 bytes at the same index. All numbers are little endian.

pub use crate::error::{Error, ErrorCode, ERRORS};
pub use crate::layout::{dense, Field};
use crate::list::List;
pub use crate::place::Place;
use crate::table::table;

/// Size of a descriptor in bytes, and the alignment of the ring.
pub const DESCRIPTOR_SIZE: usize = 64;

/// Size of a completion record in bytes, and the alignment of their array.
pub const COMPLETION_SIZE: usize = 32;

/// The most bytes one job may process.
pub const MAX_LEN: u64 = 1 << 32;

/// Layout of a descriptor.
#[rustfmt::skip]
pub const DESCRIPTOR: [Field; 10] = [
    Field { name: "op", offset: 0, size: 4, meaning: "Operation." },
    Field { name: "flags", offset: 4, size: 4, meaning: "Flags." },
    Field { name: "src", offset: 8, size: 8, meaning: "Source: an IOVA, with SRC_DEVICE an offset in the device memory, with SRC_LIST the IOVA of a scatter list." },
    Field { name: "dst", offset: 16, size: 8, meaning: "Destination: an IOVA, with DST_DEVICE an offset in the device memory, with DST_LIST the IOVA of a scatter list." },
    Field { name: "len", offset: 24, size: 8, meaning: "Bytes to process, 1 to 2^32; 0 for NOP." },
    Field { name: "value", offset: 32, size: 8, meaning: "FILL: the eight bytes to repeat, beginning at dst." },
    Field { name: "cookie", offset: 40, size: 8, meaning: "Returned in the completion record." },
    Field { name: "src_entries", offset: 48, size: 4, meaning: "Entries of the list at src; 0 without SRC_LIST." },
    Field { name: "dst_entries", offset: 52, size: 4, meaning: "Entries of the list at dst; 0 without DST_LIST." },
    Field { name: "reserved", offset: 56, size: 8, meaning: "Must be 0." },
];

/// Layout of a completion record.
#[rustfmt::skip]
pub const COMPLETION: [Field; 5] = [
    Field { name: "cookie", offset: 0, size: 8, meaning: "The cookie of the descriptor." },
    Field { name: "error", offset: 8, size: 4, meaning: "Error code; 0 is success." },
    Field { name: "crc", offset: 12, size: 4, meaning: "CRC32C: the result. Otherwise 0." },
    Field { name: "bytes", offset: 16, size: 8, meaning: "Bytes processed; fewer than len when the job failed." },
    Field { name: "sequence", offset: 24, size: 8, meaning: "JOBS_DONE with this job counted. It is written last: a new value means that the record is complete." },
];

/// An operation and its operands.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    /// The operation.
    pub op: Op,
    /// Its name.
    pub name: &'static str,
    /// Whether it reads from `src`.
    pub source: bool,
    /// Whether it writes to `dst`.
    pub destination: bool,
    /// The text in the manual.
    pub meaning: &'static str,
}

table! {
    /// What a job does.
    pub enum Op;
    /// The operations, in the order of their numbers.
    pub const OPERATIONS: [Operation; _] = [
        Nop { name: "NOP", source: false, destination: false,
            meaning: "Completes without doing anything." }
        Copy { name: "COPY", source: true, destination: true,
            meaning: "Copies len bytes from src to dst. Source and destination may overlap within one address space: \
                      the result is as if the whole source had been read first." }
        Fill { name: "FILL", source: false, destination: true,
            meaning: "Repeats the eight bytes of value over len bytes from dst." }
        Crc32c { name: "CRC32C", source: true, destination: false,
            meaning: "Computes the CRC-32C (Castagnoli) of len bytes from src." }
    ] by op;
}

/// Flag: the device interrupts when the job completes.
pub const INTERRUPT: u32 = 1 << 0;
/// Flag: `src` is an offset in the device memory.
pub const SRC_DEVICE: u32 = 1 << 1;
/// Flag: `dst` is an offset in the device memory.
pub const DST_DEVICE: u32 = 1 << 2;

/// Flag: `src` is the IOVA of a scatter list.
pub const SRC_LIST: u32 = 1 << 3;
/// Flag: `dst` is the IOVA of a scatter list.
pub const DST_LIST: u32 = 1 << 4;

/// The flags: bit, name, meaning.
#[rustfmt::skip]
pub const FLAGS: [(u32, &str, &str); 5] = [
    (INTERRUPT, "INTERRUPT", "Set INT_CAUSE.COMPLETION when the job completes. A failed job halts the queue, which is a separate cause."),
    (SRC_DEVICE, "SRC_DEVICE", "src is an offset in the device memory. Only where the operation has a source."),
    (DST_DEVICE, "DST_DEVICE", "dst is an offset in the device memory. Only where the operation has a destination."),
    (SRC_LIST, "SRC_LIST", "src is the IOVA of a scatter list of src_entries entries. Only where the operation has a source, and not with SRC_DEVICE."),
    (DST_LIST, "DST_LIST", "dst is the IOVA of a scatter list of dst_entries entries. Only where the operation has a destination, and not with DST_DEVICE."),
];

impl Op {
    /// Returns the operation with this number.
    pub const fn from_raw(raw: u32) -> Option<Op> {
        match raw {
            0 => Some(Op::Nop),
            1 => Some(Op::Copy),
            2 => Some(Op::Fill),
            3 => Some(Op::Crc32c),
            _ => None,
        }
    }

    /// Returns the legal flags of the operation.
    pub const fn flags(self) -> u32 {
        let row = self.row();
        let src = if row.source { SRC_DEVICE | SRC_LIST } else { 0 };
        let dst = if row.destination {
            DST_DEVICE | DST_LIST
        } else {
            0
        };
        INTERRUPT | src | dst
    }
}

/// The source or the destination of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// A range.
    At(Place),
    /// The ranges in a scatter list.
    List(List),
}

impl From<Place> for Operand {
    fn from(place: Place) -> Operand {
        Operand::At(place)
    }
}

impl From<List> for Operand {
    fn from(list: List) -> Operand {
        Operand::List(list)
    }
}

/// A well-formed descriptor.
///
/// # Invariants
///
/// A descriptor from [`Descriptor::decode`] has only legal flags and a legal length for its
/// operation. [`Descriptor::check`] checks its ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The operation.
    pub op: Op,
    /// Bits of [`FLAGS`].
    pub flags: u32,
    /// Source.
    pub src: u64,
    /// Destination.
    pub dst: u64,
    /// Bytes to process.
    pub len: u64,
    /// The value to fill with.
    pub value: u64,
    /// A value for software, returned in the completion record.
    pub cookie: u64,
    /// Entries of the list at `src`.
    pub src_entries: u32,
    /// Entries of the list at `dst`.
    pub dst_entries: u32,
}

/// Reads a little-endian number at `at`.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut raw = [0; 4];
    raw.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(raw)
}

/// Reads a little-endian number at `at`.
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut raw = [0; 8];
    raw.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(raw)
}

impl Descriptor {
    /// Sets the cookie.
    #[must_use]
    pub fn cookie(mut self, cookie: u64) -> Self {
        self.cookie = cookie;
        self
    }

    /// Requests an interrupt at the completion.
    #[must_use]
    pub fn interrupt(mut self) -> Self {
        self.flags |= INTERRUPT;
        self
    }

    /// Decodes the bytes of a descriptor and checks everything except its ranges.
    pub fn decode(bytes: &[u8; DESCRIPTOR_SIZE]) -> Result<Descriptor, Error> {
        let desc = Descriptor {
            op: Op::from_raw(u32_at(bytes, 0)).ok_or(Error::BadOp)?,
            flags: u32_at(bytes, 4),
            src: u64_at(bytes, 8),
            dst: u64_at(bytes, 16),
            len: u64_at(bytes, 24),
            value: u64_at(bytes, 32),
            cookie: Self::cookie_of(bytes),
            src_entries: u32_at(bytes, 48),
            dst_entries: u32_at(bytes, 52),
        };

        let both = |flags| desc.flags & flags == flags;
        if desc.flags & !desc.op.flags() != 0
            || both(SRC_DEVICE | SRC_LIST)
            || both(DST_DEVICE | DST_LIST)
        {
            return Err(Error::BadFlags);
        }
        let legal = match desc.op {
            Op::Nop => desc.len == 0,
            _ => 0 < desc.len && desc.len <= MAX_LEN,
        };
        if !legal {
            return Err(Error::BadLength);
        }
        if (desc.flags & SRC_LIST == 0 && desc.src_entries != 0)
            || (desc.flags & DST_LIST == 0 && desc.dst_entries != 0)
            || u64_at(bytes, 56) != 0
        {
            return Err(Error::BadReserved);
        }
        Ok(desc)
    }

    /// Decodes the bytes of a descriptor for a device with `memory_size` bytes of memory, and checks
    /// everything except the entries of lists, which the engine checks later.
    pub fn decode_and_check(
        bytes: &[u8; DESCRIPTOR_SIZE],
        memory_size: u64,
    ) -> Result<Descriptor, Error> {
        let desc = Descriptor::decode(bytes)?;
        desc.check(memory_size)?;
        Ok(desc)
    }

    /// Returns the cookie of a descriptor, even of a malformed one.
    pub fn cookie_of(bytes: &[u8; DESCRIPTOR_SIZE]) -> u64 {
        u64_at(bytes, 40)
    }

    /// Returns the bytes of the descriptor.
    pub fn encode(&self) -> [u8; DESCRIPTOR_SIZE] {
        let mut bytes = [0; DESCRIPTOR_SIZE];
        bytes[0..4].copy_from_slice(&(self.op as u32).to_le_bytes());
        bytes[4..8].copy_from_slice(&self.flags.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.src.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.dst.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.len.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.value.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.cookie.to_le_bytes());
        bytes[48..52].copy_from_slice(&self.src_entries.to_le_bytes());
        bytes[52..56].copy_from_slice(&self.dst_entries.to_le_bytes());
        bytes
    }

    /// Returns the operand with this address and number of entries. `list` and `device` are its flags.
    fn operand(&self, address: u64, entries: u32, list: u32, device: u32) -> Operand {
        if self.flags & list != 0 {
            Operand::List(List {
                base: address,
                entries,
            })
        } else if self.flags & device != 0 {
            Operand::At(Place::Device(address))
        } else {
            Operand::At(Place::Guest(address))
        }
    }

    /// Returns the source, if the operation has one.
    pub fn source(&self) -> Option<Operand> {
        let used = self.op.row().source;
        used.then(|| self.operand(self.src, self.src_entries, SRC_LIST, SRC_DEVICE))
    }

    /// Returns the destination, if the operation has one.
    pub fn destination(&self) -> Option<Operand> {
        let used = self.op.row().destination;
        used.then(|| self.operand(self.dst, self.dst_entries, DST_LIST, DST_DEVICE))
    }

    /// Returns whether the source or the destination is a list.
    pub fn has_list(&self) -> bool {
        self.flags & (SRC_LIST | DST_LIST) != 0
    }

    /// Checks the ranges, but not the entries of lists.
    pub fn check(&self, memory_size: u64) -> Result<(), Error> {
        let check = |operand: Option<Operand>, range, fault| match operand {
            None => Ok(()),
            Some(Operand::At(place)) => place.check(self.len, memory_size, range, fault),
            Some(Operand::List(list)) => list.check(),
        };
        check(self.source(), Error::SrcRange, Error::SrcFault)?;
        check(self.destination(), Error::DstRange, Error::DstFault)
    }
}

/// A completion record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The cookie of the descriptor.
    pub cookie: u64,
    /// Number of an [`Error`].
    pub error: u32,
    /// Result of [`Op::Crc32c`].
    pub crc: u32,
    /// Bytes processed.
    pub bytes: u64,
    /// `JOBS_DONE` with this job counted.
    pub sequence: u64,
}

/// Offset of `sequence` in bytes. It is written last.
pub const COMPLETION_SEQUENCE: usize = 24;

impl Completion {
    /// Returns the bytes of the record.
    pub fn encode(&self) -> [u8; COMPLETION_SIZE] {
        let mut bytes = [0; COMPLETION_SIZE];
        bytes[0..8].copy_from_slice(&self.cookie.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.error.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.crc.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        bytes
    }

    /// Decodes the bytes of a record.
    pub fn decode(bytes: &[u8; COMPLETION_SIZE]) -> Completion {
        Completion {
            cookie: u64_at(bytes, 0),
            error: u32_at(bytes, 8),
            crc: u32_at(bytes, 12),
            bytes: u64_at(bytes, 16),
            sequence: u64_at(bytes, COMPLETION_SEQUENCE),
        }
    }
}

const _: () = assert!(dense(&DESCRIPTOR, DESCRIPTOR_SIZE));
const _: () = assert!(dense(&COMPLETION, COMPLETION_SIZE));
