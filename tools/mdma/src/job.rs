// SPDX-License-Identifier: GPL-2.0

//! Descriptors for jobs.
//!
//! ```
//! use mdma::{job, Place};
//!
//! let job = job::copy(Place::Guest(0x10_0000), Place::Device(0), 4096)
//!     .cookie(7)
//!     .interrupt();
//! assert_eq!(job.len, 4096);
//! ```
//!
//! [`register`] gives memory a key, by which later jobs can name it as a [`Place::Key`].
//!
//! Source and destination are each a [`Place`] or a [`List`](mdma_model::list::List) in guest memory.

use mdma_model::desc::{Descriptor, Op, Operand, Place};
use mdma_model::desc::{DST_DEVICE, DST_KEY, DST_LIST, SRC_DEVICE, SRC_KEY, SRC_LIST};
use mdma_model::key;

/// Makes a job that does nothing.
pub fn nop() -> Descriptor {
    new(Op::Nop, None, None, 0)
}

/// Makes a copy.
pub fn copy(src: impl Into<Operand>, dst: impl Into<Operand>, len: u64) -> Descriptor {
    new(Op::Copy, Some(src.into()), Some(dst.into()), len)
}

/// Makes a fill with the little-endian bytes of `value`, repeated.
pub fn fill(dst: impl Into<Operand>, value: u64, len: u64) -> Descriptor {
    Descriptor {
        value,
        ..new(Op::Fill, None, Some(dst.into()), len)
    }
}

/// Makes a checksum.
pub fn crc32c(src: impl Into<Operand>, len: u64) -> Descriptor {
    new(Op::Crc32c, Some(src.into()), None, len)
}

/// Makes a registration of `len` bytes of guest memory. `write` lets jobs write to them. The key is the result in the
/// completion record.
pub fn register(iova: u64, len: u64, write: bool) -> Descriptor {
    Descriptor {
        src: iova,
        value: if write { key::WRITE } else { 0 },
        ..new(Op::Register, None, None, len)
    }
}

/// Makes a job that deregisters memory.
pub fn deregister(key: u32) -> Descriptor {
    Descriptor {
        value: key.into(),
        ..new(Op::Deregister, None, None, 0)
    }
}

/// Makes a descriptor from its operands.
fn new(op: Op, src: Option<Operand>, dst: Option<Operand>, len: u64) -> Descriptor {
    let fields = |operand: Option<Operand>, device: u32, list: u32, by_key: u32| match operand {
        None => (0, 0, 0, 0),
        Some(Operand::At(Place::Guest(iova))) => (iova, 0, 0, 0),
        Some(Operand::At(Place::Device(offset))) => (offset, device, 0, 0),
        Some(Operand::At(Place::Key { key, offset })) => (offset, by_key, 0, key),
        Some(Operand::List(at)) => (at.base, list, at.entries, 0),
    };
    let (src, src_flag, src_entries, src_key) = fields(src, SRC_DEVICE, SRC_LIST, SRC_KEY);
    let (dst, dst_flag, dst_entries, dst_key) = fields(dst, DST_DEVICE, DST_LIST, DST_KEY);

    Descriptor {
        op,
        flags: src_flag | dst_flag,
        src,
        dst,
        len,
        value: 0,
        cookie: 0,
        src_entries,
        dst_entries,
        src_key,
        dst_key,
    }
}
