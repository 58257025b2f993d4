// SPDX-License-Identifier: GPL-2.0

//! A module of the samples next to the module under test.

use std::path::PathBuf;

use kernel_utils::module;

use crate::env::Env;
use crate::harness::report::problem;
use crate::harness::result::Result;
use crate::skip;

/// The loaded module; unloaded on drop.
pub(crate) struct Sample(&'static str);

impl Sample {
    /// Loads the module `name`.
    pub(crate) fn load(env: &Env, name: &'static str) -> Result<Self> {
        let path: PathBuf = env.module.path()?.with_file_name(format!("{name}.ko"));
        if !path.exists() {
            skip!("there is no {}", path.display());
        }
        module::load(&path, "")?;
        Ok(Sample(name))
    }
}

impl Drop for Sample {
    fn drop(&mut self) {
        if let Err(e) = module::unload(self.0) {
            problem(format!("cannot unload {}: {e}", self.0));
        }
    }
}
