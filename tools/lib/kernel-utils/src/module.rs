// SPDX-License-Identifier: GPL-2.0

//! Loading and unloading of kernel modules.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::system::{delete_module, finit_module};

/// Loads the module in a file, with parameters as on the command line of `insmod`.
///
/// # Errors
///
/// `EEXIST` if the module is loaded already, and those of `open()` and `finit_module()`.
pub fn load(path: impl AsRef<Path>, params: &str) -> io::Result<()> {
    let params = CString::new(params)?;
    Ok(finit_module(File::open(path)?, &params, 0)?)
}

/// Loads the module in a file unless it is loaded already.
///
/// # Errors
///
/// As for [`load`], without `EEXIST`.
pub fn ensure(path: impl AsRef<Path>, params: &str) -> io::Result<()> {
    match load(path, params) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

/// Unloads a module, and does not wait for its users.
///
/// # Errors
///
/// `EAGAIN` if the module is in use, and the others of `delete_module()`.
pub fn unload(name: &str) -> io::Result<()> {
    Ok(delete_module(
        &CString::new(name)?,
        OFlags::NONBLOCK.bits() as i32,
    )?)
}
