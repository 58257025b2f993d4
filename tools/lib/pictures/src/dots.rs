// SPDX-License-Identifier: GPL-2.0

//! Pairs of values, a row each, on one axis.

use plotters::element::{Circle, PathElement};
use plotters::style::text_anchor::{HPos, VPos};
use plotters::style::Color;

use crate::axis::Axis;
use crate::canvas::{draw, failed, filled, named, rows, width, write, Error, BELOW};
use crate::escape::label;
use crate::figure::Figure;
use crate::theme::{Colour, Line, INK, MUTED};
use crate::unit::Unit;

const WIDTH: u32 = 1040;
const ROW: u32 = 27;
const ABOVE: u32 = 28;
/// The room for the numbers at the right.
const NUMBERS: u32 = 210;
const NAME_LENGTH: usize = 48;
/// The most rows. The table of the page has the others.
const ROWS: usize = 200;
/// Values that differ by more than this factor have a logarithmic axis.
const FAR: f64 = 40.0;

/// Two values of one thing.
#[derive(Clone, Debug)]
pub struct Pair {
    /// Its name.
    pub name: String,
    /// The value now.
    pub now: Option<f64>,
    /// The value before.
    pub before: Option<f64>,
    /// What is written about the difference.
    pub difference: String,
    /// The colour of the value now.
    pub colour: Colour,
}

/// A chart of pairs.
#[derive(Debug)]
pub struct Dots<'d> {
    /// The title.
    pub title: &'d str,
    /// The name of the values.
    pub values: &'d str,
    /// What they count.
    pub unit: Unit,
    /// The pairs, from the top.
    pub pairs: &'d [Pair],
    /// What the colours mean.
    pub legend: Vec<(String, Colour)>,
}

impl Dots<'_> {
    /// Draws the chart.
    pub fn draw(&self) -> Result<Figure, Error> {
        let pairs = &self.pairs[..self.pairs.len().min(ROWS)];
        let values = || {
            pairs
                .iter()
                .flat_map(|pair| [pair.now, pair.before])
                .flatten()
                .filter(|value| value.is_finite())
        };
        let high = values().fold(0.0, f64::max);
        let low = values().filter(|value| *value > 0.0).fold(high, f64::min);
        let negative = values().any(|value| value < 0.0);
        let log = !negative && low > 0.0 && high / low > FAR;
        let x = match log {
            true => Axis::log(values(), self.unit),
            false => {
                let least = values().fold(0.0, f64::min);
                Axis::linear(least..high * 1.05, self.unit, 6, 0.0)
            }
        };
        let names: Vec<String> = pairs
            .iter()
            .map(|pair| label(&pair.name, NAME_LENGTH))
            .collect();
        let left = names.iter().map(|name| width(name)).fold(0.0, f64::max) as u32 + 16;
        let count = pairs.len().max(1) as u32;
        let size = (WIDTH, ABOVE + count * ROW + BELOW);
        let scale = if log { "logarithmic axis" } else { "" };
        let body = draw(size, |area| {
            let mut chart = rows(
                area,
                &x,
                &named(&named(self.values, x.unit), scale),
                count,
                [left, ABOVE, NUMBERS],
            )?;
            let columns = [WIDTH as i32 - 100, WIDTH as i32 - 4];
            for (name, at) in ["now", "difference"].into_iter().zip(columns) {
                write(area, name, (at, 2), MUTED, (HPos::Right, VPos::Top))?;
            }
            for (number, (pair, name)) in pairs.iter().zip(&names).enumerate() {
                let at = number as f64 + 0.5;
                let (_, y) = chart.backend_coord(&(x.begin(), at));
                write(
                    area,
                    name,
                    (left as i32 - 12, y),
                    INK,
                    (HPos::Right, VPos::Center),
                )?;
                let drawn = |value: Option<f64>| {
                    value.filter(|value| value.is_finite() && (!log || *value > 0.0))
                };
                let (now, before) = (drawn(pair.now), drawn(pair.before));
                if let (Some(now), Some(before)) = (now, before) {
                    let line = vec![(before, at), (now, at)];
                    let style = pair.colour.drawn().stroke_width(2);
                    chart
                        .draw_series([PathElement::new(line, style)])
                        .map_err(failed)?;
                }
                if let Some(before) = before {
                    let style = Line::GREY.drawn().stroke_width(2);
                    chart
                        .draw_series([Circle::new((before, at), 6, style)])
                        .map_err(failed)?;
                }
                if let Some(now) = now {
                    chart
                        .draw_series([Circle::new((now, at), 4, filled(pair.colour))])
                        .map_err(failed)?;
                }
                let value = pair.now.map_or_else(|| "–".into(), |now| self.number(now));
                for (text, at) in [&value, &pair.difference].into_iter().zip(columns) {
                    write(area, text, (at, y), INK, (HPos::Right, VPos::Center))?;
                }
            }
            Ok(())
        })?;
        Ok(Figure {
            title: self.title.into(),
            description: self.words(pairs),
            caption: String::new(),
            legend: self.legend.clone(),
            size,
            body,
            half: false,
        })
    }

    fn number(&self, value: f64) -> String {
        match self.unit {
            Unit::Count(_) => Unit::None.text(value),
            unit => unit.text(value),
        }
    }

    fn words(&self, pairs: &[Pair]) -> String {
        let pair = |pair: &Pair| {
            let value = |value: Option<f64>| {
                value.map_or_else(|| "none".into(), |value| self.number(value))
            };
            format!(
                "{}: {}, before {}, {}.",
                pair.name,
                value(pair.now),
                value(pair.before),
                pair.difference
            )
        };
        pairs.iter().map(pair).collect::<Vec<_>>().join(" ")
    }
}
