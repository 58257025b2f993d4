// SPDX-License-Identifier: GPL-2.0

//! Lanes: the states of several things over one axis of time.

use std::ops::Range;

use plotters::element::{PathElement, Rectangle};
use plotters::style::text_anchor::{HPos, VPos};
use plotters::style::Color;

use crate::axis::Axis;
use crate::canvas::{
    draw, failed, filled, named, rows, width, write, Area, Error, RowChart, BELOW,
};
use crate::escape::label;
use crate::figure::Figure;
use crate::lines::Mark;
use crate::theme::{Colour, INK, LANE};
use crate::unit::Unit;

const WIDTH: u32 = 1040;
/// The height of a lane, and how much of it a span fills.
const HEIGHT: u32 = 44;
const FILLED: f64 = 0.72;
/// The most characters of the name of a lane.
const NAME_LENGTH: usize = 36;
/// The most spans of a lane. The rest of a lane with more is not drawn.
const SPANS: usize = 2000;
/// The least width of a span.
const THIN: i32 = 2;
/// The room for the labels of marks: lines of text.
const ROWS: usize = 2;
const ROW: i32 = 19;

/// A state of a thing.
#[derive(Clone, Debug)]
pub struct Span {
    /// From and to, in seconds.
    pub time: Range<f64>,
    /// The name of the state.
    pub name: String,
    /// Its colour.
    pub colour: Colour,
}

/// A thing.
#[derive(Clone, Debug)]
pub struct Lane {
    /// Its name.
    pub name: String,
    /// Its states.
    pub spans: Vec<Span>,
}

/// A chart of lanes.
#[derive(Debug)]
pub struct Lanes<'l> {
    /// The title.
    pub title: &'l str,
    /// The lanes, from the top.
    pub lanes: &'l [Lane],
    /// The time to show, in seconds.
    pub time: Range<f64>,
    /// The time from which the axis counts.
    pub origin: f64,
    /// What the axis counts.
    pub axis: &'l str,
    /// Moments.
    pub marks: &'l [Mark],
    /// Write how long a state was beside its name.
    pub durations: bool,
}

