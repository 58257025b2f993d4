// SPDX-License-Identifier: GPL-2.0

//! The accesses of VMMs, replayed.

mod access;
pub(crate) mod convergence;
pub(crate) mod libvfio_user;
pub(crate) mod mvisor;
