// SPDX-License-Identifier: GPL-2.0

//! The device model of mdma: what the device is and does, without the kernel.
//!
//! | module      | contents                                                  |
//! |-------------|-----------------------------------------------------------|
//! | [`regs`]    | the table of registers                                    |
//! | [`desc`]    | descriptors and completion records                        |
//! | [`key`]     | registered memory: keys, and their saved state            |
//! | [`list`]    | scatter lists: entries, and a job's position in one       |
//! | [`queue`]   | the ring: indexes and addresses                           |
//! | [`control`] | the contents of the registers, and the effects of accesses |
//! | [`refused`] | why an access is refused, and the register that tells     |
//! | [`engine`]  | one unit of work on a job                                 |
//! | [`state`]   | the saved state: layout and checks                        |
//!
//! The crate is built twice from the same files: by Kbuild into the kernel module, and by cargo for
//! the userspace driver in `tools/mdma` and its tests. It reaches memory through [`engine::Bus`].
//!
//! What a job or a register access calls is `#[inline]`, or the compiler could not inline it into the
//! crate `mdma`. What only userspace or a migration calls is not.

// Kbuild says `no_std` as well, cargo does not.
#![allow(unused_attributes)]
#![no_std]
#![forbid(unsafe_code)]

pub mod control;
pub mod desc;
pub mod engine;
mod error;
mod invalid;
pub mod key;
mod layout;
pub mod list;
mod place;
pub mod queue;
pub mod refused;
pub mod regs;
pub mod state;
mod table;
