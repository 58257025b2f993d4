// SPDX-License-Identifier: GPL-2.0

//! How a driver writes its state down and reads it back.

pub use migration::stream::{
    Reader,
    Writer, //
};

/// The kernel's error for one of these.
pub fn error(error: migration::stream::Error) -> kernel::error::Error {
    kernel::error::Error::from_errno(-error.errno())
}
