// SPDX-License-Identifier: GPL-2.0

//! Moves the state of one opened device to another.
//!
//! ```text
//! source               destination
//! pre-copy             resuming         passes: buffers go over while the source runs
//! stop-and-copy ◄───── the source stops ──────────────┐
//!   buffers  ───────►  loaded                         │
//! stop                                                │ downtime
//!   configuration ──►  written                        │
//!                      running ◄──────────────────────┘
//! ```

use std::time::{Duration, Instant};

use serde::Serialize;
use vfio_client::{v1, Device};

use crate::endpoint::{Destination, Protocol, Source};
use crate::error::{Failure, Kind, Result};
use crate::progress::{seconds, Pass, Phase, PhaseReport, Progress};
use crate::target::Target;

/// How long pre-copy lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// No pre-copy: the source stops at once.
    None,
    /// A number of passes.
    Passes(u32),
    /// Until at most this many bytes are left to send, or this many passes were made.
    Pending {
        /// Bytes.
        bytes: u64,
        /// Passes.
        passes: u32,
    },
}

/// Options of a transfer.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The protocol.
    pub protocol: Protocol,
    /// How v1 data moves; `None` for the best way that the device offers.
    pub access: Option<v1::Access>,
    /// How long pre-copy lasts.
    pub until: Until,
    /// Copy writable configuration space.
    pub config: bool,
    /// Let the destination run; otherwise it stays stopped, with its state loaded.
    pub run: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            protocol: Protocol::Auto,
            access: None,
            until: Until::Passes(1),
            config: true,
            run: true,
        }
    }
}

/// Result of a transfer.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The protocol used.
    pub protocol: Protocol,
    /// Sent while the source ran.
    pub pre_copy: PhaseReport,
    /// Its passes.
    pub passes: Vec<Pass>,
    /// Bytes left at the start of each pass, and when the source stopped.
    pub pending_history: Vec<u64>,
    /// Sent while the source was stopped.
    pub stop_and_copy: PhaseReport,
    /// Words of configuration space written.
    pub config_words: usize,
    /// From the request to stop the source until the destination had adopted everything or ran.
    #[serde(rename = "downtime_seconds", serialize_with = "seconds")]
    pub downtime: Duration,
    /// Total duration.
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub time: Duration,
}

/// Moves the state of `src` to `dst`. Afterwards the source is stopped and the destination runs.
///
/// After a failure the source runs and the destination is reset. The failure's notes say so, or that this failed too.
pub fn transfer(
    src: &Device,
    dst: &Device,
    options: &Options,
    progress: &mut dyn Progress,
) -> Result<Report> {
    let mut source = Source::new(src, options.protocol, options.access)?;
    // The stream is the same by both protocols, and the destination may have only the other one.
    let mut destination = Destination::new(dst, options.protocol, options.access)?;
    transfer_to(&mut source, &mut destination, options, progress)
}

/// Moves the state of a device to a target.
pub(crate) fn transfer_to(
    source: &mut Source,
    target: &mut dyn Target,
    options: &Options,
    progress: &mut dyn Progress,
) -> Result<Report> {
    let mut resuming = false;
    let result = run(source, target, options, progress, &mut resuming);
    result.map_err(|failure| recover(failure, source, resuming.then_some(target)))
}

/// Returns both devices to operation after a failure.
fn recover(mut failure: Failure, source: &mut Source, target: Option<&mut dyn Target>) -> Failure {
    if failure.kind == Kind::Undecided {
        return failure.note("the source stays stopped");
    }
    failure = match source.run() {
        Ok(()) => failure.note("the source runs again"),
        Err(e) => failure.note(format!("the source could not be restarted: {e}")),
    };
    match target {
        Some(target) => {
            let done = target.abandon();
            failure.note(done)
        }
        None => failure,
    }
}

fn run(
    source: &mut Source,
    target: &mut dyn Target,
    options: &Options,
    progress: &mut dyn Progress,
    resuming: &mut bool,
) -> Result<Report> {
    let start = Instant::now();
    let mut report = Report {
        protocol: source.protocol(),
        pre_copy: PhaseReport::default(),
        passes: Vec::new(),
        pending_history: Vec::new(),
        stop_and_copy: PhaseReport::default(),
        config_words: 0,
        downtime: Duration::ZERO,
        time: Duration::ZERO,
    };
    target.resume()?;
    *resuming = true;

    if options.until != Until::None && source.has_pre_copy() {
        let begin = Instant::now();
        source.pre_copy()?;
        pre_copy(source, target, options.until, progress, &mut report)?;
        report.pre_copy.time = begin.elapsed();
        report.pending_history.push(source.pending()?);
    }

    target.stopping()?;
    progress.stopping()?;
    let stop = Instant::now();
    source.stop_and_copy()?;
    progress.stopped()?;
    let pending = source.pending()?;
    progress.phase(Phase::StopAndCopy, pending);
    target.phase(Phase::StopAndCopy, pending)?;
    report.stop_and_copy = copy(source, target, u64::MAX, progress)?;
    progress.phase(Phase::Finish, 0);
    source.end()?;
    if options.config && source.device().info().is_pci() {
        report.config_words = target.configure(&source.device().config()?.snapshot()?)?;
    }
    target.finish(options.run)?;
    report.downtime = stop.elapsed();
    report.time = start.elapsed();
    Ok(report)
}

fn pre_copy(
    source: &mut Source,
    target: &mut dyn Target,
    until: Until,
    progress: &mut dyn Progress,
    report: &mut Report,
) -> Result<()> {
    let (enough, passes) = match until {
        Until::None => (None, 0),
        Until::Passes(passes) => (None, passes),
        Until::Pending { bytes, passes } => (Some(bytes), passes),
    };
    for number in 1..=passes {
        let pending = source.pending()?;
        // The first pass always runs, even for a small device.
        if number > 1 && enough.is_some_and(|bytes| pending <= bytes) {
            break;
        }
        report.pending_history.push(pending);
        progress.phase(Phase::PreCopy(number), pending);
        target.phase(Phase::PreCopy(number), pending)?;
        let pass = Pass {
            number,
            pending,
            sent: copy(source, target, pending, progress)?,
        };
        progress.pass(&pass)?;
        report.pre_copy.bytes += pass.sent.bytes;
        report.pre_copy.buffers += pass.sent.buffers;
        report.passes.push(pass);
    }
    Ok(())
}

/// Moves buffers until none is left or this many bytes were moved.
fn copy(
    source: &mut Source,
    target: &mut dyn Target,
    limit: u64,
    progress: &mut dyn Progress,
) -> Result<PhaseReport> {
    let begin = Instant::now();
    let mut sent = PhaseReport::default();
    let mut buffer = Vec::new();
    while sent.bytes < limit && source.next(&mut buffer)? {
        sent.bytes += buffer.len() as u64;
        sent.buffers += 1;
        progress.buffer(&mut buffer);
        target.load(&buffer)?;
    }
    sent.time = begin.elapsed();
    Ok(sent)
}
