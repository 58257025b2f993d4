// SPDX-License-Identifier: GPL-2.0

//! A block of registers at the start of a migration region, as a table.
//!
//! Each generation of the region has a [`Block`]: the fields, and the groups of fields that are accessed
//! at once. [`Block::decode`] is total: every offset, length and direction gives fields or an
//! [`AccessError`], and has no side effect (P3).

use crate::state::State;
use core::fmt;

/// Direction of an access, from the user's view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The user reads.
    Read,
    /// The user writes.
    Write,
}

/// When an access is permitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Never (P5).
    Never,
    /// Always; the value decides whether a write succeeds.
    Always,
    /// Only while the device is saved.
    Saving,
    /// Only while the device is resuming (P5).
    Resuming,
}

/// A row of the table: one register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<F> {
    /// The register.
    pub register: F,
    /// Its offset in the region, in bytes.
    pub offset: u64,
    /// Its width in bytes, the only legal length of an access to it alone (P3).
    pub width: usize,
    /// When it may be read.
    pub read: When,
    /// When it may be written.
    pub write: When,
}

/// Adjacent fields that one access covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// Index of the first field.
    pub first: usize,
    /// Number of fields.
    pub count: usize,
    /// When the group may be read.
    pub read: When,
    /// When the group may be written. The rules of its fields do not matter then.
    pub write: When,
}

/// The register block of a generation.
#[derive(Clone, Copy, Debug)]
pub struct Block<F: 'static> {
    /// The fields, by offset.
    pub fields: &'static [Field<F>],
    /// The groups.
    pub groups: &'static [Group],
}

/// What an access hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit<F: 'static> {
    /// The fields: one, or those of a group.
    pub fields: &'static [Field<F>],
    /// When this access is permitted.
    pub when: When,
}

/// Why an access is refused: always `EINVAL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessError<F> {
    /// The access has no bytes. A front end returns 0 for it without calling [`Block::decode`].
    Empty,
    /// The access ends outside the region.
    Outside,
    /// No register starts at this offset (P3).
    NoRegister,
    /// The length is not the register's width (P3).
    Width(F),
    /// The register is read only (P5).
    ReadOnly(F),
    /// The register is write only.
    WriteOnly(F),
    /// The access is permitted only while the device is saved.
    NotSaving(F),
    /// The access is permitted only while resuming (P5).
    NotResuming(F),
}

impl<F> AccessError<F> {
    /// Returns the positive errno of this error.
    pub const fn errno(&self) -> i32 {
        crate::error::EINVAL
    }
}

impl<F: fmt::Display> fmt::Display for AccessError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AccessError::Empty => f.write_str("the access has no bytes"),
            AccessError::Outside => f.write_str("the access ends outside the region"),
            AccessError::NoRegister => f.write_str("no register starts at this offset"),
            AccessError::Width(r) => write!(f, "{r} must be accessed at its native width"),
            AccessError::ReadOnly(r) => write!(f, "{r} is read only"),
            AccessError::WriteOnly(r) => write!(f, "{r} is write only"),
            AccessError::NotSaving(r) => write!(f, "{r} is accessible only while saving"),
            AccessError::NotResuming(r) => write!(f, "{r} is writable only while resuming"),
        }
    }
}

impl<F: Copy> Block<F> {
    /// Returns the fields that an access of `len` bytes at `offset` hits.
    ///
    /// Does not depend on the state of the device; [`Hit::permits`] checks that.
    pub fn decode(
        &self,
        offset: u64,
        len: usize,
        direction: Direction,
    ) -> Result<Hit<F>, AccessError<F>> {
        let start = |field: &Field<F>| field.offset == offset;
        let first = self.fields.iter().position(start);
        let (first, field) = first
            .and_then(|at| Some((at, self.fields.get(at)?)))
            .ok_or(AccessError::NoRegister)?;

        let (count, read, write) = if len == field.width {
            (1, field.read, field.write)
        } else {
            let width = |group: &Group| -> usize {
                let fields = self.fields.iter().skip(group.first).take(group.count);
                fields.map(|field| field.width).sum()
            };
            let group = self
                .groups
                .iter()
                .find(|g| g.first == first && width(g) == len);
            let group = group.ok_or(AccessError::Width(field.register))?;
            (group.count, group.read, group.write)
        };
        let when = match (direction, read, write) {
            (Direction::Read, When::Never, _) => Err(AccessError::WriteOnly(field.register)),
            (Direction::Write, _, When::Never) => Err(AccessError::ReadOnly(field.register)),
            (Direction::Read, when, _) | (Direction::Write, _, when) => Ok(when),
        }?;
        let fields = self.fields.get(first..first.saturating_add(count));
        let fields = fields.ok_or(AccessError::NoRegister)?;
        Ok(Hit { fields, when })
    }
}

impl<F: Copy> Hit<F> {
    /// Returns the first register.
    pub fn register(&self) -> Result<F, AccessError<F>> {
        let first = self.fields.first();
        first.map(|f| f.register).ok_or(AccessError::NoRegister)
    }

    /// Checks that `state` permits the access.
    pub fn permits(&self, state: State) -> Result<(), AccessError<F>> {
        let register = self.register()?;
        match self.when {
            When::Never => Err(AccessError::ReadOnly(register)),
            When::Saving if !state.is_saving() => Err(AccessError::NotSaving(register)),
            When::Resuming if !state.is_resuming() => Err(AccessError::NotResuming(register)),
            When::Always | When::Saving | When::Resuming => Ok(()),
        }
    }
}
