// SPDX-License-Identifier: GPL-2.0

//! The tables at the end of the demonstration.

use vfio_migrate::format::{bytes, table, time};
use vfio_migrate::PhaseReport;

use crate::any::{self, Moved};
use crate::guest::Sync;
use crate::out::count;
use crate::scene::Summary;

fn sync_cells(sync: Option<&Sync>) -> [String; 3] {
    match sync {
        None => ["-", "-", "-"].map(String::from),
        Some(s) => [s.pages, s.by_device, s.by_processor].map(count),
    }
}

/// Formats the tables at the end.
pub(crate) fn summary(s: &Summary) -> String {
    let sent = |name: String, sent: &PhaseReport, sync: Option<&Sync>| {
        let mut cells = vec![
            name,
            bytes(sent.bytes),
            count(sent.buffers),
            time(sent.time),
        ];
        cells.extend(sync_cells(sync));
        cells
    };
    let mut rows = vec![vec![
        "guest memory, all".into(),
        "-".into(),
        "-".into(),
        time(s.first_copy.time),
        count(s.first_copy.pages),
        "-".into(),
        "-".into(),
    ]];
    for (pass, sync) in s.report.passes.iter().zip(&s.syncs) {
        let name = format!("pre-copy, pass {}", pass.number);
        rows.push(sent(name, &pass.sent, Some(sync)));
    }
    let last = s.syncs.get(s.report.passes.len());
    rows.push(sent("stop-and-copy".into(), &s.report.stop_and_copy, last));
    let phases = table(
        &[
            "PHASE",
            ">DEVICE STATE",
            ">BUFFERS",
            ">TIME",
            ">GUEST PAGES",
            ">BY DEVICE",
            ">BY CPU",
        ],
        &rows,
    );
    let jobs = table(
        &["JOBS", ">COUNT", ">BYTES", ">INTERRUPTS", "VERIFIED"],
        &[
            ("before migration", &s.before),
            ("during pre-copy", &s.during),
            ("taken over in flight", &s.taken_over),
            ("at the destination", &s.after),
        ]
        .map(|(name, done)| {
            vec![
                name.into(),
                count(done.jobs),
                bytes(done.bytes),
                count(done.interrupts),
                "yes".into(),
            ]
        }),
    );
    format!("{phases}\n\n{jobs}")
}

/// Formats the table of migrations of a device of any kind.
pub(crate) fn moves(moves: &[&Moved]) -> String {
    let mut rows = Vec::new();
    for moved in moves {
        let mut row = |phase: String, sent: &PhaseReport| {
            rows.push(vec![
                any::name(moved.report.protocol),
                phase,
                bytes(sent.bytes),
                count(sent.buffers),
                time(sent.time),
            ]);
        };
        for pass in &moved.report.passes {
            row(format!("pre-copy, pass {}", pass.number), &pass.sent);
        }
        row("stop-and-copy".into(), &moved.report.stop_and_copy);
    }
    table(
        &["PROTOCOL", "PHASE", ">DEVICE STATE", ">BUFFERS", ">TIME"],
        &rows,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_groups() {
        for (n, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1234567, "1,234,567"),
        ] {
            assert_eq!(count(n), text);
        }
    }
}
