// SPDX-License-Identifier: GPL-2.0

//! How long random and racing tests run, and the mdev type under test.

use std::str::FromStr;

/// Limits of the random and racing tests, which have no natural end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Number of random jobs (`--jobs`).
    pub(crate) jobs: u64,
    /// Number of rounds of racing threads (`--iterations`).
    pub(crate) iterations: u64,
    /// GiB of memory to register at once (`--gib`).
    pub(crate) gib: u64,
    /// Number of users killed in each state (`--kills`).
    pub(crate) kills: u64,
    /// Number of rounds of the attack test (`--attacks`).
    pub(crate) attacks: u64,
    /// Seed of all random numbers (`--seed`). A test that uses it prints it.
    pub(crate) seed: u64,
    /// The mdev type under test (`--type`).
    pub(crate) mdev_type: String,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            jobs: 5000,
            iterations: 1000,
            gib: 1,
            kills: 10,
            attacks: 50,
            seed: 1,
            mdev_type: crate::env::types::SMALL.to_string(),
        }
    }
}

impl Limits {
    /// Returns a part of the iterations, for a test that needs fewer rounds, but no less than a run on a slow kernel has.
    pub(crate) fn fewer(&self, part: u64) -> u64 {
        const LEAST: u64 = 40;
        (self.iterations / part).max(LEAST.min(self.iterations))
    }

    /// Parses a command line option. Returns `false` if the option is not a limit.
    pub(crate) fn option(
        &mut self,
        name: &str,
        value: impl FnOnce() -> Result<String, String>,
    ) -> Result<bool, String> {
        let field = match name {
            "--jobs" => &mut self.jobs,
            "--iterations" => &mut self.iterations,
            "--gib" => &mut self.gib,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_iterations_stay() {
        let with = |iterations| Limits {
            iterations,
            ..Limits::default()
        };
        assert_eq!(with(1000).fewer(10), 100);
        assert_eq!(with(100).fewer(10), 40);
        assert_eq!(with(8).fewer(10), 8);
    }
}
