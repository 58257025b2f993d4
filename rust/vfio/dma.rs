// SPDX-License-Identifier: GPL-2.0

//! Guest memory, by IOVA.
//!
//! [`Dma::read`] and [`Dma::write`] copy. type1 reports exactly the pages that [`Dma::write`] wrote as
//! dirty (P30, P31). [`Dma::pin`] returns a [`PinnedRange`], for memory that is polled or shared, such as
//! a ring. type1 reports its pages as dirty for as long as they are pinned, so pin little. All functions
//! work only while the device is open, and may sleep.
//!
//! | file           | what is in it                                                     |
//! |----------------|-------------------------------------------------------------------|
//! | `guest_memory` | [`Dma`]: the guest memory of one device                           |
//! | `ring`         | guest memory of a ring: pinned if possible, else copied           |
//! | `pinned`       | a pinned range, as its holder sees it                             |
//! | `pins`         | the list of pinned ranges, and their states                       |
//! | `range`        | a range: its access and its pages                                 |
//! | `unmaps`       | the unmaps in progress                                            |
//! | `logging`      | device DMA logging                                                |
//! | `chunk`        | writes a chunk so that type1 reports each page of it              |
//! | `device`       | the device that guest memory is accessed through                  |
//!
//! # Locks
//!
//! ```text
//!   device (read)   held over every call into type1 except unpinning; close takes it for writing
//!     type1's own   iommu->lock, the user's mmap lock, then page faults, also those of our BARs
//!   pins            the list of pinned ranges; never held over a call into type1
//!     unmaps        the unmaps in progress, of all devices
//!     contents      of one range: a spinlock, held over an access to its pages
//! ```
//!
//! type1 calls [`Dma::unmap`] under a lock of its own, which open and close of a device take too.
//! [`Dma::unmap`] takes `pins` only. It waits without limit only for work that needs no lock that type1
//! holds then; see `pins`.

mod chunk;
mod device;
mod guest_memory;
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
