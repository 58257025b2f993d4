// SPDX-License-Identifier: GPL-2.0

//! Layouts of structures in memory. All numbers are little endian.

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

/// Declares a structure, the table of its fields, and the encoding in which they follow each other.
macro_rules! layout {
    (
        $(#[$attr:meta])*
        pub struct $Name:ident in $TABLE:ident[$SIZE:ident], $(#[$encode:meta])* encode {
            $($field:ident: $type:ty, $meaning:literal;)*
        }
    ) => {
        $(#[$attr])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(C)]
        pub struct $Name {
            $(#[doc = $meaning] pub $field: $type,)*
        }

        #[doc = concat!("Layout of [`", stringify!($Name), "`].")]
        pub const $TABLE: [Field; [$($meaning),*].len()] = [$(
            Field {
                name: stringify!($field),
                offset: offset_of!($Name, $field),
                size: size_of::<$type>(),
                meaning: $meaning,
            },
        )*];
        const _: () = assert!(dense(&$TABLE, $SIZE));

        impl $Name {
            /// Returns its bytes.
            $(#[$encode])*
            pub fn encode(&self) -> [u8; $SIZE] {
                let mut bytes = [0; $SIZE];
                $(
                    bytes[offset_of!($Name, $field)..][..size_of::<$type>()]
                        .copy_from_slice(&self.$field.to_le_bytes());
                )*
                bytes
            }
        }
    };
}
pub(crate) use layout;

/// Reads fields one after the other.
pub(crate) struct Decoder<'a>(pub(crate) &'a [u8]);

impl Decoder<'_> {
    pub(crate) fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.0.split_at(N);
        self.0 = rest;
        let mut bytes = [0; N];
        bytes.copy_from_slice(field);
        bytes
    }

    #[inline]
    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    #[inline]
    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}
