// SPDX-License-Identifier: GPL-2.0

//! Registered memory: keys, and their layout in a saved state.
//!
//! `REGISTER` pins a range of guest memory and returns its key. Until `DEREGISTER`, jobs name that memory
//! by the key and an offset. The device pins it once, so such jobs cost little more than the copy.

use crate::error::{Error, Result};
use crate::invalid::InvalidField;
use crate::layout::{dense, layout, Decoder, Field};
use core::mem::offset_of;

/// `CAPS.KEY_ORDER`: the device has at most 2 to the power of this many keys.
pub const KEY_ORDER: u32 = 14;

/// The most keys.
pub const MAX_KEYS: usize = 1 << KEY_ORDER;

/// The most bytes of one registration.
pub const MAX_LEN: u64 = 1 << 40;

/// Bit of `value` of `REGISTER`: jobs may write to the memory.
pub const WRITE: u64 = 1 << 0;

/// Bit of [`SavedKey::flags`]: jobs may write to the memory.
const SAVED_WRITE: u32 = 1 << 0;
/// Bit of [`SavedKey::flags`]: a part of the memory was unmapped.
const SAVED_UNMAPPED: u32 = 1 << 1;

/// Size of a key in a saved state, in bytes.
pub const SAVED_KEY_SIZE: usize = 24;

/// A range of guest memory to register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registration {
    /// IOVA of the first byte.
    pub iova: u64,
    /// Number of bytes.
    pub len: u64,
    /// Whether jobs may write to it.
    pub write: bool,
}

impl Registration {
    /// Checks the range.
    #[inline]
    pub fn check(&self) -> Result {
        Error::RegisterFault.unless(self.iova.checked_add(self.len.saturating_sub(1)).is_some())
    }

    /// Checks an access to `len` bytes at `offset`.
    #[inline]
    pub fn check_access(&self, offset: u64, len: u64, write: bool) -> Result {
        let end = offset.checked_add(len);
        Error::KeyRange.unless(end.is_some_and(|end| end <= self.len))?;
        Error::KeyAccess.unless(self.write || !write)
    }
}

/// How far a registration got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// So many bytes are pinned.
    More(u64),
    /// All are, and this is the key.
    Done(u32),
}

/// The part of a saved state before its keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// The next key to give out.
    pub next: u32,
    /// The number of keys.
    pub count: u32,
}

layout! {
    /// A key in a saved state.
    pub struct SavedKey in SAVED_KEY[SAVED_KEY_SIZE], encode {
        key: u32, "The key, not 0. Each is above the one before it.";
        flags: u32, "Bit 0: jobs may write to the memory. Bit 1: a part of it was unmapped, so that it cannot be used. Others 0.";
        iova: u64, "IOVA of the first byte.";
        len: u64, "Number of bytes, 1 to 2^40.";
    }
}

impl SavedKey {
    /// Returns the saved form of a registration.
    pub fn new(key: u32, memory: Registration, unmapped: bool) -> SavedKey {
        let flag = |set, flag| if set { flag } else { 0 };
        SavedKey {
            key,
            flags: flag(memory.write, SAVED_WRITE) | flag(unmapped, SAVED_UNMAPPED),
            iova: memory.iova,
            len: memory.len,
        }
    }

    /// Decodes and checks a key, which follows the key `before`.
    pub fn decode(bytes: &[u8; SAVED_KEY_SIZE], before: u32) -> Result<SavedKey, InvalidField> {
        let mut from = Decoder(bytes);
        let saved = SavedKey {
            key: from.u32(),
            flags: from.u32(),
            iova: from.u64(),
            len: from.u64(),
        };
        let ensure = |legal: bool, field, value| match legal {
            true => Ok(()),
            false => Err(InvalidField { field, value }),
        };
        ensure(saved.key > before, "key", saved.key.into())?;
        let flags = SAVED_WRITE | SAVED_UNMAPPED;
        ensure(saved.flags & !flags == 0, "key.flags", saved.flags.into())?;
        ensure((1..=MAX_LEN).contains(&saved.len), "key.len", saved.len)?;
        ensure(saved.memory().check().is_ok(), "key.iova", saved.iova)?;
        Ok(saved)
    }

    /// Returns the registration.
    pub fn memory(&self) -> Registration {
        Registration {
            iova: self.iova,
            len: self.len,
            write: self.flags & SAVED_WRITE != 0,
        }
    }

    /// Returns whether a part of the memory was unmapped.
    pub fn is_unmapped(&self) -> bool {
        self.flags & SAVED_UNMAPPED != 0
    }
}
