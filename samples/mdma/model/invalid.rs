// SPDX-License-Identifier: GPL-2.0

//! What is wrong with a saved state.

use core::fmt;

/// A field whose value no device can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidField {
    /// Name of the field.
    pub field: &'static str,
    /// Its value, or for the descriptor the number of the [`Error`](crate::desc::Error).
    pub value: u64,
}

impl fmt::Display for InvalidField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let InvalidField { field, value } = self;
        write!(f, "saved state: {field} {value:#x} is invalid")
    }
}
