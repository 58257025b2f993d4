// SPDX-License-Identifier: GPL-2.0

//! The stand-in for `logging.rs` on kernels without `CONFIG_IOMMUFD_DRIVER`.

use kernel::prelude::*;

/// Nothing is ever logged.
pub(super) struct Logging;

impl Logging {
    pub(super) fn new() -> impl PinInit<Self> {
        Self
    }

    pub(super) fn is_active(&self) -> bool {
        false
    }

    pub(super) fn wrote(&self, _iova: u64, _len: usize) {}

    pub(super) fn reserve(&self, _iova: u64, _len: usize) {}

    pub(super) fn stop(&self) {}
}
