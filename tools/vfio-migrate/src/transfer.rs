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

/// How long pre-copy goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Not at all: the source stops at once.
    None,
    /// For a number of passes.
    Passes(u32),
    /// Until at most so many bytes are left to send, or so many passes were made.
    Pending {
        /// Bytes.
        bytes: u64,
        /// Passes.
        passes: u32,
    },
}

/// How a transfer is made.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How the devices are driven.
    pub protocol: Protocol,
    /// How data moves by v1; `None` for the best that the device offers.
    pub access: Option<v1::Access>,
    /// How long pre-copy goes on.
    pub until: Until,
    /// Copy writable configuration space.
    pub config: bool,
    /// Let the destination run; else it is left stopped, with its state loaded.
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

/// Where a transfer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The source runs; with the number of the pass, from 1.
    PreCopy(u32),
    /// The source is stopped.
    StopAndCopy,
    /// A file is loaded.
    Load,
    /// All is sent; the destination takes it on.
    Finish,
}

/// Who watches a transfer, and does a VMM's other work at the right moments.
pub trait Progress {
    /// A phase or pass begins with so many bytes to send.
    fn phase(&mut self, _phase: Phase, _pending: u64) {}

    /// A buffer is about to be loaded. It may be changed, as a bad wire would.
    fn buffer(&mut self, _buffer: &mut Vec<u8>) {}

    /// A pass of pre-copy has ended: the time to copy guest memory that was written meanwhile.
    fn pass(&mut self, _pass: &Pass) -> std::result::Result<(), vfio_client::Error> {
        Ok(())
    }

    /// The source is about to be stopped: the time to stop whoever drives it, as a VMM stops its CPUs.
    fn stopping(&mut self) -> std::result::Result<(), vfio_client::Error> {
        Ok(())
    }

    /// The source has stopped: the time to copy the rest of guest memory.
    fn stopped(&mut self) -> std::result::Result<(), vfio_client::Error> {
        Ok(())
    }
}

/// Watches nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quiet;

impl Progress for Quiet {}

/// One pass of pre-copy: as much as was left to send when it began.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Pass {
    /// Its number, from 1.
    pub number: u32,
    /// What was left when it began, in bytes.
    pub pending: u64,
    /// What it sent.
    #[serde(flatten)]
    pub sent: PhaseReport,
}

/// What was sent in one phase.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct PhaseReport {
    /// Bytes of stream.
    pub bytes: u64,
    /// Buffers.
    pub buffers: u64,
    /// How long it took.
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub time: Duration,
}

/// What a transfer did.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// How the devices were driven.
    pub protocol: Protocol,
    /// Sent while the source ran.
    pub pre_copy: PhaseReport,
    /// Its passes.
    pub passes: Vec<Pass>,
    /// What was left to send at the start of each pass, and when the source was stopped.
    pub pending_history: Vec<u64>,
    /// Sent while the source was stopped.
    pub stop_and_copy: PhaseReport,
    /// Words of configuration space that were written.
    pub config_words: usize,
    /// From the request to stop the source until the destination had taken everything on, or ran.
    #[serde(rename = "downtime_seconds", serialize_with = "seconds")]
    pub downtime: Duration,
    /// All of it.
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub time: Duration,
}

fn seconds<S: serde::Serializer>(t: &Duration, s: S) -> std::result::Result<S::Ok, S::Error> {
    s.serialize_f64(t.as_secs_f64())
}

/// Moves the state of `src` to `dst`. The source is stopped afterwards, and the destination runs.
///
/// When it fails the source runs on, and the destination is reset; the failure's notes say so, or that this
/// failed too.
pub fn transfer(
    src: &Device,
    dst: &Device,
    options: &Options,
    progress: &mut dyn Progress,
) -> Result<Report> {
    let mut source = Source::new(src, options.protocol, options.access)?;
    // The stream is the same by both protocols: the destination may have only the other one.
    let mut destination = Destination::new(dst, options.protocol, options.access)?;
    let mut resuming = false;
    let result = run(
        &mut source,
        &mut destination,
        options,
        progress,
        &mut resuming,
    );
    result.map_err(|failure| recover(failure, &mut source, resuming.then_some(&mut destination)))
}

/// Gets both devices back to work after a failure.
fn recover(
    mut failure: Failure,
    source: &mut Source,
    destination: Option<&mut Destination>,
) -> Failure {
    failure = match source.run() {
        Ok(()) => failure.note("the source runs on"),
        Err(e) => failure.note(format!("the source does not run on: {e}")),
    };
    if let Some(destination) = destination {
        failure = match destination.abandon() {
            Ok(()) => failure.note("the destination was reset"),
            Err(e) => failure.note(format!("the destination is unusable: {e}")),
        };
    }
    failure
}

fn run(
    source: &mut Source,
    destination: &mut Destination,
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
    destination.resume()?;
    *resuming = true;

    if options.until != Until::None && source.has_pre_copy() {
        let begin = Instant::now();
        source.pre_copy()?;
        pre_copy(source, destination, options.until, progress, &mut report)?;
        report.pre_copy.time = begin.elapsed();
        report.pending_history.push(source.pending()?);
    }

    progress.stopping()?;
    let stop = Instant::now();
    source.stop_and_copy()?;
    progress.stopped()?;
    progress.phase(Phase::StopAndCopy, source.pending()?);
    report.stop_and_copy = copy(source, destination, u64::MAX, progress)?;
    progress.phase(Phase::Finish, 0);
    source.end()?;
    if options.config && source.device().info().is_pci() && destination.device().info().is_pci() {
        let snapshot = source.device().config()?.snapshot()?;
        let config = destination.device().config()?;
        report.config_words = config
            .restore(&snapshot)
            .map_err(|e| Failure::new(Kind::Refused, e))?;
    }
    match options.run {
        true => destination.run()?,
        false => destination.finish()?,
    }
    report.downtime = stop.elapsed();
    report.time = start.elapsed();
    Ok(report)
}

fn pre_copy(
    source: &mut Source,
    destination: &mut Destination,
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
        // The first pass is always made: a small device is worth one as well.
        if number > 1 && enough.is_some_and(|bytes| pending <= bytes) {
            break;
        }
        report.pending_history.push(pending);
        progress.phase(Phase::PreCopy(number), pending);
        let pass = Pass {
            number,
            pending,
            sent: copy(source, destination, pending, progress)?,
        };
        progress.pass(&pass)?;
        report.pre_copy.bytes += pass.sent.bytes;
        report.pre_copy.buffers += pass.sent.buffers;
        report.passes.push(pass);
    }
    Ok(())
}

/// Moves buffers until there is nothing, or so many bytes have gone over.
fn copy(
    source: &mut Source,
    destination: &mut Destination,
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
        destination.load(&buffer)?;
    }
    sent.time = begin.elapsed();
    Ok(sent)
}
