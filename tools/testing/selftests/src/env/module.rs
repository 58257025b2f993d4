// SPDX-License-Identifier: GPL-2.0

//! Loading and unloading the module.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use kernel_utils::module;

use crate::env::Lab;
use crate::harness::problem;
use crate::harness::result::Outcome;
use crate::skip;

/// The module's name.
pub(crate) const NAME: &str = "mdma";

/// The parameters and their defaults.
pub(crate) const PARAMS: [(&str, u64); 5] = [
    ("memory_budget_mib", 4096),
    ("staging_kib", 1024),
    ("mmap_staging", 1),
    ("pin_from_kib", 0),
    ("throttle_us", 0),
];

/// The file of the module, and the parameters it is loaded with unless a test wants others.
pub(crate) struct Module {
    path: Option<PathBuf>,
    params: String,
}

impl Module {
    /// Says where the module is; without a path it is used as it was loaded by others.
    pub(crate) fn new(path: Option<PathBuf>, params: String) -> Self {
        Module { path, params }
    }

    /// The file; skips the test if it is not known.
    pub(crate) fn path(&self) -> Outcome<&Path> {
        match &self.path {
            Some(path) => Ok(path),
            None => skip!("the module cannot be loaded again without --module PATH"),
        }
    }

    /// Whether it is loaded.
    pub(crate) fn is_loaded() -> bool {
        Path::new("/sys/module")
            .join(NAME)
            .join("initstate")
            .exists()
    }

    /// How many use it.
    pub(crate) fn refcnt() -> Outcome<u32> {
        let path = format!("/sys/module/{NAME}/refcnt");
        Ok(fs::read_to_string(path)?.trim().parse()?)
    }

    /// The value of a parameter: of the command line, or the documented default. Sysfs does not show them.
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

    /// Loads it with the parameters of the command line.
    pub(crate) fn load(&self) -> Outcome {
        Ok(self.load_with(&self.params)??)
    }

    /// Loads it with these parameters; the inner result is the kernel's answer.
    pub(crate) fn load_with(&self, params: &str) -> Outcome<io::Result<()>> {
        Ok(module::load(self.path()?, params))
    }

    /// Unloads it, without waiting for its users: `EAGAIN` if there are any.
    pub(crate) fn unload() -> io::Result<()> {
        module::unload(NAME)
    }

    /// Runs `test` with the module loaded with these parameters; afterwards it is as it was.
    pub(crate) fn with<T>(&self, params: &str, test: impl FnOnce() -> Outcome<T>) -> Outcome<T> {
        self.path()?;
        Module::unload()?;
        let _loaded = Reloaded(self);
        self.load_with(params)??;
        test()
    }
}

/// Loads the module when dropped, if it is not loaded then.
pub(crate) struct Loaded<'a>(pub(crate) &'a Lab);

impl Drop for Loaded<'_> {
    fn drop(&mut self) {
        if !Module::is_loaded() {
            if let Err(e) = self.0.module.load() {
                problem(format!("load after a test without the module: {e}"));
            }
        }
    }
}

/// Loads the module anew when dropped.
struct Reloaded<'a>(&'a Module);

impl Drop for Reloaded<'_> {
    fn drop(&mut self) {
        if Module::is_loaded() {
            if let Err(e) = Module::unload() {
                problem(format!("unload after a test of parameters: {e}"));
                return;
            }
        }
        if let Err(e) = self.0.load() {
            problem(format!("load after a test of parameters: {e}"));
        }
    }
}
