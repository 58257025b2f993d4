// SPDX-License-Identifier: GPL-2.0

//! Progress of a command on standard error: a bar on a terminal, occasional lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use vfio_migrate::format;
use vfio_migrate::{Pass, Phase, Progress};

/// Interval of the lines where there is no terminal.
const INTERVAL: Duration = Duration::from_secs(2);

/// Shows the progress of one command.
pub(crate) struct Bar {
    kind: Kind,
    name: String,
    total: u64,
    done: u64,
    last: Instant,
}

enum Kind {
    None,
    Bar(ProgressBar),
    Lines,
}

impl Bar {
    /// Creates it; shows nothing if `quiet`.
    pub(crate) fn new(quiet: bool) -> Self {
        let kind = if quiet {
            Kind::None
        } else if std::io::stderr().is_terminal() {
            Kind::Bar(ProgressBar::hidden())
        } else {
            Kind::Lines
        };
        Bar {
            kind,
            name: String::new(),
            total: 0,
            done: 0,
            last: Instant::now(),
        }
    }

    /// Begins a step of this many bytes; 0 if unknown.
    pub(crate) fn begin(&mut self, name: &str, total: u64) {
        self.clear();
        self.name = name.to_string();
        self.total = total;
        self.done = 0;
        self.last = Instant::now();
        match &mut self.kind {
            Kind::None => {}
            Kind::Bar(bar) => {
                let template = match total {
                    0 => "{msg:<20} {spinner} {bytes}  {bytes_per_sec}",
                    _ => {
                        "{msg:<20} [{bar:30}] {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left"
                    }
                };
                let style = ProgressStyle::with_template(template)
                    .expect("the template is well formed")
                    .progress_chars("=> ");
                *bar = match total {
                    0 => ProgressBar::new_spinner(),
                    _ => ProgressBar::new(total),
                }
                .with_style(style)
                .with_message(name.to_string());
            }
            Kind::Lines if total > 0 => eprintln!("{name}: {}", format::bytes(total)),
            Kind::Lines => eprintln!("{name}"),
        }
    }

    /// Adds bytes that are done.
    pub(crate) fn advance(&mut self, bytes: u64) {
        self.done += bytes;
        match &self.kind {
            Kind::None => {}
            Kind::Bar(bar) => {
                if self.done > self.total && self.total > 0 {
                    bar.set_length(self.done);
                }
                bar.set_position(self.done);
            }
            Kind::Lines => {
                if self.last.elapsed() >= INTERVAL {
                    self.last = Instant::now();
                    let done = format::bytes(self.done);
                    match self.total {
                        0 => eprintln!("{}: {done}", self.name),
                        total => eprintln!("{}: {done} of {}", self.name, format::bytes(total)),
                    }
                }
            }
        }
    }

    /// Removes the bar.
    pub(crate) fn clear(&self) {
        if let Kind::Bar(bar) = &self.kind {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Bar {
    fn phase(&mut self, phase: Phase, pending: u64) {
        match phase {
            Phase::PreCopy(pass) => self.begin(&format!("pre-copy, pass {pass}"), pending),
            Phase::StopAndCopy => self.begin("stop-and-copy", pending),
            Phase::Load => self.begin("load", pending),
            Phase::Finish => self.clear(),
        }
    }

    fn buffer(&mut self, buffer: &mut Vec<u8>) {
        self.advance(buffer.len() as u64);
    }

    fn pass(&mut self, _pass: &Pass) -> vfio_client::Result<()> {
        self.clear();
        Ok(())
    }
}
