// SPDX-License-Identifier: GPL-2.0

//! Loading and unloading the module.

use std::ffi::CStr;
use std::fs::File;
use std::path::Path;

use rustix::io::Errno;
use rustix::system::{delete_module, finit_module};

use crate::error::Result;

/// Loads the module; that it is loaded already is no error.
pub(crate) fn load(path: &Path, params: &CStr) -> Result<()> {
    let name = path.display();
    let file = File::open(path).map_err(|e| vfio_client::Error::new(format!("open {name}"), e))?;
    match finit_module(&file, params, 0) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(vfio_client::Error::new(format!("load {name}"), e).into()),
    }
}

/// Unloads it.
pub(crate) fn unload() -> Result<()> {
    delete_module(c"mdma", 0).map_err(|e| vfio_client::Error::new("unload mdma", e).into())
}
