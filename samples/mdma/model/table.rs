// SPDX-License-Identifier: GPL-2.0

//! Enums that are described by a table.

/// Declares an enum, and a table with one row for each variant in the order of their numbers. The
/// variant itself is the field `key` of its row.
macro_rules! table {
    (
        $(#[$enum_attr:meta])*
        pub enum $Enum:ident;
        $(#[$table_attr:meta])*
        pub const $TABLE:ident: [$Row:ident; _] = [
            $($Variant:ident { $($fields:tt)* })*
        ] by $key:ident;
    ) => {
        $(#[$enum_attr])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[expect(missing_docs, reason = "the table describes the variants")]
        pub enum $Enum {
            $($Variant,)*
        }

        $(#[$table_attr])*
        pub const $TABLE: [$Row; [$($Enum::$Variant),*].len()] = [
            $($Row { $key: $Enum::$Variant, $($fields)* },)*
        ];

        impl $Enum {
            /// Returns the row of this variant.
            #[inline]
            pub const fn row(self) -> &'static $Row {
                static ROWS: [$Row; $TABLE.len()] = $TABLE;
                &ROWS[self as usize]
            }
        }
    };
}
pub(crate) use table;
