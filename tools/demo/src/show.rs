// SPDX-License-Identifier: GPL-2.0

//! The output of the demonstration.

use vfio_migrate::format::{bytes, table, time};
use vfio_migrate::{Pass, PhaseReport};

use crate::guest::Sync;
use crate::scene::Summary;

/// Prints lines, unless the output is JSON.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Out {
    pub(crate) quiet: bool,
}

impl Out {
    /// Prints one line: a subject, and text about it.
    pub(crate) fn line(&self, name: &str, text: impl AsRef<str>) {
        if !self.quiet {
            println!("{name:<15} {}", text.as_ref());
        }
    }

    pub(crate) fn blank(&self) {
        if !self.quiet {
            println!();
        }
    }

    pub(crate) fn pass(&self, pass: &Pass, sync: Option<&Sync>) {
        let pages = count(sync.map_or(0, |s| s.pages));
        self.line(
            "pre-copy",
            format!(
                "pass {}: {} of device state in {}, {pages} pages of guest memory",
                pass.number,
                bytes(pass.sent.bytes),
                time(pass.sent.time),
            ),
        );
    }
}

/// Formats a number with its digits in groups of three.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

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
