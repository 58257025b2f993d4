// SPDX-License-Identifier: GPL-2.0

//! The migration of an `mdma` device: two machines, a workload on the first, and its move to the second.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mdma::regs::Reg;
use serde::Serialize;
use vfio_client::mdev::{Sysfs, Type};
use vfio_migrate::format::{bytes, time};
use vfio_migrate::{transfer, Destination, Failure, Kind, Options, Protocol, Report, Until};

use crate::compare::{self, Compared};
use crate::error::{fail, Result};
use crate::flip::Flip;
use crate::guest::{Guest, Queued, Sync};
use crate::machine::{Machine, RING_ORDER};
use crate::out::{count, Out};
use crate::workload::{Done, Workload, LEFT};

/// The device that this is about.
pub(crate) const MDMA: &str = "mdma";

/// What to demonstrate.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Type of the devices.
    pub(crate) kind: String,
    /// Protocol of the migration.
    pub(crate) protocol: Protocol,
    /// Bytes of guest memory for data.
    pub(crate) ram: usize,
    /// Bytes of device memory that the workload uses.
    pub(crate) used: u64,
    /// Number of pre-copy passes.
    pub(crate) passes: u32,
    /// How long the workload runs before the migration, and after it.
    pub(crate) warm_up: Duration,
    /// Seed of the random numbers.
    pub(crate) seed: u64,
    /// Flip a bit of the stream.
    pub(crate) corrupt: bool,
}

/// Microseconds that the device waits after each unit while jobs stay in flight.
const THROTTLE_US: u32 = 20_000;

/// Results of a migration.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    #[serde(flatten)]
    pub(crate) report: Report,
    pub(crate) first_copy: Sync,
    /// Guest memory copied, after each pass and after the source had stopped.
    pub(crate) syncs: Vec<Sync>,
    pub(crate) before: Done,
    pub(crate) during: Done,
    pub(crate) queued: Queued,
    pub(crate) taken_over: Done,
    pub(crate) after: Done,
    pub(crate) compared: Compared,
}

/// Results of a corruption.
#[derive(Debug, Serialize)]
pub(crate) struct Caught {
    /// The flipped bit, and the size of its buffer in bytes.
    pub(crate) bit: usize,
    pub(crate) buffer: usize,
    /// How the destination refused it.
    pub(crate) refusal: String,
    pub(crate) errno: Option<&'static str>,
    /// Jobs at the source, and at the destination after its reset.
    pub(crate) source: Done,
    pub(crate) destination: Done,
}

/// How the migration ended.
#[derive(Debug, Serialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub(crate) enum Outcome {
    Migrated(Box<Summary>),
    CorruptionCaught(Caught),
}

/// State after the migration.
struct Moved {
    result: std::result::Result<Report, Failure>,
    work: Workload,
    first_copy: Sync,
    syncs: Vec<Sync>,
    queued: Queued,
    flipped: Option<(usize, usize)>,
}

pub(crate) fn run(settings: &Settings, out: Out) -> Result<Outcome> {
    let kind = contents::find_type(&Sysfs::default(), MDMA, &settings.kind)?;
    let source = machine("source", &kind, settings, out)?;
    let destination = machine("destination", &kind, settings, out)?;
    let fresh = destination.mdma()?.snapshot()?;
    out.line(
        "guest memory",
        format!("{} for each, at the same IOVAs", bytes(source.ram_size())),
    );

    let mut work = Workload::new(&source, settings.used, settings.seed)?;
    work.prepare(&source)?;
    rounds(&mut work, &source, settings.warm_up)?;
    out.line(
        "workload",
        format!(
            "{} jobs done and verified, {} of device memory in use",
            count(work.done.jobs),
            bytes(settings.used)
        ),
    );
    let before = std::mem::take(&mut work.done);

    let moved = migrate(&source, &destination, work, settings, out)?;
    if let Some((bit, buffer)) = moved.flipped {
        let work = moved.work;
        return match moved.result {
            Ok(_) => fail!("the destination did not detect a flipped bit: bit {bit} of a buffer of {buffer} bytes"),
            Err(failure) if failure.kind != Kind::Refused => Err(failure.into()),
            Err(failure) => {
                out.line("refused", failure.to_string());
                let seen = (bit, buffer, failure);
                caught(&source, &destination, &fresh, work, seen, settings, out)
            }
        };
    }
    if settings.corrupt {
        moved.result?;
        fail!("nothing was sent while the source was stopped, so there was no bit to flip");
    }
    arrived(&source, &destination, moved, before, settings, out)
}

fn machine(name: &str, kind: &Type, settings: &Settings, out: Out) -> Result<Machine> {
    let machine = Machine::new(kind, settings.ram)?;
    let group = machine.device.group().number();
    out.line(
        name,
        format!("{}  {}, group {group}", machine.device.name(), kind.id),
    );
    Ok(machine)
}

fn rounds(work: &mut Workload, machine: &Machine, at_least: Duration) -> Result<()> {
    let start = Instant::now();
    loop {
        work.round(machine)?;
        if start.elapsed() >= at_least {
            return Ok(());
        }
    }
}

