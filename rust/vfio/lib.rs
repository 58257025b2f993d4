// SPDX-License-Identifier: GPL-2.0

//! Mediated devices that live-migrate.
//!
//! A driver implements [`Driver`]: what its registers do, one bounded unit of its work, and how its
//! state is saved and restored. Everything else is here: the mdev parent and its types
//! ([`mdev`]), the VFIO device with its regions, interrupts and configuration space, guest memory
//! ([`dma`]), device memory that guests map ([`memory`]), and both migration protocols.
//!
//! ```text
//!   user ──► vfio core ──► ops ──► region ──► pci    configuration space
//!                           │        ├──────► Driver  registers
//!                           │        ├──────► memory  device memory, mapped
//!                           │        └──────► migration
//!                           ├──► irq
//!                           └──► dma (unmap)         engine ──► Driver::work
//! ```
//!
//! All `unsafe` code of the module is in this crate and its bindings; a driver needs none.
//!
//! # Locks
//!
//! `Documentation/design.rst` lists all locks, outermost first, and the rules for holding them. Each
//! file that has a lock says what it orders.

#[path = "../bindings/mod.rs"]
mod bindings;

mod budget;
mod command;
mod config;
mod crc;
mod debugfs;
pub mod device;
pub mod dma;
pub mod driver;
mod engine;
pub mod event;
mod eventfd;
pub mod irq;
mod kcov;
mod lifecycle;
mod lock;
mod log;
pub mod mdev;
pub mod memory;
pub mod migration;
mod msix;
mod mutex;
mod nospec;
mod ops;
pub mod pci;
mod position;
mod region;
mod registration;
mod rwsem;
#[cfg(any(break_dirty_page, break_memory_page))]
mod sabotage;
mod set_irqs;
pub mod stream;
mod uuid;
mod worker;

pub use crc::crc32c;
pub use device::Device;
pub use driver::{
    Driver,
    Info,
    Refused, //
};
pub use engine::WorkResult;

// Offsets in the device file have more than 32 bits, and the numbers of pages and bytes of device
// memory are `usize`.
const _: () = assert!(usize::BITS == 64, "the kernel is not one of 64 bits");

/// The prefix of the lines the `pr_*` macros of this crate print.
const __LOG_PREFIX: &[u8] = b"vfio_mdev_rs\0";
