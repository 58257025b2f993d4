// SPDX-License-Identifier: GPL-2.0

//! The picture of a migration: a page with charts of its [`Figures`].

use std::ops::Range;

use pictures::{
    Band, Bar, Bars, Colour, Figure, Lane, Lanes, Line, Lines, Mark, Page, Series, Span, Table,
    Tint, Unit,
};
use vfio_client::Error;

use crate::error::Result;
use crate::figures::{Figures, Interval, Memory, PassFigures};

/// The name of the axis of time.
const TIME: &str = "time since the migration began";
/// How much of the downtime is shown before and after it.
const AROUND: f64 = 0.3;
/// The most rows of a table.
const ROWS: usize = 2000;

/// Draws the page, as HTML.
pub fn picture(figures: &Figures) -> Result<String> {
    figures
        .check()
        .map_err(|why| Error::other("figures", why))?;
    Ok(page(figures).map_err(|e| Error::other("plot", e.to_string()))?)
}

fn page(figures: &Figures) -> std::result::Result<String, pictures::Error> {
    let mut page = Page::new("A live migration", &figures.title);
    page.lead(&summary(figures));
    page.tiles(tiles(figures));

    if !figures.lanes.is_empty() {
        page.section("States over time");
        page.figure(&states(figures)?);
    }
    if let Some(figure) = figures
        .stopped
        .filter(|_| !figures.lanes.is_empty())
        .map(|stopped| magnified(figures, stopped))
        .transpose()?
    {
        page.section("The downtime, magnified");
        page.figure(&figure);
    }
    let copied = |memory: &Memory| !memory.samples.is_empty();
    if figures.memories.iter().any(copied) {
        page.section("What was copied, and what was left");
        page.text(
            "Pre-copy sends memory while the guest runs. What the guest and the device write meanwhile is dirty and has \
             to be sent again. When little enough is left, the guest stops and the rest is sent.",
        );
        for memory in figures.memories.iter().filter(|memory| copied(memory)) {
            page.figure(&progress(figures, memory)?);
        }
    }
    if figures
        .memories
        .iter()
        .any(|memory| !memory.passes().is_empty())
    {
        page.section("Pass by pass");
        page.text(
            "A pass sends the pages that were dirty when it began. Where values differ very much, the axis is \
             logarithmic: each line of the grid is the tenfold of the one below it.",
        );
        for memory in &figures.memories {
            for figure in passes(memory)? {
                page.figure(&figure);
            }
        }
    }
    if let Some(figure) = jobs(figures)? {
        page.section("What the guest verified");
        page.figure(&figure);
    }
    tables(figures, &mut page);
    Ok(page.html(concat!("vfio-migrate ", env!("CARGO_PKG_VERSION"))))
}

fn seconds(seconds: f64) -> String {
    Unit::Seconds.text(seconds)
}

fn bytes(bytes: u64) -> String {
    Unit::Bytes.text(bytes as f64)
}

fn count(count: u64, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{} {what}{plural}", Unit::None.text(count as f64))
}

impl Interval {
    fn length(self) -> f64 {
        self.end - self.begin
    }
}

/// Tells the migration in a few sentences.
fn summary(figures: &Figures) -> String {
    let mut sentences = vec![format!("The migration took {}.", seconds(figures.end))];
    if let Some(stopped) = figures.stopped {
        let whole = match figures.end > 0.0 {
            true => format!(
                ", {} % of that time",
                Unit::None.text((stopped.length() / figures.end * 1000.0).round() / 10.0)
            ),
            false => String::new(),
        };
        let what = match has_guest(figures) {
            true => "The guest and its devices were",
            false => "The device was",
        };
        sentences.push(format!(
            "{what} stopped for {}{whole}.",
            seconds(stopped.length())
        ));
    }
    if let Some(silent) = figures.silent {
        sentences.push(format!(
            "Between two messages of the guest, one on either side, {} passed.",
            seconds(silent.length())
        ));
    }
    let copied = |memory: &Memory| format!("{} of {}", bytes(memory.bytes()), memory.name);
    match figures
        .memories
        .iter()
        .map(copied)
        .collect::<Vec<_>>()
        .as_slice()
    {
        [] => {}
        [one] => sentences.push(format!("{one} was copied.")),
        [first @ .., last] => {
            sentences.push(format!("{} and {last} were copied.", first.join(", ")))
        }
    }
    if let Some(jobs) = &figures.jobs {
        let all = jobs
            .before
            .saturating_add(jobs.during)
            .saturating_add(jobs.after);
        sentences.push(format!(
            "The guest verified {} of the device: {} before, {} during and {} after the migration.",
            count(all, "job"),
            Unit::None.text(jobs.before as f64),
            Unit::None.text(jobs.during as f64),
            Unit::None.text(jobs.after as f64)
        ));
    }
    sentences.join(" ")
}

