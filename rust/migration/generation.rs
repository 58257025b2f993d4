// SPDX-License-Identifier: GPL-2.0

//! The generations of the migration interface that a device can have.
//!
//! ```text
//!   generation  posted         region type, subtype   together with v2
//!   v1          2020, merged   3, 1                   yes
//!   v7          July 2019      2, 1 (configurable)    no
//!   2018        November 2018  1 << 30, 1             no
//! ```
//!
//! A device has one of them from its first open on. `Documentation/history.rst` compares them.

/// A generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum Generation {
    /// The region that the kernel merged, and the ioctls and files of v2.
    #[default]
    V1 = 1,
    /// The region of version 7 of the series, of July 2019.
    V7 = 7,
    /// The region of the posting of November 2018.
    V2018 = 2018,
}

impl Generation {
    /// All generations, the youngest first.
    pub const ALL: [Generation; 3] = [Generation::V1, Generation::V7, Generation::V2018];

    /// Returns the name, as users write and read it.
    pub const fn name(self) -> &'static str {
        match self {
            Generation::V1 => "v1",
            Generation::V7 => "v7",
            Generation::V2018 => "2018",
        }
    }

    /// Returns the generation with this name.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|generation| generation.name().as_bytes() == name)
    }

    /// Returns the generation with this number: 1, 7 or 2018.
    #[inline]
    pub fn from_number(number: u32) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|generation| *generation as u32 == number)
    }

    /// Returns whether the device also has v2. The older generations report dirty pages of guest memory
    /// themselves and have their own states, which v2 would contradict.
    pub const fn has_v2(self) -> bool {
        matches!(self, Generation::V1)
    }
}
