// SPDX-License-Identifier: GPL-2.0

//! What the demonstration prints.

use std::time::Duration;

use vfio_migrate::format::{bytes, table, time};
use vfio_migrate::Pass;

use crate::guest::Sync;
use crate::scene::Summary;

/// Prints lines, unless JSON is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Out {
    pub(crate) quiet: bool,
}

impl Out {
    /// One line: what it is about, and what is to say.
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
        let pages = sync.map_or(0, |s| s.device_pages + s.processor_pages);
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

/// Digits in groups of three.
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

fn sync_cells(sync: Option<&Sync>) -> [String; 2] {
    match sync {
        None => ["-".into(), "-".into()],
        Some(s) => [count(s.device_pages), count(s.processor_pages)],
    }
}

/// The tables at the end.
pub(crate) fn summary(s: &Summary) -> String {
    let mut rows = Vec::new();
    let mut row = |name: String, n: u64, buffers: u64, t: Duration, sync: Option<&Sync>| {
        let mut cells = vec![name, bytes(n), count(buffers), time(t)];
        cells.extend(sync_cells(sync));
        rows.push(cells);
    };
    row(
        "first copy".into(),
        0,
        0,
        s.first_copy.time,
        Some(&s.first_copy),
    );
    for (pass, sync) in s.report.passes.iter().zip(&s.syncs) {
        let sent = &pass.sent;
        row(
            format!("pre-copy, pass {}", pass.number),
            sent.bytes,
            sent.buffers,
            sent.time,
            Some(sync),
        );
    }
    let last = &s.report.stop_and_copy;
    row(
        "stop-and-copy".into(),
        last.bytes,
        last.buffers,
        last.time,
        s.syncs.get(s.report.passes.len()),
    );
    let phases = table(
        &[
            "PHASE",
            ">DEVICE STATE",
            ">BUFFERS",
            ">TIME",
            ">PAGES BY DEVICE",
            ">BY PROCESSOR",
        ],
        &rows,
    );
    let jobs = table(
        &["JOBS", ">COUNT", ">BYTES", ">INTERRUPTS", "VERIFIED"],
        &[
            ("before migration", &s.before),
            ("during pre-copy", &s.during),
            ("taken over under way", &s.taken_over),
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
