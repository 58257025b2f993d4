// SPDX-License-Identifier: GPL-2.0

//! The migration protocol of a VFIO device, without the device and without the kernel.
//!
//! | module     | what it decides                                                        |
//! |------------|------------------------------------------------------------------------|
//! | [`region`] | which register of the v1 region an access hits, or why it is refused    |
//! | [`state`]  | the eight device states, the arcs of v1 and v2, what each arc does      |
//! | [`stream`] | the bytes of a saved device: identity, records, checksums, errors       |
//! | [`dirty`]  | which pages of device memory still have to be sent                      |
//! | [`save`]   | what to send next                                                       |
//! | [`load`]   | what arrived, whether it may be applied                                 |
//!
//! Nothing here allocates, blocks, logs or knows who calls: memory is handed in, the device is
//! reached through the traits [`save::Source`] and [`load::Sink`], and a refusal is a value that
//! knows its errno and prints its reason. The crate is built twice from the same files, into the
//! kernel module and by cargo for the tests.
//!
//! Callers serialise: one session is used by one thread at a time. Only [`dirty::DirtyMap`] is
//! made to be shared with those who write device memory meanwhile.
//!
//! Numbers such as P19 refer to `Documentation/requirements.rst`.

// Kbuild says `no_std` as well, cargo does not.
#![allow(unused_attributes)]
#![no_std]
#![forbid(unsafe_code)]

mod codec;
pub mod dirty;
mod error;
mod frame;
mod identity;
pub mod load;
pub mod region;
pub mod save;
pub mod state;
pub mod stream;
