// SPDX-License-Identifier: GPL-2.0

//! The migration protocol of a VFIO device, independent of any device and of the kernel.
//!
//! | module         | what it decides                                                          |
//! |----------------|--------------------------------------------------------------------------|
//! | [`generation`] | the generations of the interface                                         |
//! | [`fields`]     | a block of registers as a table                                          |
//! | [`region`]     | which register of the v1 region an access hits, or why it is refused      |
//! | [`v7`]         | the registers of the region of July 2019                                  |
//! | [`v2018`]      | the registers, states and arcs of the region of November 2018             |
//! | [`incoming`]   | a section that the user writes before or after its size                   |
//! | [`dirty_query`] | the question for dirty guest pages of these two, and the answer          |
//! | [`state`]      | the eight device states and their v1 and v2 encodings                     |
//! | [`transition`] | the permitted changes of state, and the actions of each                   |
//! | [`stream`]     | the bytes of a saved device: identity, records, checksums, errors         |
//! | [`dirty`]      | which pages of device memory still have to be sent                        |
//! | [`save`]       | what to send next                                                         |
//! | [`load`]       | what arrived, and whether it may be applied                               |
//!
//! Nothing here allocates, blocks, logs or knows its caller. The caller passes memory in, the traits
//! [`save::Source`] and [`load::Sink`] reach the device, and an error is a value with an errno and a
//! message. The crate is built twice from the same files: by Kbuild into the module, and by cargo
//! for the tests.
//!
//! The caller serialises: one thread at a time uses a session. Only [`dirty::DirtyMap`] is shared
//! with concurrent writers of device memory.
//!
//! Numbers such as P19 refer to `Documentation/requirements.rst`.

// Kbuild says `no_std` as well, cargo does not.
#![allow(unused_attributes)]
#![no_std]
#![forbid(unsafe_code)]

mod checksum;
pub mod dirty;
pub mod dirty_query;
mod error;
pub mod fields;
mod format;
pub mod generation;
mod identity;
mod identity_text;
pub mod incoming;
mod limits;
pub mod load;
mod part;
mod pending_parts;
mod record;
mod record_writer;
pub mod region;
pub mod save;
mod sink;
mod size;
mod source;
pub mod state;
mod state_codec;
pub mod stream;
mod totals;
pub mod transition;
pub mod v2018;
pub mod v7;
