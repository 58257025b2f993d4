// SPDX-License-Identifier: GPL-2.0

//! The area that a chart is drawn on.

use std::fmt;

use plotters::chart::{ChartBuilder, ChartContext};
use plotters::coord::types::RangedCoordf64;
use plotters::coord::Shift;
use plotters::prelude::{Cartesian2d, DrawingArea, IntoDrawingArea, IntoFont, SVGBackend};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, TextStyle, TRANSPARENT};

use crate::axis::Axis;
use crate::escape::label;
use crate::theme::{Colour, AXIS, GRID, MUTED};

/// A figure could not be drawn.
#[derive(Debug)]
pub struct Error(String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "draw a figure: {}", self.0)
    }
}

impl std::error::Error for Error {}

/// Turns an error of the library into ours.
pub(crate) fn failed(error: impl fmt::Display) -> Error {
    Error(error.to_string())
}

/// The area of a figure.
pub(crate) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
/// A chart with two axes.
pub(crate) type Chart<'c, 'a> = ChartContext<'c, SVGBackend<'a>, Cartesian2d<Axis, Axis>>;
/// A chart of rows below each other.
pub(crate) type RowChart<'c, 'a> =
    ChartContext<'c, SVGBackend<'a>, Cartesian2d<Axis, RangedCoordf64>>;

/// The size of labels of ticks, of names, and of text in a chart.
pub(crate) const SMALL: i32 = 15;
/// The room for the numbers and the unit below an axis.
pub(crate) const BELOW: u32 = 44;
/// How wide a character is, about.
const CHARACTER: f64 = 7.2;
/// The most characters of a text.
const LONGEST: usize = 200;

/// Draws on an area of this size; returns the SVG elements.
pub(crate) fn draw(
    size: (u32, u32),
    with: impl FnOnce(&Area<'_>) -> Result<(), Error>,
) -> Result<String, Error> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        with(&area)?;
        area.present().map_err(failed)?;
    }
    // The page has its own <svg>, with a title.
    let begin = text.find('>').map_or(0, |at| at + 1);
    let end = text.rfind("</svg>").unwrap_or(text.len());
    Ok(text.get(begin..end).unwrap_or_default().trim().to_string())
}

/// Returns the style of text.
pub(crate) fn style(colour: Colour, x: HPos, y: VPos) -> TextStyle<'static> {
    ("sans-serif", SMALL)
        .into_font()
        .color(&colour.drawn())
        .pos(Pos::new(x, y))
}

/// Returns about how many pixels a text is wide.
pub(crate) fn width(text: &str) -> f64 {
    text.chars().count() as f64 * CHARACTER
}

/// Writes a text.
pub(crate) fn write(
    area: &Area<'_>,
    text: &str,
    at: (i32, i32),
    colour: Colour,
    (x, y): (HPos, VPos),
) -> Result<(), Error> {
    area.draw_text(&label(text, LONGEST), &style(colour, x, y), at)
        .map_err(failed)
}

/// Builds a chart with two axes: `above` pixels for texts above the chart, below the name of `y`.
pub(crate) fn chart<'c, 'a: 'c>(
    area: &'c Area<'a>,
    x: &Axis,
    y: &Axis,
    (x_name, y_name): (&str, &str),
    above: u32,
) -> Result<Chart<'c, 'a>, Error> {
    let left = y.texts().map(width).fold(0.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .margin_top(above + 24)
        .margin_right(18)
        .x_label_area_size(BELOW)
        .y_label_area_size(left as u32 + 14)
        .build_cartesian_2d(x.clone(), y.clone())
        .map_err(failed)?;
    chart
        .configure_mesh()
        .bold_line_style(GRID.drawn())
        .light_line_style(TRANSPARENT)
        .axis_style(AXIS.drawn())
        .disable_x_mesh()
        .x_labels(x.count())
        .y_labels(y.count())
        .x_desc(x_name)
        .label_style(style(MUTED, HPos::Center, VPos::Center))
        .axis_desc_style(style(MUTED, HPos::Center, VPos::Center))
        .draw()
        .map_err(failed)?;
    write(area, y_name, (0, 2), MUTED, (HPos::Left, VPos::Top))?;
    Ok(chart)
}

/// Builds a chart of rows below each other: `rows` of them, `left` pixels for their names, and `above` and `right`
/// for other texts.
pub(crate) fn rows<'c, 'a: 'c>(
    area: &'c Area<'a>,
    x: &Axis,
    x_name: &str,
    rows: u32,
    [left, above, right]: [u32; 3],
) -> Result<RowChart<'c, 'a>, Error> {
    let mut chart = ChartBuilder::on(area)
        .margin_top(above)
        .margin_right(right)
        .x_label_area_size(BELOW)
        .y_label_area_size(left)
        .build_cartesian_2d(x.clone(), RangedCoordf64::from(f64::from(rows)..0.0))
        .map_err(failed)?;
    chart
        .configure_mesh()
        .bold_line_style(GRID.drawn())
        .light_line_style(TRANSPARENT)
        .axis_style(AXIS.drawn())
        .disable_y_mesh()
        .disable_y_axis()
        .y_labels(0)
        .x_labels(x.count())
        .x_desc(x_name)
        .label_style(style(MUTED, HPos::Center, VPos::Center))
        .axis_desc_style(style(MUTED, HPos::Center, VPos::Center))
        .draw()
        .map_err(failed)?;
    Ok(chart)
}

/// Returns a name with a unit.
pub(crate) fn named(name: &str, unit: &str) -> String {
    match unit {
        "" => name.into(),
        unit if name.ends_with(unit) => name.into(),
        unit => format!("{name}, {unit}"),
    }
}

/// Returns a colour that fills.
pub(crate) fn filled(colour: Colour) -> plotters::style::ShapeStyle {
    colour.drawn().filled()
}
