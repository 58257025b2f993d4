// SPDX-License-Identifier: GPL-2.0

//! What went wrong.

/// What went wrong, in words.
pub(crate) type Wrong = Box<dyn std::error::Error>;
