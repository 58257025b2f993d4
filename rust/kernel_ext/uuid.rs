// SPDX-License-Identifier: GPL-2.0

//! UUIDs of mdevs.

use vfio_bindings as bindings;

/// The UUID an mdev was created with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Uuid([u8; 16]);

impl Uuid {
    /// From the kernel's `guid_t`, whose first three groups are little endian.
    pub fn from_guid(guid: &bindings::guid_t) -> Self {
        Self(guid.b)
    }
}

impl core::fmt::Display for Uuid {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        /// The order in which the bytes of a `guid_t` are printed, and the dashes, as `%pUl` does.
        const ORDER: [u8; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];

        for (i, &at) in ORDER.iter().enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{:02x}", self.0[usize::from(at)])?;
        }
        Ok(())
    }
}
