// SPDX-License-Identifier: GPL-2.0

//! Counts of instructions, from the output of `bench --json` or from a committed table.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value};

/// The largest file.
const SIZE_MAX: u64 = 64 << 20;
/// The most counts.
const COUNTS: usize = 100_000;

/// One count: its row and its column.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Count {
    pub(crate) row: String,
    pub(crate) column: String,
    pub(crate) value: f64,
}

/// All counts of a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Counts {
    /// The type of the device.
    pub(crate) device: Option<String>,
    /// What the counts depend on: part and version.
    pub(crate) versions: BTreeMap<String, String>,
    /// What each table shows.
    pub(crate) titles: BTreeMap<String, String>,
    /// The counts of each table.
    pub(crate) tables: BTreeMap<String, Vec<Count>>,
}

impl Counts {
    /// Reads a file.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let named = |why: String| format!("{}: {why}", path.display());
        let mut text = Vec::new();
        File::open(path)
            .and_then(|file| file.take(SIZE_MAX + 1).read_to_end(&mut text))
            .map_err(|e| named(e.to_string()))?;
        if text.len() as u64 > SIZE_MAX {
            return Err(named(format!("larger than {SIZE_MAX} bytes")));
        }
        Counts::parse(&text).map_err(named)
    }

    /// Parses a file's contents.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, String> {
        if text.iter().all(u8::is_ascii_whitespace) {
            return Err("the file is empty".into());
        }
        let file: Value = serde_json::from_slice(text).map_err(|e| e.to_string())?;
        let mut tables = BTreeMap::new();
        if let Some(costs) = file.get("costs") {
            for (name, rows) in object(costs, "costs")? {
                tables.insert(name.clone(), rows_by_name(rows, &format!("costs.{name}"))?);
            }
        } else if let Some(found) = file.get("tables") {
            for (name, rows) in object(found, "tables")? {
                tables.insert(
                    name.clone(),
                    rows_in_order(rows, &format!("tables.{name}"))?,
                );
            }
        } else {
            return Err("there is neither costs nor tables".into());
        }
        let count: usize = tables.values().map(Vec::len).sum();
        if count > COUNTS {
            return Err(format!("{count} counts are more than {COUNTS}"));
        }
        let texts = |name: &str| -> Result<BTreeMap<String, String>, String> {
            let Some(value) = file.get(name) else {
                return Ok(BTreeMap::new());
            };
            let texts = object(value, name)?.iter();
            texts
                .map(|(key, value)| match value.as_str() {
                    Some(text) => Ok((key.clone(), text.into())),
                    None => Err(format!("{name}.{key}: {value} is not a text")),
                })
                .collect()
        };
        Ok(Counts {
            device: file
                .get("device")
                .and_then(Value::as_str)
                .map(str::to_string),
            versions: texts("versions")?,
            titles: texts("titles")?,
            tables,
        })
    }
}

fn object<'v>(value: &'v Value, name: &str) -> Result<&'v Map<String, Value>, String> {
    value
        .as_object()
        .ok_or_else(|| format!("{name}: not an object"))
}

fn number(value: &Value, name: impl Fn() -> String) -> Result<f64, String> {
    value
        .as_f64()
        .ok_or_else(|| format!("{}: {value} is not a number", name()))
}

/// Returns a key by which 8 is before 64.
fn natural(name: &str) -> Vec<(u128, String)> {
    let mut parts: Vec<(u128, String)> = vec![(0, String::new())];
    for c in name.chars() {
        let last = parts.len() - 1;
        let (number, text) = &mut parts[last];
        match c.to_digit(10).map(u128::from) {
            Some(digit) if text.is_empty() => {
                *number = number.saturating_mul(10).saturating_add(digit);
            }
            Some(digit) => parts.push((digit, String::new())),
            None => text.push(c),
        }
    }
    parts
}

/// Reads rows that are objects of columns, by the name of the row.
fn rows_by_name(rows: &Value, name: &str) -> Result<Vec<Count>, String> {
    let mut counts = Vec::new();
    let mut rows: Vec<_> = object(rows, name)?.iter().collect();
    rows.sort_by_key(|(row, _)| natural(row));
    for (row, columns) in rows {
        let name = format!("{name}.{row}");
        for (column, value) in object(columns, &name)? {
            counts.push(Count {
                row: row.clone(),
                column: column.clone(),
                value: number(value, || format!("{name}.{column}"))?,
            });
        }
    }
    Ok(counts)
}

/// Reads the rows of a table. Texts and whole numbers name a row; others are counts.
fn rows_in_order(rows: &Value, name: &str) -> Result<Vec<Count>, String> {
    let rows = rows
        .as_array()
        .ok_or_else(|| format!("{name}: not an array"))?;
    let mut counts = Vec::new();
    for (i, row) in rows.iter().enumerate() {
        let fields = object(row, &format!("{name}[{i}]"))?;
        let texts = fields
            .values()
            .filter_map(Value::as_str)
            .map(str::to_string);
        let sizes = fields
            .iter()
            .filter(|(_, value)| value.is_u64())
            .map(|(field, value)| format!("{} {value}", field.replace('_', " ")));
        let row = texts.chain(sizes).collect::<Vec<_>>().join(", ");
        for (field, value) in fields.iter().filter(|(_, value)| value.is_f64()) {
            counts.push(Count {
                row: row.clone(),
                column: field.replace('_', " "),
                value: number(value, || format!("{name}[{i}].{field}"))?,
            });
        }
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_files_are_read() {
        let measured = br#"{"device":"mdma-256M","titles":{"save":"Saving"},
            "tables":{"save":[{"through":"mapping","measured":7,"copy/KiB":12.5,"sum":null}]}}"#;
        let counts = Counts::parse(measured).unwrap();
        assert_eq!(counts.device.as_deref(), Some("mdma-256M"));
        assert_eq!(counts.titles["save"], "Saving");
        let count = Count {
            row: "mapping, measured 7".into(),
            column: "copy/KiB".into(),
            value: 12.5,
        };
        assert_eq!(counts.tables["save"], [count]);
        let committed =
            br#"{"versions":{"kernel":"7.3"},"costs":{"save":{"mapping":{"copy":12,"sum":1.5}}}}"#;
        let counts = Counts::parse(committed).unwrap();
        assert_eq!(counts.versions["kernel"], "7.3");
        assert_eq!(counts.tables["save"].len(), 2);
    }

    #[test]
    fn rows_are_in_the_order_of_their_numbers() {
        let mut names = [
            "64",
            "8",
            "4096",
            "a 10",
            "a 9",
            "999999999999999999999999999999999999999999",
        ];
        names.sort_by_key(|name| natural(name));
        assert_eq!(names[..5], ["a 9", "a 10", "8", "64", "4096"]);
    }

    #[test]
    fn a_wrong_file_is_refused_with_the_place() {
        for (text, why) in [
            ("", "the file is empty"),
            ("{\"costs\":", "EOF"),
            ("[]", "there is neither costs nor tables"),
            ("{}", "there is neither costs nor tables"),
            ("{\"costs\":[]}", "costs: not an object"),
            (
                r#"{"costs":{"t":{"r":{"c":"x"}}}}"#,
                "costs.t.r.c: \"x\" is not a number",
            ),
            (r#"{"tables":{"t":7}}"#, "tables.t: not an array"),
            (r#"{"tables":{"t":[7]}}"#, "tables.t[0]: not an object"),
            (
                r#"{"costs":{},"versions":{"k":1}}"#,
                "versions.k: 1 is not a text",
            ),
        ] {
            let error = Counts::parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
