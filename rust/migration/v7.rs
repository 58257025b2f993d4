// SPDX-License-Identifier: GPL-2.0

//! The migration region of July 2019, version 7 of the series that led to v1.
//!
//! ```text
//!   offset  width  register       access
//!        0      4  device_state   read/write     RUNNING 1, SAVING 2, RESUMING 4
//!        4      4  reserved       read 0, write ignored
//!        8      8  pending_bytes  read
//!       16      8  data_offset    read
//!       24      8  data_size      read; write while resuming
//!       32      8  start_pfn      write while saving
//!       40      8  page_size      write while saving
//!       48      8  total_pfns     write while saving
//!       56      8  copied_pfns    read while saving
//!       64         no register up to the data section
//! ```
//!
//! States and transitions are those of v1, which took them over: see [`crate::transition`]. A device in
//! the error state reads 110, which the text calls invalid.

use crate::{
    dirty_query::{Query, ALL, NONE},
    fields::{Block, Field, When},
};
use core::fmt;

/// Size in bytes of `struct vfio_device_migration_info`.
pub const HEADER_SIZE: u64 = 64;

/// A register, named as in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// `device_state`, u32.
    DeviceState,
    /// `reserved`, u32.
    Reserved,
    /// `pending_bytes`, u64.
    PendingBytes,
    /// `data_offset`, u64.
    DataOffset,
    /// `data_size`, u64.
    DataSize,
    /// `start_pfn`, u64.
    StartPfn,
    /// `page_size`, u64.
    PageSize,
    /// `total_pfns`, u64.
    TotalPfns,
    /// `copied_pfns`, u64.
    CopiedPfns,
}

const fn row(
    register: Register,
    offset: u64,
    width: usize,
    read: When,
    write: When,
) -> Field<Register> {
    Field {
        register,
        offset,
        width,
        read,
        write,
    }
}

/// The register block. No two registers are accessed at once.
pub const BLOCK: Block<Register> = Block {
    fields: &{
        use Register::*;
        use When::*;
        [
            row(DeviceState, 0, 4, Always, Always),
            row(Reserved, 4, 4, Always, Always),
            row(PendingBytes, 8, 8, Always, Never),
            row(DataOffset, 16, 8, Always, Never),
            row(DataSize, 24, 8, Always, Resuming),
            row(StartPfn, 32, 8, Never, Saving),
            row(PageSize, 40, 8, Never, Saving),
            row(TotalPfns, 48, 8, Never, Saving),
            row(CopiedPfns, 56, 8, Saving, Never),
        ]
    },
    groups: &[],
};

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Register::DeviceState => "device_state",
            Register::Reserved => "reserved",
            Register::PendingBytes => "pending_bytes",
            Register::DataOffset => "data_offset",
            Register::DataSize => "data_size",
            Register::StartPfn => "start_pfn",
            Register::PageSize => "page_size",
            Register::TotalPfns => "total_pfns",
            Register::CopiedPfns => "copied_pfns",
        })
    }
}

/// Returns the value of `copied_pfns`.
///
/// `NONE` and `ALL` end the user's loop, so they speak for the whole range. A range that is answered in
/// parts gets bitmaps only.
pub fn copied_pfns(query: &Query) -> u64 {
    match query.answer {
        None => NONE,
        Some(answer) if answer.pages < query.total => answer.pages,
        Some(answer) if answer.dirty == 0 => NONE,
        Some(answer) if answer.dirty == answer.pages => ALL,
        Some(answer) => answer.pages,
    }
}

/// Returns whether the answer is a bitmap, whose place the next read of `data_offset` returns.
pub fn has_bitmap(query: &Query) -> bool {
    !matches!(copied_pfns(query), NONE | ALL)
}
