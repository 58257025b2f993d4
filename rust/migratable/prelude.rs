// SPDX-License-Identifier: GPL-2.0

//! What nearly each driver uses.

pub use crate::{
    fields,
    pci,
    refuse,
    saved_state,
    stream::{
        Reader,
        Writer, //
    },
    Attribute,
    Delta,
    Device,
    Driver,
    Field,
    Fifo,
    Info,
    Part,
    Refused,
    Type,
    Wakeup,
    WorkResult, //
};
#[doc(no_inline)]
pub use kernel::{
    new_mutex,
    prelude::*,
    sync::Mutex, //
};
