// SPDX-License-Identifier: GPL-2.0

//! The command `watch`: prints a migration while it runs.

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use serde_json::json;
use vfio_client::mdev::Instance;
use vfio_client::Error;
use vfio_migrate::file::NewFile;
use vfio_migrate::format::{bytes, time};
use vfio_migrate::{Failure, Recording, Sample, Watch};

use crate::answer::Answer;
use crate::plot;

/// Seconds between two lines of the same state and pass.
const INTERVAL: f64 = 1.0;

/// What is printed of a sample, and when.
struct Printer {
    json: bool,
    last: Option<Sample>,
}

impl Printer {
    /// Prints a sample if it shows something new.
    fn print(&mut self, sample: &Sample) {
        let new = self.last.as_ref().is_none_or(|last| {
            last.state != sample.state
                || last.passes != sample.passes
                || last.front_end != sample.front_end
                || (sample.seconds - last.seconds >= INTERVAL && last.front_end != "none")
        });
        if !new {
            return;
        }
        if self.json {
            println!("{}", json!(sample));
        } else {
            if self.last.is_none() {
                println!(
                    "{:>9} {:<12} {:<5} {:>4} {:>10} {:>12} {:>10} {:>7} {:>9}",
                    "TIME", "STATE", "BY", "PASS", "MOVED", "RATE", "PENDING", "DIRTY", "STOPPED"
                );
            }
            println!("{}", line(sample));
        }
        self.last = Some(sample.clone());
    }
}

fn line(sample: &Sample) -> String {
    format!(
        "{:>7.2} s {:<12} {:<5} {:>4} {:>10} {:>12} {:>10} {:>7} {:>9}",
        sample.seconds,
        sample.state,
        sample.front_end,
        sample.passes,
        bytes(sample.saved_bytes + sample.loaded_bytes),
        format!("{}/s", bytes(sample.rate as u64)),
        bytes(sample.pending_bytes),
        sample.dirty_pages,
        time(Duration::from_millis(sample.stopped_ms)),
    )
}

/// Follows a device until it is gone or, with `once`, until a migration has ended. With a `path`, draws that migration.
pub(crate) fn follow(
    instance: &Instance,
    once: bool,
    interval: u64,
    json: bool,
    path: Option<&Path>,
) -> Result<Answer, Failure> {
    let mut watch = Watch::new(instance)?;
    // Created before the migration, so that a wrong path is noticed in time.
    let mut page = path
        .map(|path| Ok::<_, Failure>((path, NewFile::create(path, true)?)))
        .transpose()?;
    let mut recording = Recording::default();
    let mut printer = Printer { json, last: None };
    let mut last = Sample::default();
    while let Some(sample) = watch.sample() {
        printer.print(&sample);
        if page.is_some() {
            recording.add(&sample);
        }
        last = sample;
        if (once || page.is_some()) && watch.has_ended() {
            break;
        }
        sleep(Duration::from_millis(interval));
    }
    let mut text = format!(
        "stopped for {} in total",
        time(Duration::from_millis(last.stopped_ms))
    );
    if let Some((path, page)) = page.take() {
        let Some(figures) = recording.figures(&format!("device {}", instance.uuid)) else {
            let why = "the device was removed before it migrated";
            return Err(Error::other("plot", why).into());
        };
        plot::write(&figures, path, page)?;
        text.push_str(&format!("\ndrawn in {}", path.display()));
    }
    Ok(Answer::new(text, &last))
}
