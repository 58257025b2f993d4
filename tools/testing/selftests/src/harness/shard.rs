// SPDX-License-Identifier: GPL-2.0

//! A part of the tests, for machines that run them side by side.

use std::str::FromStr;

/// Every `of`th test, beginning with the `number`th: neighbours, which are alike, go to different machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    number: usize,
    of: usize,
}

impl Default for Part {
    /// All of them.
    fn default() -> Self {
        Part { number: 1, of: 1 }
    }
}

impl Part {
    /// The tests of this part, in their order.
    pub(crate) fn of<T>(&self, tests: Vec<T>) -> Vec<T> {
        let from = self.number - 1;
        tests.into_iter().skip(from).step_by(self.of).collect()
    }
}

impl FromStr for Part {
    type Err = String;

    /// `K/N`, with K from 1 to N.
    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('/');
        let numbers = numbers.and_then(|(k, n)| Some((k.parse().ok()?, n.parse().ok()?)));
        match numbers {
            Some((number, of)) if (1..=of).contains(&number) => Ok(Part { number, of }),
            _ => Err(format!("--part {text}: it is K/N, with K from 1 to N")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_the_whole() {
        let all: Vec<u32> = (0..23).collect();
        for of in 1..30 {
            let part = |number| Part { number, of }.of(all.clone());
            let mut found: Vec<u32> = (1..=of).flat_map(part).collect();
            found.sort_unstable();
            assert_eq!(found, all, "{of} parts");
        }
        assert_eq!(Part::default().of(all.clone()), all);
    }

    #[test]
    fn what_is_no_part() {
        assert_eq!("2/3".parse(), Ok(Part { number: 2, of: 3 }));
        for text in ["", "1", "/", "0/2", "3/2", "1/0", "a/2", "1/2/3", "-1/2"] {
            assert!(text.parse::<Part>().is_err(), "{text}");
        }
    }
}
