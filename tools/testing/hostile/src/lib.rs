// SPDX-License-Identifier: GPL-2.0

//! Tools of a hostile user, for tests.
//!
//! - [`Stalled`]: memory whose page faults wait until the test answers them, by userfaultfd or by FUSE.
//! - [`Cgroup`]: a control group with limits, which can be frozen and killed.
//! - [`User`]: a process of an ordinary user in such a group.
//!
//! Everything here needs root, and is undone on drop.

mod cgroup;
mod fuse;
mod serve;
mod stalled;
mod user;
mod userfault;

pub use cgroup::Cgroup;
pub use stalled::{adopt, Kind, Stalled, Victim};
pub use user::{admitted, own_file, own_node, own_userfault, User, NOBODY};
