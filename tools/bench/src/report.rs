// SPDX-License-Identifier: GPL-2.0

//! Tables of results, as text and as JSON.

use std::collections::BTreeSet;

use serde_json::{json, Map, Value};
use vfio_migrate::format;

/// One value.
#[derive(Clone, Debug)]
pub(crate) enum Cell {
    /// A name.
    Name(String),
    /// A size in bytes.
    Size(u64),
    /// A count.
    Number(u64),
    /// A cost: a number of instructions, or a time.
    Count(f64),
    /// A ratio.
    Ratio(f64),
    /// Not measured.
    None,
}

impl From<&str> for Cell {
    fn from(name: &str) -> Self {
        Cell::Name(name.into())
    }
}

impl From<String> for Cell {
    fn from(name: String) -> Self {
        Cell::Name(name)
    }
}

impl Cell {
    fn text(&self) -> String {
        match self {
            Cell::Name(name) => name.clone(),
            Cell::Size(size) => format::bytes(*size),
            Cell::Number(n) => grouped(*n),
            Cell::Count(count) if *count < 0.95 => format!("{count:.2}"),
            Cell::Count(count) if *count < 99.95 => format!("{count:.1}"),
            Cell::Count(count) => grouped(count.round() as u64),
            Cell::Ratio(ratio) => format!("{ratio:.2}"),
            Cell::None => "-".into(),
        }
    }

    fn json(&self) -> Value {
        match self {
            Cell::Name(name) => json!(name),
            Cell::Size(n) | Cell::Number(n) => json!(n),
            Cell::Count(value) | Cell::Ratio(value) => json!(value),
            Cell::None => Value::Null,
        }
    }
}

/// Formats a number with its digits in groups of three.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let (head, tail) = digits.split_at(digits.len() % 3);
    let mut groups: Vec<&str> = Vec::new();
    if !head.is_empty() {
        groups.push(head);
    }
    groups.extend((0..tail.len() / 3).map(|i| &tail[3 * i..3 * i + 3]));
    groups.join(",")
}

/// A table of results.
#[derive(Debug)]
pub(crate) struct Table {
    /// The name to select it by.
    pub(crate) name: &'static str,
    /// What it shows.
    pub(crate) title: String,
    columns: &'static [&'static str],
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// Creates an empty table. The first column holds names, the others values.
    pub(crate) fn new(
        name: &'static str,
        title: impl Into<String>,
        columns: &'static [&'static str],
    ) -> Self {
        Table {
            name,
            title: title.into(),
            columns,
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        let row: Vec<_> = cells.into_iter().collect();
        assert_eq!(
            row.len(),
            self.columns.len(),
            "a row of table {}",
            self.name
        );
        self.rows.push(row);
    }

    /// Returns the table with costs as multiples of a unit.
    pub(crate) fn per(mut self, unit: f64) -> Self {
        for cell in self.rows.iter_mut().flatten() {
            if let Cell::Count(count) = cell {
                *count /= unit;
            }
        }
        self
    }

    /// Formats title and table as text.
    pub(crate) fn text(&self) -> String {
        let headers: Vec<String> = self
            .columns
            .iter()
            .enumerate()
            .map(|(i, name)| match i {
                0 => name.to_string(),
                _ => format!(">{name}"),
            })
            .collect();
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        let rows: Vec<Vec<String>> = self
            .rows
            .iter()
            .map(|row| row.iter().map(Cell::text).collect())
            .collect();
        format!("{}\n\n{}", self.title, format::table(&headers, &rows))
    }

    /// Returns the names of the rows: the first cell, and as many more as are needed to tell them apart.
    fn row_names(&self) -> Vec<String> {
        let name = |row: &Vec<Cell>, cells| -> String {
            let texts: Vec<_> = row.iter().take(cells).map(Cell::text).collect();
            texts.join(", ")
        };
        let names = |cells| self.rows.iter().map(|row| name(row, cells)).collect();
        for cells in 1..self.columns.len() {
            let names: Vec<String> = names(cells);
            if names.iter().collect::<BTreeSet<_>>().len() == names.len() {
                return names;
            }
        }
        names(self.columns.len())
    }

    /// Returns the costs as JSON: of each row an object with a number for each column that has a cost.
    pub(crate) fn costs(&self) -> Value {
        let object = |row: &Vec<Cell>| -> Value {
            let cells = self.columns.iter().zip(row);
            let costs = cells.filter_map(|(name, cell)| match cell {
                Cell::Count(cost) => Some((name.to_string(), json!(cost))),
                _ => None,
            });
            Value::Object(costs.collect::<Map<_, _>>())
        };
        let rows = self.row_names().into_iter();
        let rows = rows.zip(self.rows.iter().map(object));
        Value::Object(rows.collect::<Map<_, _>>())
    }

    /// Returns one JSON object per row.
    pub(crate) fn json(&self) -> Value {
        let object = |row: &Vec<Cell>| {
            let fields = self.columns.iter().zip(row);
            let fields = fields.map(|(name, cell)| (name.replace(' ', "_"), cell.json()));
            Value::Object(fields.collect::<Map<_, _>>())
        };
        Value::Array(self.rows.iter().map(object).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells() {
        for (cell, text) in [
            (Cell::Count(0.25), "0.25"),
            (Cell::Count(7.25), "7.2"),
            (Cell::Count(1234.6), "1,235"),
            (Cell::Number(999), "999"),
            (Cell::Number(1_000_000), "1,000,000"),
            (Cell::Ratio(1.005), "1.00"),
            (Cell::Size(1 << 20), "1.00 MiB"),
            (Cell::None, "-"),
        ] {
            assert_eq!(cell.text(), text);
        }
    }

    #[test]
    fn only_costs_have_a_unit() {
        let mut table = Table::new("t", "A title", &["way", "pages", "cost"]);
        table.row(["mapped".into(), Cell::Number(8), Cell::Count(8.0)]);
        let found = table.per(4.0).json();
        assert_eq!(found, json!([{ "way": "mapped", "pages": 8, "cost": 2.0 }]));
    }

    #[test]
    fn costs_are_found_by_row_and_column() {
        let mut table = Table::new("t", "A title", &["job", "bytes", "cost", "×", "other"]);
        let mut row = |name: &str, bytes, cost| {
            table.row([
                name.into(),
                Cell::Size(bytes),
                Cell::Count(cost),
                Cell::Ratio(9.0),
                Cell::None,
            ]);
        };
        row("COPY", 8, 1.5);
        row("COPY", 4096, 2.5);
        row("FILL", 8, 3.5);
        let want = json!({
            "COPY, 8 B": { "cost": 1.5 },
            "COPY, 4.00 KiB": { "cost": 2.5 },
            "FILL, 8 B": { "cost": 3.5 },
        });
        assert_eq!(table.costs(), want);
    }

    #[test]
    fn rows_are_objects() {
        let mut table = Table::new("t", "A title", &["way", "per KiB"]);
        table.row(["mapped".into(), Cell::Count(1.5)]);
        assert_eq!(table.json(), json!([{ "way": "mapped", "per_KiB": 1.5 }]));
        assert_eq!(table.text(), "A title\n\nway     per KiB\nmapped      1.5");
    }
}
