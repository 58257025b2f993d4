// SPDX-License-Identifier: GPL-2.0

//! The figures of a migration, as a file for [`picture()`](crate::picture()).
//!
//! The file is JSON. Times are seconds since the migration began; earlier ones are negative. A part that nobody
//! measured is left out.

use serde::{Deserialize, Serialize};

/// The version of the format.
pub const VERSION: u32 = 1;

/// The latest moment, some 30 years.
const TIME_MAX: f64 = 1e9;
/// The most lanes, and the most memories.
const THINGS: usize = 64;
/// The most elements of any other list.
const ELEMENTS: usize = 1_000_000;

/// The figures of a migration.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Figures {
    /// The version of the format.
    pub figures: u32,
    /// What migrated, and how.
    pub title: String,
    /// When the migration ended.
    pub end: f64,
    /// From when to when nothing ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Interval>,
    /// From when to when the guest sent no message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent: Option<Interval>,
    /// States of the guest, the migration and the devices.
    #[serde(default)]
    pub lanes: Vec<LaneFigures>,
    /// What was copied.
    #[serde(default)]
    pub memories: Vec<Memory>,
    /// What the guest verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jobs: Option<Jobs>,
    /// Other figures: name and value.
    #[serde(default)]
    pub facts: Vec<(String, String)>,
    /// What happened.
    #[serde(default)]
    pub events: Vec<Event>,
}

/// A part of the time.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Interval {
    /// When it began.
    pub begin: f64,
    /// When it ended.
    pub end: f64,
}

/// The states of a thing.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct LaneFigures {
    /// The thing.
    pub name: String,
    /// Its states.
    pub states: Vec<StateFigures>,
}

/// A state.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct StateFigures {
    /// Its name.
    pub state: String,
    /// When it began.
    pub begin: f64,
    /// When it ended.
    pub end: f64,
}

/// Memory that was copied: that of the guest, or the state of a device.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Memory {
    /// Its name.
    pub name: String,
    /// Pages that the first pass had to copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pages: Option<u64>,
    /// Pages that were copied while nothing ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_pages: Option<u64>,
    /// How much was copied at some moments.
    #[serde(default)]
    pub samples: Vec<Copied>,
    /// The passes. Without them, those that the samples show.
    #[serde(default)]
    pub passes: Vec<PassFigures>,
}

/// How much was copied at a moment.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Copied {
    /// The moment.
    pub at: f64,
    /// Bytes copied so far.
    pub bytes: u64,
    /// Bytes left to copy.
    pub left: u64,
    /// Those of `bytes` that were copied while nothing ran.
    #[serde(default)]
    pub stopped_bytes: u64,
    /// Completed passes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passes: Option<u64>,
    /// Pages that are dirty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dirty_pages: Option<u64>,
}

impl Copied {
    /// Returns the bytes that were copied while the device or the guest ran.
    fn running(&self) -> u64 {
        self.bytes.saturating_sub(self.stopped_bytes)
    }
}

impl Memory {
    /// Returns the passes: those of the file, or else those that the samples show.
    ///
    /// Passes that ended between two samples are one, and a pass ends at the first sample after its end.
    pub fn passes(&self) -> Vec<PassFigures> {
        let Some(last) = self.samples.last().filter(|_| self.passes.is_empty()) else {
            return self.passes.clone();
        };
        let mut found = Vec::new();
        let (mut completed, mut bytes, mut dirty_pages) = (0, 0, self.pages);
        let mut push = |name: String, dirty_pages, bytes, stopped| {
            found.push(PassFigures {
                name,
                dirty_pages,
                bytes: Some(bytes),
                stopped,
            });
        };
        for sample in self
            .samples
            .iter()
            .filter(|sample| sample.stopped_bytes == 0)
        {
            let Some(now) = sample.passes.filter(|passes| *passes > completed) else {
                continue;
            };
            let name = match now - completed {
                1 => now.to_string(),
                _ => format!("{}–{now}", completed + 1),
            };
            push(
                name,
                dirty_pages,
                sample.running().saturating_sub(bytes),
                false,
            );
            (completed, bytes, dirty_pages) = (now, sample.running(), sample.dirty_pages);
        }
        if last.passes.is_some() && last.running() > bytes {
            let name = completed.saturating_add(1).to_string();
            push(name, dirty_pages, last.running() - bytes, false);
        }
        if last.stopped_bytes > 0 {
            push("stop".into(), self.stopped_pages, last.stopped_bytes, true);
        }
        found
    }

    /// Returns the bytes copied in all.
    pub fn bytes(&self) -> u64 {
        let passes = self.passes.iter().filter_map(|pass| pass.bytes);
        let passes = passes.fold(0, u64::saturating_add);
        let sampled = self.samples.iter().map(|sample| sample.bytes);
        sampled.fold(passes, u64::max)
    }
}

