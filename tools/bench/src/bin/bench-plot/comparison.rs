// SPDX-License-Identifier: GPL-2.0

//! Measured counts beside committed ones.

use std::collections::{BTreeMap, BTreeSet};

use crate::counts::{Count, Counts};

/// By how much of a committed count a measured one may differ.
pub(crate) const TOLERANCE: f64 = 0.05;
/// Counts below this are of so few instructions that a part of one is more than the tolerance.
const SLACK: f64 = 1.0;

/// How a count has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Change {
    /// Not by more than the tolerance, or nothing to compare with.
    Same,
    /// More than before.
    More,
    /// Less than before.
    Less,
    /// Not committed.
    New,
    /// Not measured.
    Gone,
}

/// A row of a column.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) measured: Option<f64>,
    pub(crate) committed: Option<f64>,
    pub(crate) change: Change,
}

impl Row {
    /// Returns by which share of the committed count the measured one differs.
    pub(crate) fn share(&self) -> Option<f64> {
        let (measured, committed) = (self.measured?, self.committed?);
        (committed != 0.0).then(|| (measured - committed) / committed.abs())
    }

    /// Returns the difference as text.
    pub(crate) fn difference(&self) -> String {
        match (self.change, self.share()) {
            (Change::New, _) => "new".into(),
            (Change::Gone, _) => "gone".into(),
            (_, Some(share)) if share.abs() < 0.0005 => "same".into(),
            (_, Some(share)) if share.abs() < 100.0 => {
                format!(
                    "{}{:.1} %",
                    if share < 0.0 { "−" } else { "+" },
                    share.abs() * 100.0
                )
            }
            (_, Some(share)) => (if share < 0.0 { "far less" } else { "far more" }).into(),
            (_, None) => match (self.measured, self.committed) {
                (Some(measured), Some(_)) if measured != 0.0 => "more than 0".into(),
                (Some(_), Some(_)) => "same".into(),
                _ => String::new(),
            },
        }
    }
}

/// A table: columns with their rows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Compared {
    pub(crate) name: String,
    pub(crate) columns: Vec<(String, Vec<Row>)>,
}

/// Compares all tables that were measured, or that are committed.
pub(crate) fn compare(measured: &Counts, committed: Option<&Counts>) -> Vec<Compared> {
    let nothing = Vec::new();
    let mut names: BTreeSet<&String> = measured.tables.keys().collect();
    names.extend(
        committed
            .iter()
            .flat_map(|committed| committed.tables.keys()),
    );
    names
        .into_iter()
        .map(|name| {
            let now = measured.tables.get(name).unwrap_or(&nothing);
            let before = committed.map(|committed| committed.tables.get(name).unwrap_or(&nothing));
            Compared {
                name: name.clone(),
                columns: columns(now, before),
            }
        })
        .collect()
}

fn columns(now: &[Count], before: Option<&Vec<Count>>) -> Vec<(String, Vec<Row>)> {
    let old = before.map(|before| before.as_slice());
    let mut columns: Vec<(String, Vec<Row>)> = Vec::new();
    // Where each row is. The order is that of the measured table.
    let mut places: BTreeMap<(&str, &str), (usize, usize)> = BTreeMap::new();
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    let both = now.iter().map(|count| (count, true));
    for (count, is_new) in both.chain(old.unwrap_or(&[]).iter().map(|count| (count, false))) {
        let key = (count.column.as_str(), count.row.as_str());
        let number = *numbers.entry(&count.column).or_insert_with(|| {
            columns.push((count.column.clone(), Vec::new()));
            columns.len() - 1
        });
        let rows = &mut columns[number].1;
        let (_, at) = *places.entry(key).or_insert_with(|| {
            rows.push(Row {
                name: count.row.clone(),
                measured: None,
                committed: None,
                change: Change::Same,
            });
            (number, rows.len() - 1)
        });
        match is_new {
            true => rows[at].measured = Some(count.value),
            false => rows[at].committed = Some(count.value),
        }
    }
    for row in columns.iter_mut().flat_map(|(_, rows)| rows) {
        row.change = match (row.measured, row.committed) {
            _ if before.is_none() => Change::Same,
            (Some(_), None) => Change::New,
            (None, _) => Change::Gone,
            (Some(now), Some(old)) if (now - old).abs() <= (TOLERANCE * old.abs()).max(SLACK) => {
                Change::Same
            }
            (Some(now), Some(old)) if now > old => Change::More,
            (Some(_), Some(_)) => Change::Less,
        };
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(rows: &[(&str, f64)]) -> Counts {
        let count = |(row, value): &(&str, f64)| Count {
            row: (*row).into(),
            column: "c".into(),
            value: *value,
        };
        Counts {
            tables: [("t".to_string(), rows.iter().map(count).collect())].into(),
            ..Counts::default()
        }
    }

    #[test]
    fn rows_are_matched_by_name() {
        let measured = counts(&[
            ("b", 105.0),
            ("a", 106.0),
            ("small", 2.9),
            ("less", 10.0),
            ("new", 1.0),
        ]);
        let committed = counts(&[
            ("a", 100.0),
            ("b", 100.0),
            ("gone", 5.0),
            ("small", 2.0),
            ("less", 20.0),
        ]);
        let tables = compare(&measured, Some(&committed));
        let rows: Vec<_> = tables[0].columns[0]
            .1
            .iter()
            .map(|row| (row.name.as_str(), row.change, row.difference()))
            .collect();
        assert_eq!(
            rows,
            [
                ("b", Change::Same, "+5.0 %".to_string()),
                ("a", Change::More, "+6.0 %".into()),
                ("small", Change::Same, "+45.0 %".into()),
                ("less", Change::Less, "−50.0 %".into()),
                ("new", Change::New, "new".into()),
                ("gone", Change::Gone, "gone".into()),
            ]
        );
    }

    #[test]
    fn without_committed_counts_nothing_is_new() {
        let tables = compare(&counts(&[("a", 1.0)]), None);
        let row = &tables[0].columns[0].1[0];
        assert_eq!(
            (row.change, row.difference()),
            (Change::Same, String::new())
        );
    }

    #[test]
    fn absurd_counts_have_a_difference() {
        for now in [0.0, -1.0, 1e308, 5e-324] {
            for old in [0.0, -1.0, 1e308, 5e-324] {
                let tables = compare(&counts(&[("a", now)]), Some(&counts(&[("a", old)])));
                assert!(tables[0].columns[0].1[0].difference().len() < 20);
            }
        }
    }
}
