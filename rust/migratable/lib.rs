// SPDX-License-Identifier: GPL-2.0

//! Mediated PCI devices that live-migrate.
//!
//! A driver implements [`Driver`]: what its registers do, one bounded unit of its work, and how its
//! state is saved and restored. Everything else is here and in the crates below: the mdev parent and
//! its types ([`Parent`]), regions, interrupts ([`irq`]) and configuration space ([`pci`]), guest
//! memory ([`dma`]), device memory that guests map ([`memory`]), and both migration protocols.
//!
//! ```text
//!   crate vfio ──► region ──► pci       configuration space
//!                   ├───────► Driver    registers
//!                   ├───────► memory    device memory, mapped
//!                   ├───────► migration
//!                   └───────► lifecycle            worker ──► Driver::work
//! ```
//!
//! # Locks
//!
//! `Documentation/design.rst` lists all locks, outermost first, and the rules for holding them. Each
//! file that has a lock says what it orders.

mod attribute;
mod attributes;
mod budget;
mod command;
mod counters;
pub mod device;
mod device_worker;
pub mod driver;
mod faults;
mod features;
pub mod fields;
mod fifo;
mod host_end;
mod host_file;
mod lifecycle;
pub mod memory;
pub mod migration;
mod module;
#[cfg(mutation_memory_page)]
mod mutation;
mod parent;
mod part_changes;
pub mod prelude;
mod region;
mod region_info;
mod registration;
mod ring;
pub mod stream;
mod timer;
mod timers;

#[doc(no_inline)]
pub use ::migration::stream::Part;
pub use attribute::Attribute;
pub use device::Device;
pub use device_worker::{
    Wakeup,
    WorkResult, //
};
pub use driver::{
    Driver,
    Info,
    Refused, //
};
pub use features::Migration;
#[doc(no_inline)]
pub use fields::Field;
pub use fifo::Fifo;
pub use host_end::HostEnd;
#[doc(no_inline)]
pub use kernel::time::Delta;
pub use kernel_ext::crc32c;
#[doc(no_inline)]
pub use kernel_ext::event;
pub use parent::{
    Parent,
    Type, //
};
#[doc(no_inline)]
pub use pci_function as pci;
pub use timer::Timer;
#[doc(no_inline)]
pub use vfio::{
    dma,
    irq,
    refuse, //
};

// Offsets in the device file have more than 32 bits, and the numbers of pages and bytes of device
// memory are `usize`.
const _: () = assert!(usize::BITS == 64, "the kernel is not one of 64 bits");

/// The prefix of the lines that the `pr_*` macros of this crate print.
const __LOG_PREFIX: &[u8] = b"vfio_mdev_rs\0";
