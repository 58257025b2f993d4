// SPDX-License-Identifier: GPL-2.0

//! The device model of mnvme: an NVMe 1.4 controller with one namespace, without the kernel.
//!
//! | module         | contents                                                      |
//! |----------------|---------------------------------------------------------------|
//! | [`regs`]       | the table of registers                                        |
//! | [`status`]     | the table of status codes                                     |
//! | [`command`]    | the tables of commands, and the decoding of an entry          |
//! | [`feature`]    | the table of features, and their values                       |
//! | [`log`]        | the table of log pages, what they list and count              |
//! | [`event`]      | asynchronous events                                           |
//! | [`queue`]      | submission and completion queues: indexes and addresses       |
//! | [`job`]        | commands that take several units                              |
//! | [`controller`] | the contents of registers and queues, effects of accesses     |
//! | [`host`]       | the machine around the controller                             |
//! | [`prp`]        | PRP lists: where the data of a command is in guest memory     |
//! | [`admin`]      | admin commands                                                |
//! | [`identify`]   | the data of Identify                                          |
//! | [`log_page`]   | the contents of the log pages                                 |
//! | [`io`]         | I/O commands                                                  |
//! | [`engine`]     | one unit of work: a command, from its fetch to its completion |
//! | [`state`]      | the saved state: layout and checks                            |
//!
//! The crate is built twice from the same files: by Kbuild into the kernel module, and by cargo for
//! its tests. It reaches guest memory and storage through [`host::Host`].
//!
//! Numbers and names are those of the NVM Express Base Specification, revision 1.4.

// Kbuild says `no_std` as well, cargo does not.
#![allow(unused_attributes)]
#![no_std]
#![forbid(unsafe_code)]

pub mod admin;
pub mod command;
mod completion;
pub mod controller;
pub mod engine;
pub mod event;
pub mod feature;
pub mod host;
pub mod identify;
pub mod io;
pub mod job;
pub mod log;
pub mod log_page;
mod page;
pub mod prp;
pub mod queue;
pub mod regs;
pub mod state;
pub mod status;

/// Bytes of a logical block.
pub const BLOCK: usize = 512;

/// Bytes of a memory page: the only value of `CC.MPS`.
pub const PAGE: usize = 4096;

/// I/O queue pairs.
pub const IO_QUEUES: usize = 8;

/// Queue pairs: the admin queues are number 0.
pub const QUEUES: usize = IO_QUEUES + 1;

/// The most entries of a queue.
pub const ENTRIES_MAX: u16 = 1024;

/// The most bytes that a command transfers: `2^MDTS` pages.
pub const TRANSFER_MAX: usize = PAGE << MDTS;

/// `MDTS` of the Identify Controller data.
pub const MDTS: u8 = 5;

/// Bytes of storage behind the namespace. They keep the identity of the controller, so it lives as
/// long as the data and migrates with it.
pub const TRAILER: u64 = PAGE as u64;
