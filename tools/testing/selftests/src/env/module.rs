// SPDX-License-Identifier: GPL-2.0

//! Loading and unloading the module under test.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use kernel_utils::module;

use crate::env::own;
use crate::harness::report::problem;
use crate::harness::result::Result;
use crate::skip;

/// The parameters of `mdma` and their defaults.
pub(crate) const PARAMS: [(&str, u64); 6] = [
    ("memory_budget_mib", 4096),
    ("data_section_kib", 1024),
    ("mmap_data_section", 1),
    ("migration_abi", 1),
    ("v7_region_type", 2),
    ("throttle_us", 0),
];

/// The module's name, its file, and the parameters with which it is loaded unless a test needs others.
pub(crate) struct Module {
    name: String,
    path: Option<PathBuf>,
    params: String,
}

impl Module {
    /// Without a path, the tests use the module of this name, which is already loaded.
    pub(crate) fn new(name: String, path: Option<PathBuf>, params: String) -> Self {
        Module { name, path, params }
    }

    /// Returns the module's name, which is also that of its mdev parent and of its directory in debugfs.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the path of the module. Skips the test if no path was given.
    pub(crate) fn path(&self) -> Result<&Path> {
        match &self.path {
            Some(path) => Ok(path),
            None => skip!("the test reloads the module and needs --module PATH"),
        }
    }

    /// Returns whether the module is loaded.
    pub(crate) fn is_loaded(&self) -> bool {
        Path::new("/sys/module")
            .join(&self.name)
            .join("initstate")
            .exists()
    }

    /// Returns the module's reference count.
    pub(crate) fn refcnt(&self) -> Result<u32> {
        let path = format!("/sys/module/{}/refcnt", self.name);
        Ok(fs::read_to_string(path)?.trim().parse()?)
    }

    /// Sets whether the module limits the lines that it logs about refusals. It does when it is loaded.
    pub(crate) fn limit_log(&self, limit: bool) -> io::Result<()> {
        let path = format!("/sys/kernel/debug/{}/log_limit", self.name);
        fs::write(path, if limit { "Y" } else { "N" })
    }

    /// Returns the value of a parameter: from the command line, or the documented default. Sysfs does not show it.
    pub(crate) fn param(&self, name: &str) -> u64 {
        let given = self.params.split_whitespace().rev();
        let given = given
            .filter_map(|p| p.split_once('='))
            .find(|(n, _)| *n == name);
        match given {
            Some((_, value)) => value.parse().expect("a parameter is a number"),
            None => {
                PARAMS
                    .iter()
                    .find(|(n, _)| *n == name)
                    .expect("a known parameter")
                    .1
            }
        }
    }

    /// Loads the module with the parameters of the command line.
    pub(crate) fn load(&self) -> Result {
        Ok(self.load_with(&self.params)??)
    }

    /// Loads the module with these parameters. The inner result is the result of the system call.
    pub(crate) fn load_with(&self, params: &str) -> Result<io::Result<()>> {
        Ok(module::load(self.path()?, params))
    }

    /// Unloads the module. Does not wait for users: returns `EAGAIN` if there are any. The kernel would remove all of its
    /// instances, so this returns `EBUSY` if there is one that the tests have not made.
    pub(crate) fn unload(&self) -> io::Result<()> {
        match own::of_others(&self.name) {
            Ok(others) if others.is_empty() => module::unload(&self.name),
            Ok(_) => Err(io::Error::from_raw_os_error(libc::EBUSY)),
            Err(e) => Err(io::Error::other(e.to_string())),
        }
    }

    /// Runs `test` with these module parameters, and reloads the module with the usual ones afterwards.
    pub(crate) fn with<T>(&self, params: &str, test: impl FnOnce() -> Result<T>) -> Result<T> {
        self.path()?;
        self.unload()?;
        let _loaded = Reloaded(self);
        self.load_with(params)??;
        test()
    }
}

/// Loads the module on drop if it is not loaded.
pub(crate) struct Loaded<'a>(pub(crate) &'a Module);

impl Drop for Loaded<'_> {
    fn drop(&mut self) {
        if !self.0.is_loaded() {
            if let Err(e) = self.0.load() {
                problem(format!(
                    "cannot load the module after a test that unloaded it: {e}"
                ));
            }
        }
    }
}

/// Reloads the module on drop.
struct Reloaded<'a>(&'a Module);

impl Drop for Reloaded<'_> {
    fn drop(&mut self) {
        if self.0.is_loaded() {
            if let Err(e) = self.0.unload() {
                problem(format!(
                    "cannot unload the module after a test of parameters: {e}"
                ));
                return;
            }
        }
        if let Err(e) = self.0.load() {
            problem(format!(
                "cannot load the module after a test of parameters: {e}"
            ));
        }
    }
}
