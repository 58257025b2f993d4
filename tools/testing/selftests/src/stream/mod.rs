// SPDX-License-Identifier: GPL-2.0

//! Migration streams: identity, malformed streams, restarts, and the logged reasons for refusals.

pub(crate) mod bench;
pub(crate) mod identity;
pub(crate) mod malformed;
pub(crate) mod refusals;
pub(crate) mod restart;
pub(crate) mod unchecked;
pub(crate) mod zero;