fn tiles(figures: &Figures) -> Vec<(&str, String)> {
    let mut tiles = vec![("total time", seconds(figures.end))];
    if let Some(stopped) = figures.stopped {
        tiles.push(("stopped for", seconds(stopped.length())));
    }
    for memory in figures.memories.iter().take(4) {
        tiles.push((&memory.name, bytes(memory.bytes())));
    }
    if let Some(jobs) = &figures.jobs {
        let all = jobs
            .before
            .saturating_add(jobs.during)
            .saturating_add(jobs.after);
        tiles.push(("jobs verified", Unit::None.text(all as f64)));
    }
    tiles
}

/// Returns the colour of a state.
fn tint(state: &str) -> Colour {
    match state {
        "RUNNING" | "runs" | "completed" => Tint::GREEN,
        "PRE_COPY" | "active" => Tint::BLUE,
        "STOP_COPY" | "stopped" | "device" | "pre-switchover" => Tint::ORANGE,
        "RESUMING" => Tint::PURPLE,
        "RUNNING_P2P" | "PRE_COPY_P2P" | "busy" => Tint::TEAL,
        "ERROR" | "failed" | "cancelled" => Tint::RED,
        _ => Tint::GREY,
    }
}

fn lanes(figures: &Figures) -> Vec<Lane> {
    let lane = |lane: &crate::figures::LaneFigures| Lane {
        name: lane.name.clone(),
        spans: lane
            .states
            .iter()
            .map(|state| Span {
                time: state.begin..state.end,
                name: state.state.clone(),
                colour: tint(&state.state),
            })
            .collect(),
    };
    figures.lanes.iter().map(lane).collect()
}

/// Returns the time that all figures have in common.
fn whole(figures: &Figures) -> Range<f64> {
    let states = figures.lanes.iter().flat_map(|lane| &lane.states);
    let end = states.map(|state| state.end).fold(figures.end, f64::max);
    0.0..end
}

/// Returns whether a guest was seen. The user of a device may be something else.
fn has_guest(figures: &Figures) -> bool {
    figures.lanes.iter().any(|lane| lane.name == "guest")
}

/// Returns the name of the moment at which the stopped time ends.
fn end_of_stop(figures: &Figures) -> &'static str {
    match has_guest(figures) {
        true => "runs again",
        false => "session ends",
    }
}

fn states(figures: &Figures) -> std::result::Result<Figure, pictures::Error> {
    let marks = match figures.stopped {
        Some(stopped) => vec![
            Mark {
                at: stopped.begin,
                name: "stops".into(),
            },
            Mark {
                at: stopped.end,
                name: end_of_stop(figures).into(),
            },
        ],
        None => Vec::new(),
    };
    let figure = Lanes {
        title: match has_guest(figures) {
            true => "States of the guest, the migration and the devices",
            false => "States of the device",
        },
        lanes: &lanes(figures),
        time: whole(figures),
        origin: 0.0,
        axis: TIME,
        marks: &marks,
        durations: false,
    }
    .draw()?;
    Ok(figure.caption("Each bar is a state, from when it began to when it ended. The names are those of the interfaces."))
}

fn magnified(figures: &Figures, stopped: Interval) -> std::result::Result<Figure, pictures::Error> {
    let around = (stopped.length() * AROUND).max(1e-4);
    let time = (stopped.begin - around)..(stopped.end + around);
    let mut marks = vec![
        Mark {
            at: stopped.begin,
            name: "stops".into(),
        },
        Mark {
            at: stopped.end,
            name: format!(
                "{}, {} later",
                end_of_stop(figures),
                seconds(stopped.length())
            ),
        },
    ];
    if let Some(silent) = figures.silent {
        marks.push(Mark {
            at: silent.end,
            name: "first message".into(),
        });
        marks.push(Mark {
            at: silent.begin,
            name: "last message".into(),
        });
    }
    let figure = Lanes {
        title: match has_guest(figures) {
            true => "From the stop to the first moment at the destination",
            false => "From the stop to the end of the session",
        },
        lanes: &lanes(figures),
        time,
        origin: stopped.begin,
        axis: "time since the stop",
        marks: &marks,
        durations: true,
    }
    .draw()?;
    let mut caption = String::from(
        "The same states, with the time in between and some before and after it. A state that began and ended within \
         this time has its duration.",
    );
    if let Some(silent) = figures.silent {
        caption.push_str(&format!(
            " The guest's last message from the source came {} before the stop, its first from the destination {} \
             after it ran again. It sends at most four a second.",
            seconds((stopped.begin - silent.begin).max(0.0)),
            seconds((silent.end - stopped.end).max(0.0))
        ));
    }
    Ok(figure.caption(caption))
}

fn bands(figures: &Figures) -> Vec<Band> {
    let band = |stopped: Interval| Band {
        time: stopped.begin..stopped.end,
        name: "stopped".into(),
        colour: Tint::STRONG_BAND,
    };
    figures.stopped.map(band).into_iter().collect()
}

