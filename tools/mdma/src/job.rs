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
//! Source and destination are each a [`Place`] or a [`List`](mdma_model::list::List) in guest memory.

use mdma_model::desc::{Descriptor, Op, Operand, Place};
use mdma_model::desc::{DST_DEVICE, DST_LIST, SRC_DEVICE, SRC_LIST};

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

/// Makes a descriptor from its operands.
fn new(op: Op, src: Option<Operand>, dst: Option<Operand>, len: u64) -> Descriptor {
    let fields = |operand: Option<Operand>, device: u32, list: u32| match operand {
        None => (0, 0, 0),
        Some(Operand::At(Place::Guest(iova))) => (iova, 0, 0),
        Some(Operand::At(Place::Device(offset))) => (offset, device, 0),
        Some(Operand::List(at)) => (at.base, list, at.entries),
    };
    let (src, src_flag, src_entries) = fields(src, SRC_DEVICE, SRC_LIST);
    let (dst, dst_flag, dst_entries) = fields(dst, DST_DEVICE, DST_LIST);

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
        reserved: 0,
    }
}
