// SPDX-License-Identifier: GPL-2.0

//! Loading the module.

use std::path::Path;

use kernel_utils::module;

use crate::error::Result;

/// Loads the module, unless it is loaded already.
pub(crate) fn load(path: &Path, params: &str) -> Result<()> {
    let failed = |e| vfio_client::Error::new(format!("load {}", path.display()), e);
    Ok(module::ensure(path, params).map_err(failed)?)
}
