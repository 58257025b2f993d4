// SPDX-License-Identifier: GPL-2.0

//! Descriptors and completion records: layout, operations, flags and error codes.
//!
//! For each job, software puts a descriptor of 64 bytes into the ring, and the device writes a
//! completion record of 32 bytes at the same index. All numbers are little endian.

use crate::error::Result;
pub use crate::error::{Error, ErrorCode, ERRORS};
use crate::key::{self, Registration};
pub use crate::layout::{dense, Field};
use crate::layout::{layout, Decoder};
use crate::list::List;
pub use crate::place::Place;
use crate::table::table;
use core::mem::offset_of;

/// Size of a descriptor in bytes, and the alignment of the ring.
pub const DESCRIPTOR_SIZE: usize = 64;

/// Size of a completion record in bytes, and the alignment of their array.
pub const COMPLETION_SIZE: usize = 32;

/// The most bytes one job may process.
pub const MAX_LEN: u64 = 1 << 32;

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
    #[repr(u32)]
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
        Register { name: "REGISTER", source: false, destination: false,
            meaning: "Pins len bytes of guest memory at the IOVA src, 1 to 2^40, and returns their key in the completion record. \
                      If bit 0 of value is 1, jobs may write to them; the other bits must be 0. The memory may overlap other registered memory." }
        Deregister { name: "DEREGISTER", source: false, destination: false,
            meaning: "Unpins the memory with the key in value. The key is not used again." }
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

/// Flag: `src` is an offset in the registered memory with the key `src_key`.
pub const SRC_KEY: u32 = 1 << 5;
/// Flag: `dst` is an offset in the registered memory with the key `dst_key`.
pub const DST_KEY: u32 = 1 << 6;

/// The flags that say what `src` is. At most one may be set.
const SRC_KINDS: u32 = SRC_DEVICE | SRC_LIST | SRC_KEY;
/// The flags that say what `dst` is. At most one may be set.
const DST_KINDS: u32 = DST_DEVICE | DST_LIST | DST_KEY;

/// The flags: bit, name, meaning.
#[rustfmt::skip]
pub const FLAGS: [(u32, &str, &str); 7] = [
    (INTERRUPT, "INTERRUPT", "Set INT_CAUSE.COMPLETION when the job completes. A failed job halts the queue, which is a separate cause."),
    (SRC_DEVICE, "SRC_DEVICE", "src is an offset in the device memory. Only where the operation has a source."),
    (DST_DEVICE, "DST_DEVICE", "dst is an offset in the device memory. Only where the operation has a destination."),
    (SRC_LIST, "SRC_LIST", "src is the IOVA of a scatter list of src_entries entries. Only where the operation has a source, and not with SRC_DEVICE."),
    (DST_LIST, "DST_LIST", "dst is the IOVA of a scatter list of dst_entries entries. Only where the operation has a destination, and not with DST_DEVICE."),
    (SRC_KEY, "SRC_KEY", "src is an offset in the registered memory with the key src_key. Only where the operation has a source, and not with SRC_DEVICE or SRC_LIST."),
    (DST_KEY, "DST_KEY", "dst is an offset in the registered memory with the key dst_key. Only where the operation has a destination, and not with DST_DEVICE or DST_LIST."),
];

impl Op {
    /// Returns the operation with this number.
    #[inline]
    pub fn from_raw(raw: u32) -> Option<Op> {
        let mut ops = OPERATIONS.iter().map(|row| row.op);
        ops.find(|&op| op as u32 == raw)
    }

    fn to_le_bytes(self) -> [u8; 4] {
        (self as u32).to_le_bytes()
    }

