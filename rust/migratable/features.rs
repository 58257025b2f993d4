// SPDX-License-Identifier: GPL-2.0

//! The ways to migrate that a device offers.

/// How a device migrates. By default it offers all there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migration {
    /// By the v1 region.
    pub v1: bool,
    /// By the v2 ioctls.
    pub v2: bool,
    /// v2: part of the state is sent while the device runs.
    pub pre_copy: bool,
    /// v2: there are states in which the device runs and starts no DMA.
    pub p2p: bool,
}

impl Default for Migration {
    fn default() -> Self {
        Self {
            v1: true,
            v2: true,
            pre_copy: true,
            p2p: true,
        }
    }
}
