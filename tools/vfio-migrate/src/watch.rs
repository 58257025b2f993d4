// SPDX-License-Identifier: GPL-2.0

//! Follows a migration from outside, in the driver's debugfs. The device stays with its user.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;
use vfio_client::mdev::Instance;
use vfio_client::Error;

use crate::error::{Failure, Kind, Result};

/// A device at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Sample {
    /// Seconds since the first sample.
    pub seconds: f64,
    /// Name of the state, or `busy` while a change takes long.
    pub state: String,
    /// The interface that has a session, or `none`.
    pub front_end: String,
    /// Passes of pre-copy so far.
    pub passes: u64,
    /// Bytes that the open or last save has produced.
    pub saved_bytes: u64,
    /// Those of `saved_bytes` that were saved while the device was stopped.
    pub stop_copy_bytes: u64,
    /// Pages of device memory that were saved while it was stopped.
    pub stop_copy_pages: u64,
    /// Bytes that the open or last load has taken.
    pub loaded_bytes: u64,
    /// Bytes left to save.
    pub pending_bytes: u64,
    /// Pages of device memory that are to be saved again.
    pub dirty_pages: u64,
    /// Pages of device memory.
    pub memory_pages: u64,
    /// Those that were ever written.
    pub populated_pages: u64,
    /// Bytes a second since the last sample, saved and loaded.
    pub rate: f64,
    /// Milliseconds that the device has been stopped since the first sample.
    pub stopped_ms: u64,
}

/// A migration as the samples show it.
#[derive(Debug)]
pub struct Watch {
    path: PathBuf,
    begin: Instant,
    /// The time stopped before the first sample.
    stopped_before: Option<u64>,
    last: Sample,
    /// A session was seen.
    seen: bool,
}

impl Watch {
    /// Watches an instance. Fails if its driver has no such file or the user may not read it.
    pub fn new(instance: &Instance) -> Result<Self> {
        let path = PathBuf::from("/sys/kernel/debug")
            .join(instance.parent()?)
            .join(instance.uuid.as_str())
            .join("migration");
        let watch = Watch {
            path,
            begin: Instant::now(),
            stopped_before: None,
            last: Sample::default(),
            seen: false,
        };
        watch.read()?;
        Ok(watch)
    }

    fn read(&self) -> Result<String> {
        fs::read_to_string(&self.path).map_err(|e| {
            let missing = e.kind() == std::io::ErrorKind::NotFound;
            let failure = Failure::from(Error::new(format!("open {}", self.path.display()), e));
            match missing {
                true => Failure {
                    kind: Kind::NotMigratable,
                    ..failure
                }
                .note("mount debugfs: mount -t debugfs debugfs /sys/kernel/debug"),
                false => failure,
            }
        })
    }

    /// Takes a sample; `None` if the instance is gone.
    pub fn sample(&mut self) -> Option<Sample> {
        let text = self.read().ok()?;
        let seconds = self.begin.elapsed().as_secs_f64();
        Some(self.next(&text, seconds))
    }

    /// Returns whether a migration was seen and has ended.
    pub fn has_ended(&self) -> bool {
        self.seen && self.last.front_end == "none"
    }

    fn next(&mut self, text: &str, seconds: f64) -> Sample {
        let fields: BTreeMap<&str, &str> = text
            .lines()
            .filter_map(|line| line.split_once(": "))
            .collect();
        let number = |name: &str| {
            fields
                .get(name)
                .and_then(|n| n.parse().ok())
                .unwrap_or(0u64)
        };
        let state = fields.get("state").copied().unwrap_or("?").to_string();
        if state == "busy" {
            // The file has no other line.
            self.last = Sample {
                seconds,
                state,
                rate: 0.0,
                ..self.last.clone()
            };
            return self.last.clone();
        }
        let stopped: u64 = fields
            .iter()
            .filter(|(name, _)| is_time_stopped(name))
            .filter_map(|(_, n)| n.parse::<u64>().ok())
            .sum();
        let before = *self.stopped_before.get_or_insert(stopped);
        let mut sample = Sample {
            seconds,
            state,
            front_end: fields.get("front_end").copied().unwrap_or("none").into(),
            passes: number("passes"),
            saved_bytes: number("pre_copy_bytes").saturating_add(number("stop_copy_bytes")),
            stop_copy_bytes: number("stop_copy_bytes"),
            stop_copy_pages: number("stop_copy_pages"),
            loaded_bytes: number("load_bytes"),
            pending_bytes: number("pending_bytes"),
            dirty_pages: number("dirty_pages"),
            memory_pages: number("memory_pages"),
            populated_pages: number("populated_pages"),
            rate: 0.0,
            stopped_ms: stopped.saturating_sub(before),
        };
        let last = &self.last;
        let moved = sample.saved_bytes.saturating_sub(last.saved_bytes)
            + sample.loaded_bytes.saturating_sub(last.loaded_bytes);
        let elapsed = seconds - last.seconds;
        if elapsed > 0.0 && !last.state.is_empty() {
            sample.rate = moved as f64 / elapsed;
        }
        self.seen |= sample.front_end != "none";
        self.last = sample.clone();
        sample
    }
}

/// Returns whether a field is the time in a state in which the device does not run.
fn is_time_stopped(name: &str) -> bool {
    ["STOP", "STOP_COPY", "RESUMING"]
        .iter()
        .any(|state| name.strip_prefix("time_ms_") == Some(state))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch() -> Watch {
        Watch {
            path: PathBuf::new(),
            begin: Instant::now(),
            stopped_before: None,
            last: Sample::default(),
            seen: false,
        }
    }

    fn text(state: &str, front_end: &str, bytes: u64, stopped: u64) -> String {
        format!(
            "state: {state}\nfront_end: {front_end}\npending_bytes: 77\npre_copy_bytes: {bytes}\n\
             stop_copy_bytes: 5\npasses: 2\ndirty_pages: 3\nmemory_pages: 4096\n\
             time_ms_RUNNING: 9000\ntime_ms_STOP: 40\ntime_ms_STOP_COPY: {stopped}\n"
        )
    }

    #[test]
    fn counts_rates_and_downtime_from_the_first_sample() {
        let mut watch = watch();
        let first = watch.next(&text("RUNNING", "none", 0, 100), 0.0);
        assert_eq!((first.rate, first.stopped_ms), (0.0, 0));
        assert!(!watch.has_ended());
        let second = watch.next(&text("PRE_COPY", "v2", 2000, 100), 0.5);
        assert_eq!(second.rate, 4000.0);
        assert_eq!(second.saved_bytes, 2005);
        assert!(!watch.has_ended());
        let third = watch.next(&text("STOP_COPY", "v2", 2000, 125), 1.0);
        assert_eq!((third.rate, third.stopped_ms), (0.0, 25));
        assert_eq!(
            (third.passes, third.dirty_pages, third.pending_bytes),
            (2, 3, 77)
        );
        watch.next(&text("STOP", "none", 2000, 150), 1.5);
        assert!(watch.has_ended());
    }

    #[test]
    fn a_busy_device_keeps_its_numbers() {
        let mut watch = watch();
        watch.next(&text("PRE_COPY", "v1", 100, 0), 0.0);
        let busy = watch.next("state: busy\n", 0.5);
        assert_eq!(busy.state, "busy");
        assert_eq!((busy.saved_bytes, busy.rate), (105, 0.0));
        assert!(!watch.has_ended());
    }
}
