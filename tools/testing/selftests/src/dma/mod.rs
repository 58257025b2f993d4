// SPDX-License-Identifier: GPL-2.0

//! DMA to guest memory whose mappings change.

pub(crate) mod key_migration;
pub(crate) mod key_scale;
pub(crate) mod key_unmaps;
pub(crate) mod keys;
pub(crate) mod oracle;
pub(crate) mod peer;
pub(crate) mod rings;
pub(crate) mod type1_scans;
pub(crate) mod unmap_race;
