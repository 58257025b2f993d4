// SPDX-License-Identifier: GPL-2.0

//! The points at which root can make accesses to guest memory fail, or wait.

use kernel::sync::Arc;
use kernel_ext::fault::FaultPoint;

/// The points of one device.
pub struct Faults {
    /// Pinning fails with `ENOMEM`.
    pub pin: Arc<FaultPoint>,
    /// A copy of a device fails with `EFAULT`. An access to a pinned ring is none.
    pub dma: Arc<FaultPoint>,
}
