// SPDX-License-Identifier: GPL-2.0

//! The mdev parent: types, instances, module parameters, and state that one user leaves to the next.

pub(crate) mod attributes;
pub(crate) mod lifecycle;
pub(crate) mod next_user;
pub(crate) mod others;
pub(crate) mod params;
pub(crate) mod parts;
pub(crate) mod scratch;
pub(crate) mod script;
pub(crate) mod serial;
pub(crate) mod serial_port;
pub(crate) mod types;
pub(crate) mod variants;
