// SPDX-License-Identifier: GPL-2.0

//! A share of the tests, so that several machines can run them in parallel.

use std::str::FromStr;

/// Every `of`th test from the `number`th on. Tests that are adjacent in the catalog take similar time and run on
/// different machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shard {
    number: usize,
    of: usize,
}

impl Default for Shard {
    /// All tests.
    fn default() -> Self {
        Shard { number: 1, of: 1 }
    }
}

impl Shard {
    /// Returns the tests of this shard in order.
    pub(crate) fn of<T>(&self, tests: Vec<T>) -> Vec<T> {
        let from = self.number - 1;
        tests.into_iter().skip(from).step_by(self.of).collect()
    }
}

impl FromStr for Shard {
    type Err = String;

    /// Parses `K/N`, with K from 1 to N.
    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('/');
        let numbers = numbers.and_then(|(k, n)| Some((k.parse().ok()?, n.parse().ok()?)));
        match numbers {
            Some((number, of)) if (1..=of).contains(&number) => Ok(Shard { number, of }),
            _ => Err(format!("--shard {text}: expected K/N with K from 1 to N")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shards_together_are_all_tests() {
        let all: Vec<u32> = (0..23).collect();
        for of in 1..30 {
            let shard = |number| Shard { number, of }.of(all.clone());
            let mut found: Vec<u32> = (1..=of).flat_map(shard).collect();
            found.sort_unstable();
            assert_eq!(found, all, "{of} shards");
        }
        assert_eq!(Shard::default().of(all.clone()), all);
    }

    #[test]
    fn invalid_shards() {
        assert_eq!("2/3".parse(), Ok(Shard { number: 2, of: 3 }));
        for text in ["", "1", "/", "0/2", "3/2", "1/0", "a/2", "1/2/3", "-1/2"] {
            assert!(text.parse::<Shard>().is_err(), "{text}");
        }
    }
}
