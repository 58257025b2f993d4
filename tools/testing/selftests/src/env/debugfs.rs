// SPDX-License-Identifier: GPL-2.0

//! The counters of an instance in debugfs.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use vfio_client::mdev::{Sysfs, Uuid};

use crate::fail;
use crate::harness::check::wait_for;
use crate::harness::result::Result;

/// Returns the path of a file in the instance's directory.
pub(crate) fn path(uuid: &str, file: &str) -> Result<String> {
    let parent = Sysfs::default().instance(&Uuid::parse(uuid)?)?.parent()?;
    Ok(format!("/sys/kernel/debug/{parent}/{uuid}/{file}"))
}

/// Returns the value of a line `NAME: VALUE` in a file of the instance's directory.
pub(crate) fn number(uuid: &str, file: &str, name: &str) -> Result<u64> {
    let path = path(uuid, file)?;
    let mut text = String::new();
    // The file reports "busy" instead of waiting for a state change or for a buffer that is being loaded.
    wait_for("the device to become idle", || {
        text = fs::read_to_string(&path)?;
        Ok(text != "state: busy\n")
    })?;
    let value = text.lines().find_map(|line| {
        let (key, value) = line.split_once(": ")?;
        (key == name).then(|| value.trim().parse().ok())?
    });
    match value {
        Some(value) => Ok(value),
        None => fail!("{path} has no line {name}"),
    }
}

/// Returns a counter of migrations or of memory.
pub(crate) fn migration(uuid: &str, name: &str) -> Result<u64> {
    number(uuid, "migration", name)
}

/// Returns a counter of accesses.
pub(crate) fn counters(uuid: &str, name: &str) -> Result<u64> {
    number(uuid, "counters", name)
}

/// Returns the files below a directory: one of each name, because files of the same name have the same operations.
pub(crate) fn files(directory: &Path) -> io::Result<BTreeMap<OsString, PathBuf>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            files.extend(self::files(&entry.path())?);
        } else {
            files.insert(entry.file_name(), entry.path());
        }
    }
    Ok(files)
}