    /// Returns the legal flags of the operation.
    #[inline]
    pub fn flags(self) -> u32 {
        let row = self.row();
        let of = |used, flags| if used { flags } else { 0 };
        INTERRUPT | of(row.source, SRC_KINDS) | of(row.destination, DST_KINDS)
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

layout! {
    /// A well-formed descriptor.
    ///
    /// # Invariants
    ///
    /// A descriptor from [`Descriptor::decode`] has only legal flags and a legal length for its
    /// operation. [`Descriptor::check`] checks its ranges.
    pub struct Descriptor in DESCRIPTOR[DESCRIPTOR_SIZE], encode {
        op: Op, "Operation.";
        flags: u32, "Flags.";
        src: u64, "Source: an IOVA, with SRC_DEVICE an offset in the device memory, with SRC_LIST the IOVA of a scatter list, with SRC_KEY an offset in registered memory. REGISTER: an IOVA.";
        dst: u64, "Destination: an IOVA, with DST_DEVICE an offset in the device memory, with DST_LIST the IOVA of a scatter list, with DST_KEY an offset in registered memory.";
        len: u64, "Bytes to process, 1 to 2^32; 0 for NOP and DEREGISTER.";
        value: u64, "FILL: the eight bytes to repeat, beginning at dst. REGISTER: the access. DEREGISTER: the key.";
        cookie: u64, "Returned in the completion record.";
        src_entries: u32, "Entries of the list at src; 0 without SRC_LIST.";
        dst_entries: u32, "Entries of the list at dst; 0 without DST_LIST.";
        src_key: u32, "Key of the memory of src; 0 without SRC_KEY.";
        dst_key: u32, "Key of the memory of dst; 0 without DST_KEY.";
    }
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
    #[inline]
    pub fn decode(bytes: &[u8; DESCRIPTOR_SIZE]) -> Result<Descriptor> {
        let mut from = Decoder(bytes);
        let desc = Descriptor {
            op: Op::from_raw(from.u32()).ok_or(Error::BadOp)?,
            flags: from.u32(),
            src: from.u64(),
            dst: from.u64(),
            len: from.u64(),
            value: from.u64(),
            cookie: from.u64(),
            src_entries: from.u32(),
            dst_entries: from.u32(),
            src_key: from.u32(),
            dst_key: from.u32(),
        };

        let all = |flags| desc.flags & flags == flags;
        let kinds = |kinds: u32| (desc.flags & kinds).count_ones();
        let contradiction = kinds(SRC_KINDS) > 1 || kinds(DST_KINDS) > 1;
        let legal = desc.flags & !desc.op.flags() == 0 && !contradiction;
        let access = desc.op != Op::Register || desc.value & !key::WRITE == 0;
        Error::BadFlags.unless(legal && access)?;

        Error::BadLength.unless(match desc.op {
            Op::Nop | Op::Deregister => desc.len == 0,
            Op::Register => (1..=key::MAX_LEN).contains(&desc.len),
            Op::Copy | Op::Fill | Op::Crc32c => (1..=MAX_LEN).contains(&desc.len),
        })?;

        let allowed = |entries, flag| entries == 0 || all(flag);
        let legal = allowed(desc.src_entries, SRC_LIST) && allowed(desc.dst_entries, DST_LIST);
        let keys = allowed(desc.src_key, SRC_KEY) && allowed(desc.dst_key, DST_KEY);
        Error::BadReserved.unless(legal && keys)?;
        Ok(desc)
    }

    /// Returns the cookie of a descriptor, even of a malformed one.
    #[inline]
    pub fn cookie_of(bytes: &[u8; DESCRIPTOR_SIZE]) -> u64 {
        Decoder(&bytes[offset_of!(Descriptor, cookie)..]).u64()
    }

    /// Returns the memory that a `REGISTER` registers.
    #[inline]
    pub fn registration(&self) -> Registration {
        Registration {
            iova: self.src,
            len: self.len,
            write: self.value & key::WRITE != 0,
        }
    }

    /// Returns the source, if the operation has one.
    #[inline]
    pub fn source(&self) -> Option<Operand> {
        let used = self.op.row().source;
        used.then_some(match self.flags & SRC_KINDS {
            0 => Operand::At(Place::Guest(self.src)),
            SRC_DEVICE => Operand::At(Place::Device(self.src)),
            SRC_KEY => Operand::At(Place::Key {
                key: self.src_key,
                offset: self.src,
            }),
            _ => Operand::List(List {
                base: self.src,
                entries: self.src_entries,
            }),
        })
    }

    /// Returns the destination, if the operation has one.
    #[inline]
    pub fn destination(&self) -> Option<Operand> {
        let used = self.op.row().destination;
        used.then_some(match self.flags & DST_KINDS {
            0 => Operand::At(Place::Guest(self.dst)),
            DST_DEVICE => Operand::At(Place::Device(self.dst)),
            DST_KEY => Operand::At(Place::Key {
                key: self.dst_key,
                offset: self.dst,
            }),
            _ => Operand::List(List {
                base: self.dst,
                entries: self.dst_entries,
            }),
        })
    }

    /// Returns whether the source or the destination is a list.
    pub fn has_list(&self) -> bool {
        self.flags & (SRC_LIST | DST_LIST) != 0
    }

    /// Checks the ranges in a device with `memory_size` bytes of memory, but not the entries of lists nor the
    /// ranges in registered memory.
    #[inline]
    pub fn check(&self, memory_size: u64) -> Result {
        let check = |operand: Option<Operand>, range, fault| match operand {
            None => Ok(()),
            Some(Operand::At(place)) => place.check(self.len, memory_size, range, fault),
            Some(Operand::List(list)) => list.check(),
        };
        if self.op == Op::Register {
            self.registration().check()?;
        }
        check(self.source(), Error::SrcRange, Error::SrcFault)?;
        check(self.destination(), Error::DstRange, Error::DstFault)
    }
}

layout! {
    /// A completion record.
    pub struct Completion in COMPLETION[COMPLETION_SIZE], #[inline] encode {
        cookie: u64, "The cookie of the descriptor.";
        error: u32, "Error code; 0 is success.";
        result: u32, "CRC32C: the CRC. REGISTER: the key. Otherwise 0.";
        bytes: u64, "Bytes processed; fewer than len when the job failed.";
        sequence: u64, "JOBS_DONE with this job counted. It is written last: a new value means that the record is complete.";
    }
}

/// Offset of `sequence` in a completion record.
pub const COMPLETION_SEQUENCE: usize = offset_of!(Completion, sequence);

impl Completion {
    /// Decodes the bytes of a record.
    pub fn decode(bytes: &[u8; COMPLETION_SIZE]) -> Completion {
        let mut from = Decoder(bytes);
        Completion {
            cookie: from.u64(),
            error: from.u32(),
            result: from.u32(),
            bytes: from.u64(),
            sequence: from.u64(),
        }
    }
}
