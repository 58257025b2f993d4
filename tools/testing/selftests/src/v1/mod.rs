// SPDX-License-Identifier: GPL-2.0

//! Migration through the v1 region.

pub(crate) mod loading;
pub(crate) mod precopy_passes;
pub(crate) mod random_accesses;
pub(crate) mod region;
pub(crate) mod saving;
pub(crate) mod states;
