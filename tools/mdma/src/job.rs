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

use crate::desc::{Descriptor, Op, Place, DST_DEVICE, INTERRUPT, SRC_DEVICE};

/// A job that does nothing.
pub fn nop() -> Descriptor {
    new(Op::Nop, None, None, 0)
}

/// A copy.
pub fn copy(src: Place, dst: Place, len: u64) -> Descriptor {
    new(Op::Copy, Some(src), Some(dst), len)
}

/// Repeats the bytes of `value`, little endian.
pub fn fill(dst: Place, value: u64, len: u64) -> Descriptor {
    Descriptor {
        value,
        ..new(Op::Fill, None, Some(dst), len)
    }
}

/// A checksum.
pub fn crc32c(src: Place, len: u64) -> Descriptor {
    new(Op::Crc32c, Some(src), None, len)
}

impl Descriptor {
    /// The same job with a cookie.
    #[must_use]
    pub fn cookie(mut self, cookie: u64) -> Self {
        self.cookie = cookie;
        self
    }

    /// The same job with an interrupt at its completion.
    #[must_use]
    pub fn interrupt(mut self) -> Self {
        self.flags |= INTERRUPT;
        self
    }
}

/// Puts a descriptor together.
fn new(op: Op, src: Option<Place>, dst: Option<Place>, len: u64) -> Descriptor {
    let address = |place: Option<Place>, device: u32| match place {
        None => (0, 0),
        Some(Place::Guest(iova)) => (iova, 0),
        Some(Place::Device(offset)) => (offset, device),
    };
    let (src, src_flag) = address(src, SRC_DEVICE);
    let (dst, dst_flag) = address(dst, DST_DEVICE);

    Descriptor {
        op,
        flags: src_flag | dst_flag,
        src,
        dst,
        len,
        value: 0,
        cookie: 0,
    }
}
