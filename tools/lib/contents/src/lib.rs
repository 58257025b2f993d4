// SPDX-License-Identifier: GPL-2.0

//! What a program can put into a device that it does not know: registers and memory that keep what is written.
//!
//! | file       | contents                                                     |
//! |------------|--------------------------------------------------------------|
//! | `kind`     | the mdev types of a device, and their sizes                  |
//! | `register` | registers, found by trying                                   |
//! | `memory`   | memory in a BAR, or the storage of an NVMe controller        |

#![forbid(unsafe_code)]

mod kind;
mod memory;
mod register;

pub use kind::{find_type, size_of_type, smallest_type, types_by_size};
pub use memory::{Mappable, Memory, Place, PAGE};
pub use register::Register;
