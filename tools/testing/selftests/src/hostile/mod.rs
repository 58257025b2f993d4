// SPDX-License-Identifier: GPL-2.0

//! Users who try to harm the host or other users.

pub(crate) mod attack;
pub(crate) mod attacker;
pub(crate) mod blocking;
pub(crate) mod blocking_calls;
pub(crate) mod load;
pub(crate) mod quiescent;
pub(crate) mod setup;
