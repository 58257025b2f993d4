// SPDX-License-Identifier: GPL-2.0

//! Guest memory, by IOVA.
//!
//! [`Dma::read`] and [`Dma::write`] copy. type1 reports exactly the pages that [`Dma::write`] wrote as
//! dirty (P30, P31). [`Dma::ring`] is for small memory that is polled or shared: it is pinned if possible.
//! [`RegisteredMemory`] is for memory that a device accesses often: it is pinned once, for as long as the
//! guest wants, and [`MemoryKeys`] gives it a key. type1 reports pinned pages as dirty at every look. All
//! functions work only while the device is open, and may sleep.
//!
//! | file           | what is in it                                                     |
//! |----------------|-------------------------------------------------------------------|
//! | `guest_memory` | [`Dma`]: the guest memory of one device                           |
//! | `ring`         | guest memory of a ring: pinned if possible, else copied           |
//! | `registered`   | registered memory: pinned once, any size                          |
//! | `keys`         | the keys of registered memory                                     |
//! | `pieces`       | how registered memory is divided                                  |
//! | `pinned`       | a pinned range, as its holder sees it                             |
//! | `pins`         | pins and unpins ranges, and unpins what is unmapped               |
//! | `list`         | the list of pinned ranges, and their states                       |
//! | `range`        | a range: its access and its pages                                 |
//! | `unmaps`       | the unmaps in progress                                            |
//! | `logging`      | device DMA logging                                                |
//! | `chunk`        | writes a chunk so that type1 reports each page of it              |
//! | `device`       | the device that guest memory is accessed through                  |
//! | `faults`       | the points at which root can make accesses fail                   |
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
mod faults;
mod guest_memory;
mod keys;
mod list;
mod logging;
mod pieces;
mod pinned;
mod pins;
mod range;
mod registered;
mod ring;
mod unmaps;

pub use self::{
    faults::Faults,
    guest_memory::Dma,
    keys::{
        KeyError,
        MemoryKeys,
        MAX_KEYS, //
    },
    range::Access,
    registered::RegisteredMemory,
    ring::RingMemory, //
};

pub use self::{
    guest_memory::check,
    unmaps::{
        Unmaps,
        UnpinQueue, //
    },
};
