// SPDX-License-Identifier: GPL-2.0

//! A migration as its [`Sample`]s show it, for a picture.

use crate::figures::{
    Copied, Event, Figures, Interval, LaneFigures, Memory, StateFigures, VERSION,
};
use crate::watch::Sample;

/// The most samples that are kept. When there are more, every second one is forgotten.
const SAMPLES: usize = 20_000;

/// The samples of a migration, from the last one before it.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    samples: Vec<Sample>,
    /// Only each sample whose number is a multiple of it is kept.
    every: usize,
    seen: usize,
    begun: bool,
}

impl Recording {
    /// Adds a sample.
    pub fn add(&mut self, sample: &Sample) {
        let last = self.samples.last();
        if !self.begun {
            self.begun = sample.front_end != "none";
            if !self.begun {
                // Only the last one before the migration is of interest.
                self.samples.clear();
            }
            self.samples.push(sample.clone());
            return;
        }
        let changed =
            last.is_none_or(|last| last.state != sample.state || last.passes != sample.passes);
        self.seen += 1;
        if changed || self.seen % self.every.max(1) == 0 || sample.front_end == "none" {
            self.samples.push(sample.clone());
        }
        if self.samples.len() > SAMPLES {
            let mut number = 0;
            self.samples.retain(|_| {
                number += 1;
                number % 2 == 1
            });
            self.every = self.every.max(1) * 2;
        }
    }

    /// Returns the figures, or `None` if no migration was seen.
    pub fn figures(&self, title: &str) -> Option<Figures> {
        let begin = self
            .samples
            .iter()
            .find(|sample| sample.front_end != "none")?
            .seconds;
        let last = self.samples.last()?;
        let end = (last.seconds - begin).max(0.0);
        let states = self.states(begin, end);
        let events = states.iter().map(|state| Event {
            at: state.begin,
            place: "device".into(),
            what: state.state.clone(),
        });
        let session = || self.samples.iter().filter(|sample| sample.seconds >= begin);
        let mut samples: Vec<Copied> = session().map(|sample| copied(sample, begin)).collect();
        // The counters of the last migration are shown until this one has saved something.
        let old = session()
            .next()
            .map_or(0, |sample| sample.saved_bytes + sample.loaded_bytes);
        let restart = samples.iter().position(|sample| sample.bytes < old);
        samples.drain(..restart.unwrap_or(0));
        let moved = |of: fn(&Sample) -> u64| self.samples.first().map(of) != Some(of(last));
        let stopped = states
            .iter()
            .filter(|state| matches!(&*state.state, "STOP_COPY" | "STOP"))
            .map(|state| (state.begin, state.end))
            .reduce(|all, state| (all.0.min(state.0), all.1.max(state.1)))
            .filter(|_| moved(|sample| sample.saved_bytes));
        Some(Figures {
            figures: VERSION,
            title: title.into(),
            end,
            stopped: stopped.map(|(begin, end)| Interval { begin, end }),
            lanes: vec![LaneFigures {
                name: "device".into(),
                states: states.clone(),
            }],
            memories: vec![Memory {
                name: "device state".into(),
                pages: session().next().map(|sample| sample.populated_pages),
                stopped_pages: Some(last.stop_copy_pages),
                samples,
                passes: Vec::new(),
            }],
            facts: vec![
                ("samples".into(), self.samples.len().to_string()),
                ("passes".into(), last.passes.to_string()),
                ("bytes saved".into(), last.saved_bytes.to_string()),
                ("bytes loaded".into(), last.loaded_bytes.to_string()),
                (
                    "pages of device memory".into(),
                    last.memory_pages.to_string(),
                ),
                ("time stopped".into(), format!("{} ms", last.stopped_ms)),
            ],
            events: events.collect(),
            ..Figures::default()
        })
    }

    /// Returns the states; each begins at the sample that first shows it.
    fn states(&self, begin: f64, end: f64) -> Vec<StateFigures> {
        let mut states: Vec<StateFigures> = Vec::new();
        for sample in &self.samples {
            let at = (sample.seconds - begin).max(0.0);
            match states.last_mut() {
                Some(last) if last.state == sample.state => {}
                last => {
                    if let Some(last) = last {
                        last.end = at;
                    }
                    states.push(StateFigures {
                        state: sample.state.clone(),
                        begin: at,
                        end,
                    });
                }
            }
        }
        states
    }
}

fn copied(sample: &Sample, begin: f64) -> Copied {
    Copied {
        at: sample.seconds - begin,
        bytes: sample.saved_bytes.saturating_add(sample.loaded_bytes),
        left: sample.pending_bytes,
        stopped_bytes: sample.stop_copy_bytes,
        passes: Some(sample.passes),
        dirty_pages: Some(sample.dirty_pages),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::picture::picture;

    fn sample(seconds: f64, state: &str, front_end: &str, bytes: u64) -> Sample {
        Sample {
            seconds,
            state: state.into(),
            front_end: front_end.into(),
            saved_bytes: bytes,
            populated_pages: 4096,
            ..Sample::default()
        }
    }

    #[test]
    fn a_migration_begins_with_its_session() {
        let mut recording = Recording::default();
        for i in 0..100 {
            recording.add(&sample(f64::from(i), "RUNNING", "none", 0));
        }
        assert!(recording.figures("t").is_none());
        recording.add(&sample(100.0, "PRE_COPY", "v2", 0));
        recording.add(&sample(101.0, "PRE_COPY", "v2", 800));
        recording.add(&Sample {
            stop_copy_bytes: 100,
            stop_copy_pages: 2,
            passes: 1,
            ..sample(102.0, "STOP_COPY", "v2", 900)
        });
        recording.add(&Sample {
            stop_copy_bytes: 200,
            stop_copy_pages: 3,
            passes: 2,
            ..sample(102.5, "STOP", "none", 1000)
        });
        let figures = recording.figures("t").unwrap();
        figures.check().unwrap();
        assert_eq!(figures.end, 2.5);
        assert_eq!(
            figures.stopped,
            Some(Interval {
                begin: 2.0,
                end: 2.5
            })
        );
        let states: Vec<_> = figures.lanes[0]
            .states
            .iter()
            .map(|state| &*state.state)
            .collect();
        assert_eq!(states, ["RUNNING", "PRE_COPY", "STOP_COPY", "STOP"]);
        let passes = figures.memories[0].passes();
        assert_eq!(passes[0].bytes, Some(800));
        assert_eq!(
            (passes[1].bytes, passes[1].dirty_pages),
            (Some(200), Some(3))
        );
        picture(&figures).unwrap();
    }

    #[test]
    fn counters_of_an_earlier_migration_do_not_count() {
        let mut recording = Recording::default();
        for (seconds, bytes) in [(0.0, 5000), (1.0, 5000), (2.0, 10), (3.0, 20)] {
            recording.add(&sample(seconds, "PRE_COPY", "v1", bytes));
        }
        assert_eq!(recording.figures("t").unwrap().memories[0].bytes(), 20);
    }

    #[test]
    fn long_migrations_keep_some_samples() {
        let mut recording = Recording::default();
        for i in 0..100_000 {
            recording.add(&sample(f64::from(i), "PRE_COPY", "v2", u64::from(i as u32)));
        }
        assert!(recording.samples.len() <= SAMPLES);
        let figures = recording.figures("t").unwrap();
        assert!(figures.memories[0].bytes() > 99_000);
    }
}
