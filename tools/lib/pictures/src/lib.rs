// SPDX-License-Identifier: GPL-2.0

//! Charts in a self-contained HTML page.
//!
//! A [`Page`] is text, tables and [`Figure`]s. Each figure is SVG inside of the page, which loads nothing, runs no
//! script and has no animation. It is light or dark as the reader's browser asks.
//!
//! - [`Lanes`] shows the states of several things over one time axis.
//! - [`Lines`] shows values over time.
//! - [`Bars`] shows one value of each step.
//! - [`Dots`] compares pairs of values, a row each.
//!
//! Any finite numbers make a picture; others are left out. All texts are escaped.

#![forbid(unsafe_code)]

mod axis;
mod bars;
mod canvas;
mod dots;
mod escape;
mod figure;
mod lanes;
mod lines;
mod page;
mod theme;
mod unit;

pub use bars::{Bar, Bars};
pub use canvas::Error;
pub use dots::{Dots, Pair};
pub use figure::Figure;
pub use lanes::{Lane, Lanes, Span};
pub use lines::{Band, Lines, Mark, Series};
pub use page::{Page, Table};
pub use theme::{Colour, Line, Tint};
pub use unit::Unit;