/// Migrates while the workload runs. A refused transfer is a result, not an error.
fn migrate(
    source: &Machine,
    destination: &Machine,
    mut work: Workload,
    settings: &Settings,
    out: Out,
) -> Result<Moved> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let processor = scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                work.round(source)?;
            }
            work.leave(THROTTLE_US)?;
            Ok(work)
        });
        let mut guest = Guest {
            source,
            destination,
            stop: &stop,
            processor: Some(processor),
            work: None,
            syncs: Vec::new(),
            queued: Queued::default(),
            flip: Flip::new(settings.corrupt),
            out,
        };
        let options = Options {
            protocol: settings.protocol,
            until: Until::Passes(settings.passes),
            run: false,
            ..Options::default()
        };
        let result = guest.begin().map(|first_copy| {
            let result = transfer(&source.device, &destination.device, &options, &mut guest);
            (first_copy, result)
        });
        // The processor must not be left running, whatever happened.
        let halted = guest.halt();
        let (first_copy, result) = result?;
        halted?;
        let Some(work) = guest.work else {
            fail!("the workload is lost")
        };
        Ok(Moved {
            result,
            work,
            first_copy,
            syncs: guest.syncs,
            queued: guest.queued,
            flipped: guest.flip.done,
        })
    })
}

/// Compares, runs, and compares again after the destination has taken over.
fn arrived(
    source: &Machine,
    destination: &Machine,
    moved: Moved,
    before: Done,
    settings: &Settings,
    out: Out,
) -> Result<Outcome> {
    let mut report = moved.result?;
    let queued = moved.queued;
    let mut work = moved.work;
    let under_way = queued.tail.wrapping_sub(queued.head) % (1 << RING_ORDER);
    out.line(
        "stop-and-copy",
        format!(
            "{} of device state, with {under_way} of {LEFT} jobs in flight",
            bytes(report.stop_and_copy.bytes)
        ),
    );
    if under_way == 0 {
        fail!("the device had completed all {LEFT} jobs before it stopped: none was in flight");
    }

    let compared = compare::machines(source, destination)?;
    out.line(
        "compared",
        "registers, configuration, device and guest memory are equal in every byte",
    );

    destination.enable_interrupt()?;
    let start = Instant::now();
    Destination::new(&destination.device, settings.protocol, None)?.run()?;
    report.downtime += start.elapsed();
    let during = work.done;
    let mut work = {
        work.done = Done::default();
        work.moved(destination)?
    };
    work.unthrottle()?;
    work.drain()?;
    work.interrupts(destination)?;
    let taken_over = std::mem::take(&mut work.done);
    out.line(
        "destination",
        format!("all {} jobs completed and verified", taken_over.jobs),
    );

    rounds(&mut work, destination, settings.warm_up)?;
    compare::world(destination, work.world())?;
    out.line(
        "destination",
        format!(
            "{} further jobs completed and verified",
            count(work.done.jobs)
        ),
    );
    let jobs_done = source.mdma()?.get(Reg::JobsDone)?;
    if jobs_done != queued.jobs_done {
        fail!("the source continued after it was stopped: JOBS_DONE is {jobs_done}");
    }
    let after = work.done;
    work.close()?;
    Ok(Outcome::Migrated(Box::new(Summary {
        report,
        first_copy: moved.first_copy,
        syncs: moved.syncs,
        before,
        during,
        queued,
        taken_over,
        after,
        compared,
    })))
}

/// Checks that the source continues and the destination works after the destination has refused.
fn caught(
    source: &Machine,
    destination: &Machine,
    fresh: &mdma::Snapshot,
    mut work: Workload,
    (bit, buffer, failure): (usize, usize, Failure),
    settings: &Settings,
    out: Out,
) -> Result<Outcome> {
    let start = Instant::now();
    work.unthrottle()?;
    work.drain()?;
    rounds(&mut work, source, settings.warm_up)?;
    compare::world(source, work.world())?;
    out.line(
        "source",
        format!(
            "continued: {} jobs completed and verified in {}",
            count(work.done.jobs),
            time(start.elapsed())
        ),
    );
    let at_source = work.done;
    work.close()?;

    if let Some((name, was, is)) = fresh.diff(&destination.mdma()?.snapshot()?).first() {
        fail!("after its reset register {name} of the destination is {is:#x}, not {was:#x}");
    }
    compare::empty(destination)?;
    let mut work = Workload::new(destination, settings.used, settings.seed ^ 1)?;
    work.prepare(destination)?;
    rounds(&mut work, destination, settings.warm_up)?;
    compare::world(destination, work.world())?;
    out.line(
        "destination",
        format!(
            "works after its reset: {} jobs completed and verified",
            count(work.done.jobs)
        ),
    );
    let at_destination = work.done;
    work.close()?;
    Ok(Outcome::CorruptionCaught(Caught {
        bit,
        buffer,
        refusal: failure.to_string(),
        errno: failure.error.errno_name(),
        source: at_source,
        destination: at_destination,
    }))
}
