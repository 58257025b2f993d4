// SPDX-License-Identifier: GPL-2.0

//! Access to the rings of a driver.

use crate::device::Device;
use kernel::prelude::*;
use vfio::dma::{
    Access,
    RingMemory, //
};

impl<T> Device<T> {
    /// Gives `slot` access to the `len` bytes of guest memory at `iova`, and pins them if possible.
    ///
    /// If `slot` has access to this range already, pins it if that has become possible. Otherwise the former
    /// range in `slot` is unpinned first. Memory that cannot be pinned is copied, and the log says why and what
    /// to change, once for each time that the device is open.
    ///
    /// The errors are those of [`Dma::ring`](vfio::dma::Dma::ring).
    ///
    /// # Context
    ///
    /// May sleep, and may wait for a page of the user's memory.
    pub fn access_ring(
        &self,
        slot: &mut Option<RingMemory>,
        iova: u64,
        len: usize,
        access: Access,
    ) -> Result {
        let reason = match slot {
            Some(memory) if memory.is(iova, len) => memory.refresh(&self.dma)?,
            _ => {
                *slot = None;
                let (memory, reason) = self.dma.ring(iova, len, access)?;
                *slot = Some(memory);
                reason
            }
        };
        if let Some(error) = reason {
            let change = if error == ENOMEM {
                "raise RLIMIT_MEMLOCK of the process that maps it"
            } else {
                "use memory that is not a shared mapping of a file, or a file on tmpfs or hugetlbfs"
            };
            self.refuse(format_args!(
                "ring: {len} bytes at {iova:#x} cannot be pinned ({error:?}) and are copied, which is \
                 slower: {change}"
            ));
        }
        Ok(())
    }
}
