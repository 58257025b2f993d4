// SPDX-License-Identifier: GPL-2.0

//! The mdev types of `mdma`.

/// The smallest type, which most tests use.
pub(crate) const SMALL: &str = "mdma-16M";
pub(crate) const MEDIUM: &str = "mdma-256M";
pub(crate) const LARGE: &str = "mdma-1G";
/// All of them.
pub(crate) const ALL: [&str; 3] = [SMALL, MEDIUM, LARGE];
