// SPDX-License-Identifier: GPL-2.0

//! Parts of a device's state that are saved by themselves, each with a number.

use crate::error::Error;
use crate::format::HEADER_SIZE;

/// The most parts of a device: their indices are bits of a [`Changes`].
pub const PARTS_MAX: usize = 32;

/// Bytes of the length that precedes a part in the buffer of a load.
const LENGTH_SIZE: usize = 4;

/// A part of a device's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its number.
    pub number: u32,
    /// Whether a destination that does not know the part ignores it. It refuses the stream otherwise.
    pub optional: bool,
    /// Whether the part is sent while the device runs, and again when it has changed.
    pub pre_copy: bool,
    /// The most bytes that it has, at least 1 and at most a page.
    pub size_max: u32,
}

/// The parts of a kind of device.
#[derive(Clone, Copy, Debug)]
pub struct PartTable(&'static [Part]);

/// What a device has changed of what pre-copy sends besides its memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The parts that changed: bits by their index in the table.
    pub parts: u32,
    /// Whether all that pre-copy has sent is obsolete.
    pub reinit: bool,
}

impl PartTable {
    /// The table of a device without parts.
    pub const EMPTY: PartTable = PartTable(&[]);

    /// Returns the table of these parts. `None` unless there are at most [`PARTS_MAX`], their numbers
    /// ascend and no part is empty or larger than `page_size` bytes.
    pub const fn new(parts: &'static [Part], page_size: u32) -> Option<PartTable> {
        if parts.len() > PARTS_MAX {
            return None;
        }
        let mut rest = parts;
        let mut least = 0;
        while let Some((part, behind)) = rest.split_first() {
            if (part.number as u64) < least || part.size_max == 0 || part.size_max > page_size {
                return None;
            }
            least = (part.number as u64).saturating_add(1);
            rest = behind;
        }
        Some(PartTable(parts))
    }

    /// Returns the size in bytes of the largest part.
    pub(crate) fn largest(&self) -> u64 {
        self.0
            .iter()
            .map(|part| u64::from(part.size_max))
            .max()
            .unwrap_or(0)
    }

    /// Returns the part with this index.
    pub const fn get(&self, index: usize) -> Option<&'static Part> {
        match self.0.split_at_checked(index) {
            Some((_, rest)) => rest.first(),
            None => None,
        }
    }

    /// Returns the index of the part with this number.
    pub fn index(&self, number: u64) -> Option<usize> {
        self.0
            .iter()
            .position(|part| u64::from(part.number) == number)
    }

    /// Returns the parts for which `choose` is true, as bits.
    pub(crate) fn mask(&self, choose: impl Fn(&Part) -> bool) -> u32 {
        self.0
            .iter()
            .zip(0..)
            .filter(|(part, _)| choose(part))
            .fold(0, |mask, (_, index)| mask | bit(index))
    }

    /// Returns how many bytes the records of these parts have, of which `size` returns the bytes. Not inline,
    /// because few saves have any at a given time, and callers are short without it.
    #[inline(never)]
    pub(crate) fn bytes(&self, parts: u32, size: impl Fn(&Part) -> u64) -> u64 {
        self.0
            .iter()
            .zip(0..)
            .filter(|(_, index)| parts & bit(*index) != 0)
            .fold(0, |sum: u64, (part, _)| {
                sum.saturating_add(size(part).min(u64::from(part.size_max)))
                    .saturating_add(HEADER_SIZE as u64)
            })
    }

    /// Returns the bytes that a buffer needs for all parts.
    pub const fn buffer_size(&self) -> usize {
        self.offset(self.0.len())
    }

    /// Returns where the part with this index begins in the buffer.
    const fn offset(&self, index: usize) -> usize {
        let mut offset: usize = 0;
        let mut rest = match self.0.split_at_checked(index) {
            Some((before, _)) => before,
            None => self.0,
        };
        while let Some((part, behind)) = rest.split_first() {
            offset = offset
                .saturating_add(LENGTH_SIZE)
                .saturating_add(part.size_max as usize);
            rest = behind;
        }
        offset
    }

    /// Returns the memory of the part with this index in the buffer: that of its length, and the rest.
    fn slot<'b>(&self, buffer: &'b mut [u8], index: usize) -> Result<Slot<'b>, Error> {
        let part = self.get(index).ok_or(Error::Overflow)?;
        buffer
            .get_mut(self.offset(index)..)
            .and_then(|rest| rest.split_first_chunk_mut())
            .and_then(|(length, rest)| Some((length, rest.get_mut(..part.size_max as usize)?)))
            .ok_or(Error::Overflow)
    }

    /// Forgets all parts in the buffer.
    pub(crate) fn clear(&self, buffer: &mut [u8]) {
        for index in 0..self.0.len() {
            if let Ok((length, _)) = self.slot(buffer, index) {
                *length = [0; LENGTH_SIZE];
            }
        }
    }

    /// Returns `count` bytes of the buffer for the part with this index, from its byte `from` on.
    pub(crate) fn piece<'b>(
        &self,
        buffer: &'b mut [u8],
        index: usize,
        from: usize,
        count: usize,
    ) -> Result<&'b mut [u8], Error> {
        let (_, bytes) = self.slot(buffer, index)?;
        bytes
            .get_mut(from..)
            .and_then(|rest| rest.get_mut(..count))
            .ok_or(Error::Overflow)
    }

    /// Notes that `length` bytes of a part are complete in the buffer.
    pub(crate) fn complete(
        &self,
        buffer: &mut [u8],
        index: usize,
        length: u32,
    ) -> Result<(), Error> {
        *self.slot(buffer, index)?.0 = length.to_le_bytes();
        Ok(())
    }
}

/// The memory of a part: its length, and its bytes.
type Slot<'b> = (&'b mut [u8; LENGTH_SIZE], &'b mut [u8]);

/// Returns the bit of an index.
pub(crate) fn bit(index: u32) -> u32 {
    1_u32.checked_shl(index).unwrap_or(0)
}

/// The parts that a stream had.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    table: PartTable,
    buffer: &'a [u8],
}

impl<'a> Parts<'a> {
    /// Returns the parts in the buffer of a load.
    pub(crate) fn new(table: PartTable, buffer: &'a [u8]) -> Self {
        Parts { table, buffer }
    }

    /// Returns the bytes of a part; `None` if the stream does not have it.
    pub fn get(&self, number: u32) -> Option<&'a [u8]> {
        let at = self.table.offset(self.table.index(number.into())?);
        let (length, rest) = self.buffer.get(at..)?.split_first_chunk()?;
        match u32::from_le_bytes(*length) {
            0 => None,
            length => rest.get(..length as usize),
        }
    }
}

/// A device's own state, as it arrived.
#[derive(Clone, Copy, Debug)]
pub struct SavedState<'a> {
    /// The version of the device that saved it.
    pub version: u32,
    /// The DEVICE records, joined.
    pub bytes: &'a [u8],
    /// The parts.
    pub parts: Parts<'a>,
}