impl Lanes<'_> {
    /// Draws the chart.
    pub fn draw(&self) -> Result<Figure, Error> {
        let x = Axis::linear(self.time.clone(), Unit::Seconds, 10, self.origin);
        let names: Vec<String> = self
            .lanes
            .iter()
            .map(|lane| label(&lane.name, NAME_LENGTH))
            .collect();
        let left = names.iter().map(|name| width(name)).fold(0.0, f64::max) as u32 + 16;
        let above = match self.marks.is_empty() {
            true => 8,
            false => ROWS as u32 * ROW as u32 + 8,
        };
        let lanes = self.lanes.len().max(1) as u32;
        let size = (WIDTH, above + lanes * HEIGHT + BELOW);
        let body = draw(size, |area| {
            let mut chart = rows(
                area,
                &x,
                &named(self.axis, x.unit),
                lanes,
                [left, above, 18],
            )?;
            for (number, (lane, name)) in self.lanes.iter().zip(&names).enumerate() {
                self.lane(&mut chart, number as f64, lane, &x)?;
                let (_, middle) = chart.backend_coord(&(x.begin(), number as f64 + 0.5));
                let at = (left as i32 - 12, middle);
                write(area, name, at, INK, (HPos::Right, VPos::Center))?;
            }
            for lane in self.lanes.iter().enumerate() {
                self.texts(area, &chart, lane.0 as f64, lane.1, &x)?;
            }
            let mut ends = [i32::MIN; ROWS];
            for mark in self.marks.iter().filter(|mark| self.has(mark.at)) {
                chart
                    .draw_series([PathElement::new(
                        vec![(mark.at, 0.0), (mark.at, f64::from(lanes))],
                        INK.drawn().stroke_width(1),
                    )])
                    .map_err(failed)?;
                let (at, top) = chart.backend_coord(&(mark.at, 0.0));
                let half = (width(&mark.name) / 2.0) as i32 + 4;
                let at = at.clamp(half, (WIDTH as i32 - half).max(half));
                // A label that would overlap others is left out; the caption and the table have all.
                if let Some(row) = ends.iter().position(|end| at - half > *end) {
                    ends[row] = at + half;
                    let y = top - 5 - row as i32 * ROW;
                    write(area, &mark.name, (at, y), INK, (HPos::Center, VPos::Bottom))?;
                }
            }
            Ok(())
        })?;
        Ok(Figure {
            title: self.title.into(),
            description: self.words(),
            caption: String::new(),
            legend: self.legend(),
            size,
            body,
            half: false,
        })
    }

    fn has(&self, moment: f64) -> bool {
        self.time.contains(&moment)
    }

    fn shown<'s>(&self, lane: &'s Lane, x: &Axis) -> impl Iterator<Item = (&'s Span, f64, f64)> {
        let (begin, end) = (x.begin(), x.end());
        lane.spans.iter().take(SPANS).filter_map(move |span| {
            let (from, to) = (span.time.start.max(begin), span.time.end.min(end));
            (from <= to).then_some((span, from, to))
        })
    }

    fn lane(
        &self,
        chart: &mut RowChart<'_, '_>,
        number: f64,
        lane: &Lane,
        x: &Axis,
    ) -> Result<(), Error> {
        let rest = (1.0 - FILLED) / 2.0;
        let (top, bottom) = (number + rest, number + 1.0 - rest);
        chart
            .draw_series([Rectangle::new(
                [(x.begin(), top), (x.end(), bottom)],
                filled(LANE),
            )])
            .map_err(failed)?;
        let area = chart.plotting_area().clone();
        let area = area.strip_coord_spec();
        let (origin_x, origin_y) = chart.backend_coord(&(x.begin(), 0.0));
        for (span, from, to) in self.shown(lane, x) {
            let (left, top) = chart.backend_coord(&(from, top));
            let (right, bottom) = chart.backend_coord(&(to, bottom));
            let right = right.max(left + THIN);
            area.draw(&Rectangle::new(
                [
                    (left - origin_x, top - origin_y),
                    (right - origin_x, bottom - origin_y),
                ],
                filled(span.colour),
            ))
            .map_err(failed)?;
        }
        Ok(())
    }

    /// Writes the names of the spans that are wide enough.
    fn texts(
        &self,
        area: &Area<'_>,
        chart: &RowChart<'_, '_>,
        number: f64,
        lane: &Lane,
        x: &Axis,
    ) -> Result<(), Error> {
        for (span, from, to) in self.shown(lane, x) {
            let (left, y) = chart.backend_coord(&(from, number + 0.5));
            let (right, _) = chart.backend_coord(&(to, number + 0.5));
            let room = f64::from(right - left) - 10.0;
            let duration = Unit::Seconds.text(span.time.end - span.time.start);
            let long = format!("{} · {duration}", span.name);
            let whole = span.time.start >= self.time.start && span.time.end <= self.time.end;
            let text = [(self.durations && whole, long), (true, span.name.clone())]
                .into_iter()
                .find(|(wanted, text)| *wanted && width(text) <= room);
            if let Some((_, text)) = text {
                let at = ((left + right) / 2, y);
                // The line of a mark would cross it.
                let half = (width(&text) / 2.0) as i32 + 3;
                let crosses =
                    |mark: &Mark| (chart.backend_coord(&(mark.at, number)).0 - at.0).abs() < half;
                if self
                    .marks
                    .iter()
                    .any(|mark| self.has(mark.at) && crosses(mark))
                {
                    continue;
                }
                write(area, &text, at, INK, (HPos::Center, VPos::Center))?;
            }
        }
        Ok(())
    }

    fn legend(&self) -> Vec<(String, Colour)> {
        let mut legend: Vec<(String, Colour)> = Vec::new();
        let spans = self
            .lanes
            .iter()
            .flat_map(|lane| lane.spans.iter().take(SPANS));
        for span in spans
            .filter(|span| span.time.end >= self.time.start && span.time.start <= self.time.end)
        {
            match legend.iter_mut().find(|(_, colour)| *colour == span.colour) {
                None => legend.push((label(&span.name, NAME_LENGTH), span.colour)),
                // One colour may stand for several states.
                Some((names, _))
                    if !names.split(", ").any(|name| name == span.name) && names.len() < 60 =>
                {
                    names.push_str(", ");
                    names.push_str(&label(&span.name, NAME_LENGTH));
                }
                Some(_) => {}
            }
        }
        legend
    }

    /// Tells the chart in words.
    fn words(&self) -> String {
        let lane = |lane: &Lane| {
            let spans: Vec<String> = lane
                .spans
                .iter()
                .filter(|span| span.time.end >= self.time.start && span.time.start <= self.time.end)
                .take(20)
                .map(|span| {
                    format!(
                        "{} for {}",
                        span.name,
                        Unit::Seconds.text(span.time.end - span.time.start)
                    )
                })
                .collect();
            format!("{}: {}.", lane.name, spans.join(", "))
        };
        self.lanes.iter().map(lane).collect::<Vec<_>>().join(" ")
    }
}
