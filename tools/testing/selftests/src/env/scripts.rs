// SPDX-License-Identifier: GPL-2.0

//! The directory of a driver's own tests.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::harness::result::{Ended, Result};

static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();

/// Sets the directory.
pub(crate) fn set(path: PathBuf) {
    DIRECTORY.get_or_init(|| path);
}

/// Returns whether there is one.
pub(crate) fn exist() -> bool {
    DIRECTORY.get().is_some()
}

/// Returns the directory.
pub(crate) fn directory() -> Result<&'static Path> {
    let path = DIRECTORY.get().map(PathBuf::as_path);
    path.ok_or_else(|| Ended::failed("no --scripts"))
}
