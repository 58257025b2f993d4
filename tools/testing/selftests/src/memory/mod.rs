// SPDX-License-Identifier: GPL-2.0

//! Device memory, and guest memory that is swapped out or is itself device memory.

pub(crate) mod device;
pub(crate) mod kvm;
pub(crate) mod self_mapping;
pub(crate) mod swap;
