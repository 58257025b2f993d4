// SPDX-License-Identifier: GPL-2.0

//! What a table needs of the device that it measures, and the choice of the tables.

use crate::error::{fail, Result};

/// What a table is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// What every device has that migrates.
    Migration,
    /// Memory of the device.
    Memory,
    /// Memory of the device that a user can map.
    Mapped,
    /// A type with 1 GiB of memory that a user can map.
    Large,
    /// The engine of `mdma`, which does jobs.
    Engine,
}

impl Need {
    /// Returns the need in words.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Need::Migration => "migration",
            Need::Memory => "device memory",
            Need::Mapped => "16 MiB of mapped device memory",
            Need::Large => "1 GiB of mapped device memory",
            Need::Engine => "mdma's engine",
        }
    }
}

/// The tables of a group that is measured together, and what they need.
pub(crate) type Group = (&'static [&'static str], Need);

/// The tables that one need excludes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LeftOut {
    pub(crate) need: Need,
    pub(crate) tables: Vec<&'static str>,
}

impl LeftOut {
    /// Describes it in one line.
    pub(crate) fn describe(&self, device: &str) -> String {
        format!(
            "Tables about {}, which {device} does not have, are left out: {}.",
            self.need.words(),
            self.tables.join(", ")
        )
    }
}

/// Returns the tables of all groups.
fn names(groups: &[Group]) -> impl Iterator<Item = &'static str> + '_ {
    groups.iter().flat_map(|(names, _)| names.iter().copied())
}

/// Checks that all of these tables exist.
pub(crate) fn check_names(groups: &[Group], wanted: &[String]) -> Result<()> {
    for name in wanted {
        if !names(groups).any(|known| known == name) {
            let known: Vec<_> = names(groups).collect();
            fail!("there is no table {name:?}: {}", known.join(", "));
        }
    }
    Ok(())
}

/// Returns for each group whether it is measured, and what is left out. Without names, all are wanted that the device
/// can have.
pub(crate) fn choose(
    groups: &[Group],
    wanted: &[String],
    device: &str,
    has: impl Fn(Need) -> bool,
) -> Result<(Vec<bool>, Vec<LeftOut>)> {
    let mut chosen = Vec::new();
    let mut out: Vec<LeftOut> = Vec::new();
    for (names, need) in groups {
        let named = names
            .iter()
            .find(|name| wanted.iter().any(|wanted| wanted == *name));
        chosen.push(match (named, has(*need)) {
            (Some(name), false) => fail!(
                "table {name} is about {}, which {device} does not have",
                need.words()
            ),
            (Some(_), true) => true,
            (None, has) => has && wanted.is_empty(),
        });
        if !wanted.is_empty() || has(*need) {
            continue;
        }
        match out.iter_mut().find(|left| left.need == *need) {
            Some(left) => left.tables.extend(*names),
            None => out.push(LeftOut {
                need: *need,
                tables: names.to_vec(),
            }),
        }
    }
    Ok((chosen, out))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUPS: [Group; 4] = [
        (&["save", "load"], Need::Migration),
        (&["engine"], Need::Engine),
        (&["faults"], Need::Mapped),
        (&["keys"], Need::Engine),
    ];

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_string).collect()
    }

    #[test]
    fn a_device_with_everything_gets_all_tables() {
        let (chosen, out) = choose(&GROUPS, &[], "mdma", |_| true).unwrap();
        assert_eq!(chosen, [true; 4]);
        assert_eq!(out, []);
    }

    #[test]
    fn what_a_device_cannot_have_is_left_out_and_named() {
        let (chosen, out) = choose(&GROUPS, &[], "mserial", |n| n == Need::Migration).unwrap();
        assert_eq!(chosen, [true, false, false, false]);
        let lines: Vec<_> = out.iter().map(|out| out.describe("mserial")).collect();
        assert_eq!(
            lines,
            [
                "Tables about mdma's engine, which mserial does not have, are left out: engine, keys.",
                "Tables about 16 MiB of mapped device memory, which mserial does not have, are left out: faults.",
            ]
        );
    }

    #[test]
    fn a_named_table_is_measured_or_is_an_error() {
        let has = |need| need != Need::Engine;
        let (chosen, out) = choose(&GROUPS, &words("load faults"), "mnvme", has).unwrap();
        assert_eq!(chosen, [true, false, true, false]);
        // Nobody has asked for the others.
        assert_eq!(out, []);
        let e = choose(&GROUPS, &words("load keys"), "mnvme", has).unwrap_err();
        assert_eq!(
            e.0,
            "table keys is about mdma's engine, which mnvme does not have"
        );
    }

    #[test]
    fn unknown_tables_are_refused() {
        assert!(check_names(&GROUPS, &words("save keys")).is_ok());
        let e = check_names(&GROUPS, &words("save cheese")).unwrap_err();
        assert_eq!(
            e.0,
            "there is no table \"cheese\": save, load, engine, faults, keys"
        );
    }
}
