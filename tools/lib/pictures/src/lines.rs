// SPDX-License-Identifier: GPL-2.0

//! Values over time.

use std::ops::Range;

use plotters::element::{PathElement, Rectangle};
use plotters::series::{DashedLineSeries, LineSeries};
use plotters::style::text_anchor::{HPos, VPos};
use plotters::style::Color;

use crate::axis::Axis;
use crate::canvas::{chart, draw, failed, filled, named, width, write, Error};
use crate::figure::Figure;
use crate::theme::{Colour, INK, MUTED};
use crate::unit::Unit;

/// The size of a figure of the page's width, and of half.
const WHOLE: (u32, u32) = (1040, 320);
const HALF: (u32, u32) = (504, 280);
/// The most points of a line. A line with more is drawn with every second point, and so on.
const POINTS: usize = 2000;

/// A moment with a name.
#[derive(Clone, Debug)]
pub struct Mark {
    /// When, in seconds.
    pub at: f64,
    /// The name.
    pub name: String,
}

/// A part of the time with another background.
#[derive(Clone, Debug)]
pub struct Band {
    /// From and to, in seconds.
    pub time: Range<f64>,
    /// Its name.
    pub name: String,
    /// Its colour.
    pub colour: Colour,
}

/// A line.
#[derive(Clone, Debug)]
pub struct Series {
    /// Its name.
    pub name: String,
    /// Its colour.
    pub colour: Colour,
    /// Draw it dashed.
    pub dashed: bool,
    /// Pairs of seconds and value.
    pub points: Vec<(f64, f64)>,
}

/// A chart of values over time.
#[derive(Debug)]
pub struct Lines<'l> {
    /// The title.
    pub title: &'l str,
    /// The name of the values.
    pub values: &'l str,
    /// What they count.
    pub unit: Unit,
    /// The name of the axis of time.
    pub axis: &'l str,
    /// The time to show, in seconds.
    pub time: Range<f64>,
    /// The lines.
    pub series: &'l [Series],
    /// Parts of the time.
    pub bands: &'l [Band],
    /// Moments.
    pub marks: &'l [Mark],
    /// Draw it half as wide.
    pub half: bool,
}

impl Lines<'_> {
    /// Draws the chart.
    pub fn draw(&self) -> Result<Figure, Error> {
        let size = if self.half { HALF } else { WHOLE };
        let (low, high) = self.bounds();
        let x = Axis::linear(
            self.time.clone(),
            Unit::Seconds,
            if self.half { 5 } else { 10 },
            0.0,
        );
        let y = Axis::linear(low..high, self.unit, 5, 0.0);
        let above = if self.marks.is_empty() && self.bands.is_empty() {
            0
        } else {
            20
        };
        let body = draw(size, |area| {
            let names = (&*named(self.axis, x.unit), &*named(self.values, y.unit));
            let mut chart = chart(area, &x, &y, names, above)?;
            let (left, _) = chart.backend_coord(&(x.begin(), y.begin()));
            // Keeps a text within the figure, and off the numbers of the axis.
            let beside = |at: i32, half: i32, left: i32| {
                let least = left + half + 4;
                at.clamp(least, (size.0 as i32 - half).max(least))
            };
            let mut end = i32::MIN;
            for band in self.bands {
                let (from, to) = (band.time.start.max(x.begin()), band.time.end.min(x.end()));
                if from > to {
                    continue;
                }
                chart
                    .draw_series([Rectangle::new(
                        [(from, y.begin()), (to, y.end())],
                        filled(band.colour),
                    )])
                    .map_err(failed)?;
                let (at, top) = chart.backend_coord(&((from + to) / 2.0, y.end()));
                let half = (width(&band.name) / 2.0) as i32;
                let at = beside(at, half, left);
                if at - half > end {
                    end = at + half + 8;
                    let at = (at, top - 6);
                    write(area, &band.name, at, MUTED, (HPos::Center, VPos::Bottom))?;
                }
            }
            for mark in self
                .marks
                .iter()
                .filter(|mark| self.time.contains(&mark.at))
            {
                chart
                    .draw_series([PathElement::new(
                        vec![(mark.at, y.begin()), (mark.at, y.end())],
                        INK.drawn().stroke_width(1),
                    )])
                    .map_err(failed)?;
                let (at, top) = chart.backend_coord(&(mark.at, y.end()));
                let half = (width(&mark.name) / 2.0) as i32;
                let at = beside(at, half, left);
                if at - half > end {
                    end = at + half + 8;
                    let at = (at, top - 6);
                    write(area, &mark.name, at, INK, (HPos::Center, VPos::Bottom))?;
                }
            }
            for series in self.series {
                let points = thinned(&series.points);
                let style = series.colour.drawn().stroke_width(2);
                match series.dashed {
                    true => chart.draw_series(DashedLineSeries::new(points, 5, 4, style)),
                    false => chart.draw_series(LineSeries::new(points, style)),
                }
                .map_err(failed)?;
            }
            Ok(())
        })?;
        let legend = |series: &Series| {
            let name = match series.dashed {
                true => format!("{} (dashed)", series.name),
                false => series.name.clone(),
            };
            (name, series.colour)
        };
        Ok(Figure {
            title: self.title.into(),
            description: self.words(),
            caption: String::new(),
            legend: self.series.iter().map(legend).collect(),
            size,
            body,
            half: self.half,
        })
    }

    /// Returns the range of values, from 0.
    fn bounds(&self) -> (f64, f64) {
        let values = self.series.iter().flat_map(|series| &series.points);
        let values = values
            .map(|point| point.1)
            .filter(|value| value.is_finite());
        let (low, high) = values.fold((0.0f64, 0.0f64), |(low, high), value| {
            (low.min(value), high.max(value))
        });
        (low, high + (high - low) * 0.05)
    }

    fn words(&self) -> String {
        let series = |series: &Series| {
            let from = series.points.first().map_or(0.0, |point| point.1);
            let to = series.points.last().map_or(0.0, |point| point.1);
            format!(
                "{}: from {} to {}.",
                series.name,
                self.unit.text(from),
                self.unit.text(to)
            )
        };
        self.series.iter().map(series).collect::<Vec<_>>().join(" ")
    }
}

/// Returns the points that are drawn: not too many, all finite, the last one always.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let every = points.len().div_ceil(POINTS).max(1);
    let last = points.len().saturating_sub(1);
    points
        .iter()
        .enumerate()
        .filter(|(i, point)| {
            (i % every == 0 || *i == last) && point.0.is_finite() && point.1.is_finite()
        })
        .map(|(_, point)| *point)
        .collect()
}
