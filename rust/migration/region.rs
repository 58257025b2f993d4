// SPDX-License-Identifier: GPL-2.0

//! The v1 migration region: which register an access hits, or why it is refused.
//!
//! ```text
//!   offset  width  register       access     `struct vfio_device_migration_info`
//!        0      4  device_state   read/write
//!        4      4  reserved       read 0, write ignored
//!        8      8  pending_bytes  read
//!       16      8  data_offset    read
//!       24      8  data_size      read; write while resuming
//!       32         no register up to the data section
//!   data_offset    the data section: any length, any alignment
//! ```
//!
//! [`REGISTERS`] is this table. [`decode`] is total: every offset, length and direction gives a
//! [`Target`] or an [`AccessError`], and has no side effect (P3).

pub use crate::fields::Direction;

use crate::{
    fields::{self, Block, Field, When},
    state::State,
};
use core::fmt;

/// Size in bytes of `struct vfio_device_migration_info` (P2).
pub const HEADER_SIZE: u64 = 32;

/// A register of the v1 region, named as in the UAPI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// `device_state`, u32, read/write.
    DeviceState,
    /// `reserved`, u32: reads 0, writes are ignored (P4).
    Reserved,
    /// `pending_bytes`, u64, read only.
    PendingBytes,
    /// `data_offset`, u64, read only.
    DataOffset,
    /// `data_size`, u64: writable only while resuming.
    DataSize,
}

const fn row(register: Register, offset: u64, width: usize, write: When) -> Field<Register> {
    Field {
        register,
        offset,
        width,
        read: When::Always,
        write,
    }
}

/// The register block (P2).
pub const REGISTERS: [Field<Register>; 5] = [
    row(Register::DeviceState, 0, 4, When::Always),
    row(Register::Reserved, 4, 4, When::Always),
    row(Register::PendingBytes, 8, 8, When::Never),
    row(Register::DataOffset, 16, 8, When::Never),
    row(Register::DataSize, 24, 8, When::Resuming),
];

/// The registers as a block. No two are accessed at once.
const BLOCK: Block<Register> = Block {
    fields: &REGISTERS,
    groups: &[],
};

/// Why an access is refused.
pub type AccessError = fields::AccessError<Register>;

/// Position of the data section in the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Start of the data section in bytes, which is also the value of `data_offset`: not 0 and page
    /// aligned (P27).
    pub data_offset: u64,
    /// Size of the data section in bytes.
    pub section_size: u64,
}

impl Layout {
    /// Returns the size of the whole region in bytes.
    #[inline]
    pub const fn size(&self) -> u64 {
        self.data_offset.saturating_add(self.section_size)
    }
}

/// The part of the region that an access hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A register, accessed at its native width.
    Register(Register),
    /// The data section.
    Data {
        /// Position of the first byte in the data section.
        offset: u64,
    },
}

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Register::DeviceState => "device_state",
            Register::Reserved => "reserved",
            Register::PendingBytes => "pending_bytes",
            Register::DataOffset => "data_offset",
            Register::DataSize => "data_size",
        })
    }
}

/// Returns what an access of `len` bytes at `offset` hits.
///
/// Does not depend on the state of the device; [`permits`] checks that.
#[inline]
pub fn decode(
    layout: &Layout,
    offset: u64,
    len: usize,
    direction: Direction,
) -> Result<Target, AccessError> {
    if len == 0 {
        return Err(AccessError::Empty);
    }
    // A usize fits in a u64 on every machine the kernel runs on.
    let end = offset.checked_add(len as u64).ok_or(AccessError::Outside)?;
    if end > layout.size() {
        return Err(AccessError::Outside);
    }
    if let Some(offset) = offset.checked_sub(layout.data_offset) {
        return Ok(Target::Data { offset });
    }

    let hit = BLOCK.decode(offset, len, direction)?;
    Ok(Target::Register(hit.register()?))
}

/// Checks that `state` permits an access that [`decode`] accepted.
///
/// Every state permits access to the data section, because a user who mapped it needs no call.
pub fn permits(target: Target, direction: Direction, state: State) -> Result<(), AccessError> {
    let Target::Register(register) = target else {
        return Ok(());
    };
    match REGISTERS.iter().find(|row| row.register == register) {
        Some(row) => BLOCK
            .decode(row.offset, row.width, direction)?
            .permits(state),
        None => Err(AccessError::NoRegister),
    }
}
