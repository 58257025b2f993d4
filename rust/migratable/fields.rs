// SPDX-License-Identifier: GPL-2.0

//! The state of a device, declared once.
//!
//! [`fields!`](crate::fields!) declares the fields with their values at power-on and the values that they can
//! have. The saved state follows from it: the fields in order, little endian, without padding. A value that
//! the declaration does not allow is refused. So a driver writes no code that saves or checks a field.

use crate::stream::{
    Reader,
    Writer, //
};
use core::ops::{
    BitAnd,
    Not, //
};
use kernel::prelude::*;

/// A value that a saved state has.
pub trait Field: Copy {
    /// Bytes of the saved value.
    const SIZE: usize;

    /// Saves the value.
    fn save(&self, out: &mut Writer<'_>) -> Result;

    /// Decodes a value. `EINVAL` if it is illegal.
    fn decode(input: &mut Reader<'_>) -> Result<Self>;
}

/// Implements [`Field`] for an integer.
macro_rules! integer {
    ($($ty:ty)*) => { $(
        impl Field for $ty {
            const SIZE: usize = size_of::<Self>();

            fn save(&self, out: &mut Writer<'_>) -> Result {
                Ok(out.put_bytes(&self.to_le_bytes())?)
            }

            fn decode(input: &mut Reader<'_>) -> Result<Self> {
                Ok(Self::from_le_bytes(input.get_array()?))
            }
        }
    )* };
}

integer! { u8 u16 u32 u64 }

impl Field for bool {
    const SIZE: usize = 1;

    fn save(&self, out: &mut Writer<'_>) -> Result {
        u8::from(*self).save(out)
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self> {
        match input.get_u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(input.illegal("bool").into()),
        }
    }
}

impl<F: Field + Default, const N: usize> Field for [F; N] {
    const SIZE: usize = N * F::SIZE;

    fn save(&self, out: &mut Writer<'_>) -> Result {
        self.iter().try_for_each(|value| value.save(out))
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self> {
        let mut values = [F::default(); N];
        for value in &mut values {
            *value = F::decode(input)?;
        }
        Ok(values)
    }
}

/// Returns whether `value` has only bits of `mask`.
pub fn bits<T: Copy + Default + PartialEq + BitAnd<Output = T> + Not<Output = T>>(
    value: T,
    mask: T,
) -> bool {
    value & !mask == T::default()
}

/// Returns whether `value` is at most `limit`.
pub fn max<T: PartialOrd>(value: T, limit: T) -> bool {
    value <= limit
}

/// Declares a structure whose fields are saved: name, type, value at power-on, and what is legal.
///
/// Without a condition each value of the type is legal. `bits MASK` allows the bits of a mask, `max LIMIT`
/// values up to a limit.
///
/// ```ignore
/// migratable::fields! {
///     /// The registers.
///     struct Regs {
///         /// The divisor.
///         divisor: u16 = 12;
///         control: u8 = 0, bits 0x1f;
///         count: u8 = 0, max 16;
///     }
/// }
/// ```
///
/// The structure is [`Copy`], its [`Default`] is the state at power-on, and it is a [`Field`].
#[macro_export]
macro_rules! fields {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident {
            $(
                $(#[$field_meta:meta])*
                $field:ident: $ty:ty = $power_on:expr $(, $check:ident $limit:expr)?;
            )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy)]
        $vis struct $name {
            $($(#[$field_meta])* $field: $ty,)*
        }

        impl ::core::default::Default for $name {
            fn default() -> Self {
                Self { $($field: $power_on,)* }
            }
        }

        impl $crate::fields::Field for $name {
            const SIZE: usize = 0 $(+ <$ty as $crate::fields::Field>::SIZE)*;

            fn save(&self, out: &mut $crate::stream::Writer<'_>) -> ::kernel::error::Result {
                $($crate::fields::Field::save(&self.$field, out)?;)*
                Ok(())
            }

            fn decode(
                input: &mut $crate::stream::Reader<'_>,
            ) -> ::kernel::error::Result<Self> {
                let value = Self { $($field: $crate::fields::Field::decode(input)?,)* };
                $($(
                    if !$crate::fields::$check(value.$field, $limit) {
                        return Err(input.illegal(::core::stringify!($field)).into());
                    }
                )?)*
                Ok(value)
            }
        }
    };
}

/// Declares that one [`Field`] in a mutex is the saved state of a device.
///
/// Used in `impl Driver`, with the field of the driver that has the mutex, and the type of its data. Gives
/// the driver its `State`, `save()` and `decode()`.
///
/// ```ignore
/// impl Driver for Serial {
///     migratable::saved_state! { uart: Uart }
///     // ...
/// }
/// ```
#[macro_export]
macro_rules! saved_state {
    ($field:ident: $ty:ty) => {
        type State = $ty;

        fn save(
            dev: &$crate::device::Device<Self>,
            out: &mut $crate::stream::Writer<'_>,
        ) -> ::kernel::error::Result {
            $crate::fields::Field::save(&*dev.$field.lock(), out)
        }

        fn decode(
            _dev: &$crate::device::Device<Self>,
            input: &mut $crate::stream::Reader<'_>,
        ) -> ::kernel::error::Result<$ty> {
            <$ty as $crate::fields::Field>::decode(input)
        }
    };
}
