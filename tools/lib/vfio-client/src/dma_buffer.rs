// SPDX-License-Identifier: GPL-2.0

//! Memory that devices can reach, unmapped when dropped.

use std::sync::Arc;

use crate::container::{Access, Container};
use crate::error::{Context, Error, Result};
use crate::mapping::Mapping;

/// Page-aligned memory that the devices of one container can reach.
///
/// Drop unmaps it.
#[derive(Debug)]
pub struct DmaBuffer {
    container: Container,
    iova: u64,
    memory: Arc<Mapping>,
}

impl DmaBuffer {
    /// Allocates zeroed memory and maps it at `iova`, readable and writable.
    pub fn new(container: &Container, iova: u64, size: usize) -> Result<Self> {
        let memory = Mapping::anonymous(size).field(|| format!("allocate {size} bytes"))?;
        Self::of(container, iova, Arc::new(memory), Access::ReadWrite)
    }

    /// Maps existing memory at `iova`.
    pub fn of(
        container: &Container,
        iova: u64,
        memory: Arc<Mapping>,
        access: Access,
    ) -> Result<Self> {
        container.map(iova, &memory, access)?;
        Ok(DmaBuffer {
            container: container.clone(),
            iova,
            memory,
        })
    }

    /// Returns its IOVA.
    pub fn iova(&self) -> u64 {
        self.iova
    }

    /// Returns the memory, which can outlive the mapping.
    pub fn memory(&self) -> &Arc<Mapping> {
        &self.memory
    }

    /// Unmaps it and reports a failure. The memory stays.
    pub fn unmap(self) -> Result<Arc<Mapping>> {
        let memory = self.memory.clone();
        let size = memory.len() as u64;
        let unmapped = self.container.unmap(self.iova, size)?;
        if unmapped != size {
            return Err(Error::other(
                format!("VFIO_IOMMU_UNMAP_DMA iova {:#x}", self.iova),
                format!("unmapped {unmapped:#x} of {size:#x} bytes"),
            ));
        }
        Ok(memory)
    }
}

impl std::ops::Deref for DmaBuffer {
    type Target = Mapping;

    fn deref(&self) -> &Mapping {
        &self.memory
    }
}

impl Drop for DmaBuffer {
    fn drop(&mut self) {
        // It may be unmapped already. After a failure the container keeps the memory.
        let _ = self.container.unmap(self.iova, self.memory.len() as u64);
    }
}
