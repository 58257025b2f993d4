// SPDX-License-Identifier: GPL-2.0

//! One value of each step.

use plotters::element::{Circle, PathElement, Rectangle};
use plotters::style::text_anchor::{HPos, VPos};
use plotters::style::Color;

use crate::axis::Axis;
use crate::canvas::{chart, draw, failed, filled, named, width, write, Error};
use crate::escape::label;
use crate::figure::Figure;
use crate::theme::{Colour, INK};
use crate::unit::Unit;

const SIZE: (u32, u32) = (504, 280);
/// The most bars. Of more steps, only the largest of some neighbours is drawn.
const BARS: usize = 120;
/// Values that differ by more than this factor have a logarithmic axis.
const FAR: f64 = 40.0;
/// The most characters of the name of a step.
const NAME_LENGTH: usize = 12;
/// The most bars with a number on them.
const NUMBERED: usize = 6;

/// A step.
#[derive(Clone, Debug)]
pub struct Bar {
    /// The name of the step.
    pub name: String,
    /// The value.
    pub value: f64,
    /// The colour.
    pub colour: Colour,
}

/// A chart of bars, or of dots on stems where the axis is logarithmic.
#[derive(Debug)]
pub struct Bars<'b> {
    /// The title.
    pub title: &'b str,
    /// The name of the steps.
    pub steps: &'b str,
    /// The name of the values.
    pub values: &'b str,
    /// What they count.
    pub unit: Unit,
    /// The steps.
    pub bars: &'b [Bar],
    /// What the colours mean.
    pub legend: Vec<(String, Colour)>,
}

impl Bars<'_> {
    /// Draws the chart.
    pub fn draw(&self) -> Result<Figure, Error> {
        let bars = merged(self.bars);
        let values = || {
            bars.iter()
                .map(|bar| bar.value)
                .filter(|value| value.is_finite())
        };
        let high = values().fold(0.0, f64::max);
        let low = values().filter(|value| *value > 0.0).fold(high, f64::min);
        let log = low > 0.0 && high / low > FAR;
        let names: Vec<String> = bars
            .iter()
            .map(|bar| label(&bar.name, NAME_LENGTH))
            .collect();
        let x = Axis::steps(&names, 9);
        let y = match log {
            true => Axis::log(values(), self.unit),
            false => Axis::linear(0.0..high * 1.12, self.unit, 4, 0.0),
        };
        let scale = match log {
            true => "logarithmic axis",
            false => "",
        };
        let above = if bars.len() <= NUMBERED { 18 } else { 0 };
        let body = draw(SIZE, |area| {
            let values = named(&named(self.values, y.unit), scale);
            let mut chart = chart(area, &x, &y, (self.steps, &values), above)?;
            for (i, bar) in bars.iter().enumerate() {
                let (at, value) = (i as f64, bar.value);
                if !value.is_finite() || value <= 0.0 {
                    continue;
                }
                if log {
                    let stem = vec![(at, y.begin()), (at, value)];
                    let style = bar.colour.drawn().stroke_width(1);
                    chart
                        .draw_series([PathElement::new(stem, style)])
                        .map_err(failed)?;
                    chart
                        .draw_series([Circle::new((at, value), 3, filled(bar.colour))])
                        .map_err(failed)?;
                } else {
                    // A single bar would be as wide as the chart.
                    let half = if bars.len() < 4 { 0.22 } else { 0.36 };
                    let corners = [(at - half, 0.0), (at + half, value)];
                    chart
                        .draw_series([Rectangle::new(corners, filled(bar.colour))])
                        .map_err(failed)?;
                }
                if bars.len() <= NUMBERED {
                    let (at, top) = chart.backend_coord(&(at, value));
                    let text = self.number(value);
                    let half = (width(&text) / 2.0) as i32;
                    let at = (at.min(SIZE.0 as i32 - half), top - 6);
                    write(area, &text, at, INK, (HPos::Center, VPos::Bottom))?;
                }
            }
            Ok(())
        })?;
        Ok(Figure {
            title: self.title.into(),
            description: self.words(),
            caption: String::new(),
            legend: self.legend.clone(),
            size: SIZE,
            body,
            half: true,
        })
    }

    /// Returns a value as text; without the name of what is counted, which the axis has.
    fn number(&self, value: f64) -> String {
        match self.unit {
            Unit::Count(_) => Unit::None.text(value),
            unit => unit.text(value),
        }
    }

    fn words(&self) -> String {
        let Some(first) = self.bars.first() else {
            return format!("No {}.", self.steps);
        };
        let name = match self.unit {
            Unit::Count(name) => name,
            _ => self.values,
        };
        let bars: Vec<String> = match self.bars.len() {
            0..=12 => self.bars.iter().collect::<Vec<_>>(),
            n => vec![first, &self.bars[n / 2], &self.bars[n - 1]],
        }
        .into_iter()
        .map(|bar| format!("{} {}: {}", self.steps, bar.name, self.number(bar.value)))
        .collect();
        format!(
            "{} by {}, {} in all. {}.",
            name,
            self.steps,
            self.bars.len(),
            bars.join("; ")
        )
    }
}

/// Returns at most [`BARS`] bars: the largest of each few neighbours.
fn merged(bars: &[Bar]) -> Vec<Bar> {
    let few = bars.len().div_ceil(BARS).max(1);
    bars.chunks(few)
        .filter_map(|bars| {
            bars.iter()
                .max_by(|a, b| a.value.total_cmp(&b.value))
                .cloned()
        })
        .collect()
}
