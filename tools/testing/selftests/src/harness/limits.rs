// SPDX-License-Identifier: GPL-2.0

//! How much the tests do that never come to an end by themselves, and what on.

use std::str::FromStr;

/// How long random and racing tests go on, and which numbers they begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Effort {
    /// Random jobs (`--jobs`).
    pub(crate) jobs: u64,
    /// Rounds of racing threads (`--iterations`).
    pub(crate) iterations: u64,
    /// Users killed in each of the ways there are (`--kills`).
    pub(crate) kills: u64,
    /// Rounds of users that are attacked in the middle of an attack (`--attacks`).
    pub(crate) attacks: u64,
    /// Seed of all random numbers (`--seed`), printed by those who use it.
    pub(crate) seed: u64,
    /// The mdev type of which the tests of type1 open an instance (`--type`): any that does DMA through type1 serves.
    pub(crate) mdev_type: String,
}

impl Default for Effort {
    fn default() -> Self {
        Effort {
            jobs: 5000,
            iterations: 1000,
            kills: 10,
            attacks: 50,
            seed: 1,
            mdev_type: crate::env::SMALL.to_string(),
        }
    }
}

impl Effort {
    /// Takes an option of the command line, if it is one of these.
    pub(crate) fn option(
        &mut self,
        name: &str,
        value: impl FnOnce() -> Result<String, String>,
    ) -> Result<bool, String> {
        let field = match name {
            "--jobs" => &mut self.jobs,
            "--iterations" => &mut self.iterations,
            "--kills" => &mut self.kills,
            "--attacks" => &mut self.attacks,
            "--seed" => &mut self.seed,
            "--type" => {
                self.mdev_type = value()?;
                return Ok(true);
            }
            _ => return Ok(false),
        };
        let text = value()?;
        *field = u64::from_str(&text).map_err(|e| format!("{name} {text}: {e}"))?;
        Ok(true)
    }
}
