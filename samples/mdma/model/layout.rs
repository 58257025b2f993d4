// SPDX-License-Identifier: GPL-2.0

//! Layouts of structures in memory, as tables.

/// A field of a structure.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Name of the field.
    pub name: &'static str,
    /// Offset in bytes.
    pub offset: usize,
    /// Size in bytes.
    pub size: usize,
    /// What it means.
    pub meaning: &'static str,
}

/// Returns whether a layout has no holes and ends at `size`.
pub const fn dense(fields: &[Field], size: usize) -> bool {
    let mut end = 0;
    let mut i = 0;
    while i < fields.len() {
        if fields[i].offset != end {
            return false;
        }
        end += fields[i].size;
        i += 1;
    }
    end == size
}
