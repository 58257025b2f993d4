// SPDX-License-Identifier: GPL-2.0

//! The page: a chart for each column of each table.

use pictures::{Colour, Dots, Error, Line, Page, Pair, Table, Unit};

use crate::comparison::{Change, Compared, Row, TOLERANCE};
use crate::counts::Counts;

/// The most rows of the table of changes.
const CHANGES: usize = 200;

/// Draws the page.
pub(crate) fn page(
    measured: &Counts,
    committed: Option<&Counts>,
    tables: &[Compared],
) -> Result<String, Error> {
    let device = measured.device.as_deref().unwrap_or("a device");
    let mut page = Page::new(
        &format!("What {device} costs"),
        "Instructions of the processor that runs user and kernel, or multiples of memcpy(), as the tables say",
    );
    let rows = || {
        tables.iter().flat_map(|table| {
            table.columns.iter().flat_map(move |(column, rows)| {
                rows.iter().map(move |row| (&table.name, column, row))
            })
        })
    };
    let count = |change| rows().filter(|(_, _, row)| row.change == change).count();
    let all = rows().count();
    match committed {
        None => page.lead(&format!(
            "{all} counts were measured. There is nothing to compare them with."
        )),
        Some(committed) => {
            let (more, less) = (count(Change::More), count(Change::Less));
            let (new, gone) = (count(Change::New), count(Change::Gone));
            page.lead(&format!(
                "{all} counts. More than {:.0} % above the committed one: {more}; below it: {less}; new: {new}; not \
                 measured: {gone}.",
                TOLERANCE * 100.0
            ));
            if !committed.versions.is_empty() {
                let versions = committed.versions.iter();
                let versions: Vec<_> = versions
                    .map(|(part, version)| format!("{part} {version}"))
                    .collect();
                page.text(&format!(
                    "The committed counts are of {}.",
                    versions.join(", ")
                ));
            }
            page.tiles([
                ("counts", all.to_string()),
                ("more", more.to_string()),
                ("less", less.to_string()),
                ("new", new.to_string()),
                ("gone", gone.to_string()),
            ]);
        }
    }
    let mut changed: Vec<_> = rows()
        .filter(|(_, _, row)| row.change != Change::Same)
        .collect();
    changed.sort_by(|(_, _, a), (_, _, b)| {
        let size = |row: &Row| row.share().map_or(f64::INFINITY, f64::abs);
        size(b).total_cmp(&size(a))
    });
    if !changed.is_empty() {
        page.section("What has changed");
        let number = |n: Option<f64>| n.map_or_else(|| "–".into(), |n| Unit::None.text(n));
        let cells = |(table, column, row): &(&String, &String, &Row)| {
            vec![
                (*table).clone(),
                row.name.clone(),
                (*column).clone(),
                number(row.committed),
                number(row.measured),
                row.difference(),
            ]
        };
        let columns = [
            "table",
            "row",
            "column",
            ">committed",
            ">measured",
            ">difference",
        ];
        page.table(
            None,
            &Table {
                columns: columns.map(String::from).to_vec(),
                rows: changed.iter().take(CHANGES).map(cells).collect(),
            },
        );
        if changed.len() > CHANGES {
            page.text(&format!(
                "{} more have changed; the charts have them.",
                changed.len() - CHANGES
            ));
        }
    }
    for table in tables {
        page.section(&table.name);
        if let Some(title) = measured.titles.get(&table.name) {
            page.text(title);
        }
        for (column, rows) in &table.columns {
            page.figure(&figure(&table.name, column, rows, committed.is_some())?);
        }
    }
    Ok(page.html(concat!("bench-plot ", env!("CARGO_PKG_VERSION"))))
}

fn figure(
    table: &str,
    column: &str,
    rows: &[Row],
    compared: bool,
) -> Result<pictures::Figure, Error> {
    let pairs: Vec<Pair> = rows
        .iter()
        .map(|row| Pair {
            name: row.name.clone(),
            now: row.measured,
            before: row.committed,
            difference: row.difference(),
            colour: colour(row.change),
        })
        .collect();
    let title = format!("{table}: {column}");
    let mut legend = vec![("measured".to_string(), Line::BLUE)];
    for (change, name) in [
        (Change::More, "measured, more"),
        (Change::Less, "measured, less"),
    ] {
        if rows.iter().any(|row| row.change == change) {
            legend.push((name.into(), colour(change)));
        }
    }
    if compared {
        legend.push(("committed (ring)".into(), Line::GREY));
    }
    Dots {
        title: &title,
        values: column,
        unit: Unit::None,
        pairs: &pairs,
        legend,
    }
    .draw()
}

fn colour(change: Change) -> Colour {
    match change {
        Change::More => Line::RED,
        Change::Less => Line::GREEN,
        Change::Same | Change::New | Change::Gone => Line::BLUE,
    }
}