/// A pass over memory, or some that were too short to tell apart.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct PassFigures {
    /// Its number.
    pub name: String,
    /// Pages that were dirty when it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dirty_pages: Option<u64>,
    /// Bytes that it copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Whether the device and the guest were stopped.
    #[serde(default)]
    pub stopped: bool,
}

/// The jobs that the guest verified.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Jobs {
    /// How many at some moments.
    pub samples: Vec<Verified>,
    /// How many before the migration.
    pub before: u64,
    /// How many while it ran.
    pub during: u64,
    /// How many afterwards.
    pub after: u64,
}

/// How many jobs the guest had verified at a moment.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Verified {
    /// The moment.
    pub at: f64,
    /// The jobs.
    pub jobs: u64,
}

/// Something that happened.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Event {
    /// When.
    pub at: f64,
    /// Where.
    #[serde(rename = "where")]
    pub place: String,
    /// What.
    pub what: String,
}

impl Figures {
    /// Checks what the types do not.
    pub fn check(&self) -> std::result::Result<(), String> {
        moment("end", self.end)?;
        if self.end < 0.0 {
            return Err(format!("end: {} is before the migration began", self.end));
        }
        for (name, interval) in [("stopped", self.stopped), ("silent", self.silent)] {
            if let Some(Interval { begin, end }) = interval {
                ordered(name, begin, end)?;
            }
        }
        few("lanes", self.lanes.len(), THINGS)?;
        for (i, lane) in self.lanes.iter().enumerate() {
            few(&format!("lanes[{i}].states"), lane.states.len(), ELEMENTS)?;
            for (j, state) in lane.states.iter().enumerate() {
                ordered(&format!("lanes[{i}].states[{j}]"), state.begin, state.end)?;
            }
        }
        few("memories", self.memories.len(), THINGS)?;
        for (i, memory) in self.memories.iter().enumerate() {
            let name = format!("memories[{i}]");
            few(&format!("{name}.passes"), memory.passes.len(), ELEMENTS)?;
            in_order(
                &format!("{name}.samples"),
                memory.samples.iter().map(|sample| sample.at),
            )?;
        }
        if let Some(jobs) = &self.jobs {
            in_order("jobs.samples", jobs.samples.iter().map(|sample| sample.at))?;
        }
        few("facts", self.facts.len(), ELEMENTS)?;
        in_order("events", self.events.iter().map(|event| event.at))
    }
}

type Checked = std::result::Result<(), String>;

fn moment(name: &str, at: f64) -> Checked {
    match at.abs() <= TIME_MAX {
        true => Ok(()),
        false => Err(format!(
            "{name}: {at} s is not within {TIME_MAX:e} s of the migration"
        )),
    }
}

fn ordered(name: &str, begin: f64, end: f64) -> Checked {
    moment(&format!("{name}.begin"), begin)?;
    moment(&format!("{name}.end"), end)?;
    match begin <= end {
        true => Ok(()),
        false => Err(format!("{name}: end {end} is before begin {begin}")),
    }
}

fn few(name: &str, count: usize, max: usize) -> Checked {
    match count <= max {
        true => Ok(()),
        false => Err(format!("{name}: {count} elements are more than {max}")),
    }
}

fn in_order(name: &str, moments: impl Iterator<Item = f64>) -> Checked {
    let mut last = f64::NEG_INFINITY;
    for (i, at) in moments.enumerate() {
        few(name, i, ELEMENTS)?;
        moment(&format!("{name}[{i}].at"), at)?;
        if at < last {
            return Err(format!(
                "{name}[{i}].at: {at} is before {last}, the moment of the one before"
            ));
        }
        last = at;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: f64, bytes: u64, passes: u64, dirty_pages: u64) -> Copied {
        Copied {
            at,
            bytes,
            passes: Some(passes),
            dirty_pages: Some(dirty_pages),
            ..Copied::default()
        }
    }

    #[test]
    fn samples_show_the_passes() {
        let mut memory = Memory {
            name: "device".into(),
            pages: Some(4096),
            stopped_pages: Some(7),
            samples: vec![
                sample(0.0, 0, 0, 0),
                sample(0.1, 90, 0, 3),
                sample(0.2, 100, 1, 20),
                sample(0.3, 130, 3, 5),
                sample(0.4, 140, 3, 6),
            ],
            passes: Vec::new(),
        };
        memory.samples.push(Copied {
            stopped_bytes: 30,
            ..sample(0.5, 175, 4, 0)
        });
        let passes: Vec<_> = memory
            .passes()
            .into_iter()
            .map(|pass| (pass.name, pass.dirty_pages, pass.bytes, pass.stopped))
            .collect();
        assert_eq!(
            passes,
            [
                ("1".to_string(), Some(4096), Some(100), false),
                ("2–3".into(), Some(20), Some(30), false),
                ("4".into(), Some(5), Some(15), false),
                ("stop".into(), Some(7), Some(30), true),
            ]
        );
        assert_eq!(memory.bytes(), 175);
    }
}
