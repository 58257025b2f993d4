// SPDX-License-Identifier: GPL-2.0

//! Guest memory, by IOVA.
//!
//! There are two ways to it. [`Dma::read`] and [`Dma::write`] copy, and what they write is exactly
//! what type1 reports dirty (P30, P31). [`Dma::pin`] gives a [`PinnedRange`], for what is polled or
//! shared, such as a ring; its pages are reported dirty for as long as they are pinned, so pin
//! little. All of it works only while the device is open, and may sleep.
//!
//! | file           | what is in it                                                     |
//! |----------------|-------------------------------------------------------------------|
//! | `guest_memory` | [`Dma`]: the guest memory of one device                           |
//! | `ring`         | guest memory of a ring: pinned where it can be, else copied       |
//! | `pinned`       | a pinned range, as its holder has it                              |
//! | `pins`         | the list of pinned ranges, and their states                       |
//! | `range`        | a range: what it is pinned for, and its pages                     |
//! | `unmaps`       | the unmaps in progress                                            |
//! | `logging`      | device DMA logging                                                |
//! | `chunk`        | how a chunk is written so that each page of it is reported        |
//! | `device`       | the device that guest memory is accessed through                  |
//!
//! # Locks
//!
//! ```text
//!   gate (read)     held over every call into type1 but unpinning; closing takes it for writing
//!     type1's own   iommu->lock, the mmap lock of the user, then page faults, ours included
//!   pins            the list of pinned ranges; never held over a call into type1
//!     unmaps        the unmaps in progress, of all devices
//!     contents      of one range: a spinlock, held over an access to its pages
//! ```
//!
//! type1 calls [`Dma::unmap`] under a lock of its own that opening and closing a device take too. It
//! takes `pins` only, and what it waits for without end needs nothing that type1 holds then; see
//! `pins`.

mod chunk;
mod device;
mod guest_memory;
#[cfg(CONFIG_IOMMUFD_DRIVER)]
mod logging;
#[cfg(not(CONFIG_IOMMUFD_DRIVER))]
#[path = "dma/no_logging.rs"]
mod logging;
mod pinned;
mod pins;
mod range;
mod ring;
mod unmaps;

pub use self::{
    guest_memory::Dma,
    pinned::PinnedRange,
    range::Access,
    ring::RingMemory, //
};

pub use self::{
    guest_memory::check,
    unmaps::{
        Unmaps,
        UnpinQueue, //
    },
};