fn progress(figures: &Figures, memory: &Memory) -> std::result::Result<Figure, pictures::Error> {
    let series = |name: &str, colour, dashed, value: fn(&crate::figures::Copied) -> u64| Series {
        name: name.into(),
        colour,
        dashed,
        points: memory
            .samples
            .iter()
            .map(|sample| (sample.at, value(sample) as f64))
            .collect(),
    };
    let title = capital(&memory.name);
    Lines {
        title: &title,
        values: "bytes",
        unit: Unit::Bytes,
        axis: TIME,
        time: whole(figures),
        series: &[
            series("copied so far", Line::BLUE, false, |sample| sample.bytes),
            series("left to copy", Line::ORANGE, true, |sample| sample.left),
        ],
        bands: &bands(figures),
        marks: &[],
        half: true,
    }
    .draw()
}

fn passes(memory: &Memory) -> std::result::Result<Vec<Figure>, pictures::Error> {
    let mut figures = Vec::new();
    let passes = memory.passes();
    let legend = match passes.iter().any(|pass| pass.stopped) {
        true => vec![
            ("while it runs".to_string(), Line::BLUE),
            ("stopped".to_string(), Line::ORANGE),
        ],
        false => Vec::new(),
    };
    let bars = |value: fn(&PassFigures) -> Option<u64>| -> Vec<Bar> {
        let bar = |pass: &PassFigures| {
            Some(Bar {
                name: pass.name.clone(),
                value: value(pass)? as f64,
                colour: if pass.stopped {
                    Line::ORANGE
                } else {
                    Line::BLUE
                },
            })
        };
        passes.iter().filter_map(bar).collect()
    };
    for (what, values, unit, bars) in [
        (
            "dirty pages",
            "pages",
            Unit::Count("pages"),
            bars(|pass| pass.dirty_pages),
        ),
        (
            "bytes copied",
            "bytes",
            Unit::Bytes,
            bars(|pass| pass.bytes),
        ),
    ] {
        if bars.is_empty() {
            continue;
        }
        let title = format!("{}: {what}", capital(&memory.name));
        figures.push(
            Bars {
                title: &title,
                steps: "pass",
                values,
                unit,
                bars: &bars,
                legend: legend.clone(),
            }
            .draw()?,
        );
    }
    Ok(figures)
}

fn jobs(figures: &Figures) -> std::result::Result<Option<Figure>, pictures::Error> {
    let Some(jobs) = figures
        .jobs
        .as_ref()
        .filter(|jobs| !jobs.samples.is_empty())
    else {
        return Ok(None);
    };
    let moments = || jobs.samples.iter().map(|sample| sample.at);
    let time = moments().fold(0.0, f64::min)..moments().fold(figures.end, f64::max);
    let mut bands = vec![Band {
        time: 0.0..figures.end,
        name: "migration".into(),
        colour: Tint::BAND,
    }];
    bands.extend(self::bands(figures));
    let figure = Lines {
        title: "Jobs of the device that the guest verified",
        values: "jobs",
        unit: Unit::Count("jobs"),
        axis: TIME,
        time,
        series: &[Series {
            name: "jobs verified".into(),
            colour: Line::GREEN,
            dashed: false,
            points: jobs
                .samples
                .iter()
                .map(|sample| (sample.at, sample.jobs as f64))
                .collect(),
        }],
        bands: &bands,
        marks: &[],
        half: false,
    }
    .draw()?;
    Ok(Some(figure.caption(
        "The guest computes the result of each job itself and compares. The line has a step for each of its messages; \
         where it is level, the guest told nothing.",
    )))
}

fn tables(figures: &Figures, page: &mut Page) {
    if !figures.facts.is_empty() {
        let rows = figures.facts.iter().take(ROWS);
        page.table(
            Some("All figures"),
            &Table {
                columns: vec!["figure".into(), ">value".into()],
                rows: rows
                    .map(|(name, value)| vec![name.clone(), value.clone()])
                    .collect(),
            },
        );
    }
    let passes = figures.memories.iter().flat_map(|memory| {
        let number = |n: Option<u64>| n.map_or_else(|| "–".into(), |n| Unit::None.text(n as f64));
        memory.passes().into_iter().map(move |pass| {
            vec![
                memory.name.clone(),
                pass.name,
                number(pass.dirty_pages),
                number(pass.bytes),
            ]
        })
    });
    let passes: Vec<_> = passes.take(ROWS).collect();
    if !passes.is_empty() {
        page.table(
            Some("All passes"),
            &Table {
                columns: ["memory", "pass", ">dirty pages", ">bytes"]
                    .map(String::from)
                    .to_vec(),
                rows: passes,
            },
        );
    }
    if !figures.events.is_empty() {
        let rows = figures.events.iter().take(ROWS).map(|event| {
            vec![
                format!("{:.3}", event.at),
                event.place.clone(),
                event.what.clone(),
            ]
        });
        page.table(
            Some("What happened"),
            &Table {
                columns: [">seconds", "where", "event"].map(String::from).to_vec(),
                rows: rows.collect(),
            },
        );
    }
}

fn capital(name: &str) -> String {
    let mut letters = name.chars();
    letters
        .next()
        .map(|first| first.to_uppercase().chain(letters).collect())
        .unwrap_or_default()
}
