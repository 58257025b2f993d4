// SPDX-License-Identifier: GPL-2.0

//! Axes: ranges of values, linear or logarithmic, and their ticks.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

use crate::unit::{trimmed, Scale, Unit};

/// The most ticks of an axis.
const TICKS: usize = 100;
/// The largest value that is drawn. Arithmetic with it does not overflow.
const MAX: f64 = 1e30;

/// An axis.
// Its page would repeat plotters' documentation, with links to pages that do not exist here.
#[doc(hidden)]
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    begin: f64,
    end: f64,
    log: bool,
    ticks: Vec<(f64, String)>,
    /// The unit of the ticks.
    pub(crate) unit: &'static str,
}

impl Axis {
    /// Makes a linear axis with about `count` ticks. The numbers of the ticks are relative to `origin`.
    pub(crate) fn linear(range: Range<f64>, unit: Unit, count: usize, origin: f64) -> Self {
        let (begin, end) = widened(range);
        let origin = origin.clamp(-MAX, MAX);
        let scale = unit.scale((begin - origin).abs().max((end - origin).abs()));
        let (low, high) = (
            (begin - origin) / scale.factor,
            (end - origin) / scale.factor,
        );
        let least = match unit {
            // Half a page does not exist.
            Unit::Count(_) => 1.0,
            _ => 0.0,
        };
        let step = nice((high - low) / count.max(1) as f64).max(least);
        let digits = (-step.log10().floor()).clamp(0.0, 9.0) as usize;
        let first = (low / step - 1e-9).ceil();
        let ticks = (0..TICKS)
            .map(|i| (first + i as f64) * step)
            .take_while(|tick| *tick <= high + step * 1e-9)
            .map(|tick| {
                let text = match tick.abs() {
                    size if size >= 1e15 => format!("{tick:.0e}"),
                    _ => trimmed(tick, digits),
                };
                (tick * scale.factor + origin, text)
            })
            .collect();
        Axis {
            begin,
            end,
            log: false,
            ticks,
            unit: scale.name,
        }
    }

    /// Makes a logarithmic axis that contains these positive values.
    pub(crate) fn log(values: impl Iterator<Item = f64>, unit: Unit) -> Self {
        let (mut low, mut high) = (f64::INFINITY, 0.0f64);
        for value in values.filter(|value| *value > 0.0 && value.is_finite()) {
            (low, high) = (low.min(value), high.max(value));
        }
        if low > high {
            (low, high) = (1.0, 1.0);
        }
        let Scale { factor, name } = unit.scale(high.min(MAX));
        let decade = |value: f64| (value / factor).log10();
        let first = decade(low.max(1e-30)).floor().max(-40.0);
        let last = decade(high.min(MAX)).ceil().max(first + 1.0);
        let count = (last - first) as usize + 1;
        let every = count.div_ceil(8);
        let ticks = (0..count)
            .step_by(every)
            .map(|i| {
                let tick = 10f64.powf(first + i as f64);
                let text = match tick {
                    tick if !(1e-4..1e9).contains(&tick) => format!("{tick:.0e}"),
                    tick => trimmed(tick, 4),
                };
                (tick * factor, text)
            })
            .collect();
        Axis {
            begin: 10f64.powf(first) * factor,
            end: 10f64.powf(last) * factor,
            log: true,
            ticks,
            unit: name,
        }
    }

    /// Makes an axis of `names.len()` steps with a name each, of which about `count` are shown.
    pub(crate) fn steps(names: &[String], count: usize) -> Self {
        let last = names.len().saturating_sub(1);
        let every = nice(names.len() as f64 / count.max(1) as f64)
            .ceil()
            .max(1.0) as usize;
        // The last step is the end of the migration, so it always has its name.
        let shown = |i: usize| i == last || (i % every == 0 && last - i >= every);
        let ticks = names
            .iter()
            .enumerate()
            .filter(|(i, _)| shown(*i))
            .map(|(i, name)| (i as f64, name.clone()))
            .collect();
        Axis {
            begin: -0.6,
            end: last as f64 + 0.6,
            log: false,
            ticks,
            unit: "",
        }
    }

    /// Returns the least value.
    pub(crate) fn begin(&self) -> f64 {
        self.begin
    }

    /// Returns the greatest value.
    pub(crate) fn end(&self) -> f64 {
        self.end
    }

    /// Returns the number of ticks.
    pub(crate) fn count(&self) -> usize {
        self.ticks.len()
    }

    /// Returns the texts of all ticks.
    pub(crate) fn texts(&self) -> impl Iterator<Item = &str> {
        self.ticks.iter().map(|(_, text)| text.as_str())
    }

    /// Returns where a value is, from 0 to 1.
    fn place(&self, value: f64) -> f64 {
        let value = value.clamp(self.begin, self.end);
        match self.log {
            true => (value / self.begin).log10() / (self.end / self.begin).log10(),
            false => (value - self.begin) / (self.end - self.begin),
        }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let place = self.place(*value);
        (f64::from(limit.0) + place * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        match hint.weight().allow_light_points() {
            true => Vec::new(),
            false => self.ticks.iter().map(|(at, _)| *at).collect(),
        }
    }

    fn range(&self) -> Range<f64> {
        self.begin..self.end
    }
}

impl ValueFormatter<f64> for Axis {
    fn format(value: &f64) -> String {
        trimmed(*value, 3)
    }

    /// Returns the text of a tick.
    fn format_ext(&self, value: &f64) -> String {
        self.ticks
            .iter()
            .find(|(at, _)| at == value)
            .map_or_else(String::new, |(_, text)| text.clone())
    }
}

/// Returns finite bounds that differ.
fn widened(range: Range<f64>) -> (f64, f64) {
    let finite = |value: f64| match value.is_finite() {
        true => value.clamp(-MAX, MAX),
        false => 0.0,
    };
    let (begin, end) = (finite(range.start), finite(range.end));
    let least = (begin.abs() * 1e-6).max(1e-9);
    match end - begin >= least {
        true => (begin, end),
        false => (begin, begin + least.max(1.0)),
    }
}

/// Returns the least of 1, 2 and 5 times a power of ten that is not less.
fn nice(step: f64) -> f64 {
    if step <= 0.0 || !step.is_finite() {
        return 1.0;
    }
    let power = 10f64.powf(step.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|times| times * power)
        .find(|nice| *nice >= step * (1.0 - 1e-9))
        .unwrap_or(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(axis: &Axis) -> Vec<&str> {
        axis.texts().collect()
    }

    #[test]
    fn linear_ticks_are_round_numbers_of_the_unit() {
        let axis = Axis::linear(0.0..20.383, Unit::Seconds, 8, 0.0);
        assert_eq!(
            (texts(&axis), axis.unit),
            (vec!["0", "5", "10", "15", "20"], "s")
        );
        let axis = Axis::linear(0.0..9.0 * 1048576.0, Unit::Bytes, 5, 0.0);
        assert_eq!(
            (texts(&axis), axis.unit),
            (vec!["0", "2", "4", "6", "8"], "MiB")
        );
        let axis = Axis::linear(19.4..20.4, Unit::Seconds, 5, 19.5);
        assert_eq!(
            (texts(&axis), axis.unit),
            (vec!["0", "200", "400", "600", "800"], "ms")
        );
        let axis = Axis::linear(0.0..3.0, Unit::Count("pages"), 8, 0.0);
        assert_eq!(texts(&axis), ["0", "1", "2", "3"]);
    }

    #[test]
    fn logarithmic_ticks_are_decades() {
        let axis = Axis::log([0.0, 571.0, 65536.0].into_iter(), Unit::Count("pages"));
        assert_eq!(texts(&axis), ["100", "1,000", "10,000", "100,000"]);
        assert_eq!(axis.map(&100.0, (0, 300)), 0);
        assert_eq!(axis.map(&1000.0, (0, 300)), 100);
        assert_eq!(axis.map(&0.0, (0, 300)), 0);
    }

    #[test]
    fn some_steps_have_names_and_the_last_always_has() {
        let names: Vec<String> = (1..=56).map(|n| n.to_string()).collect();
        let axis = Axis::steps(&names, 8);
        assert_eq!(texts(&axis), ["1", "11", "21", "31", "41", "56"]);
        assert_eq!(texts(&Axis::steps(&names[..2], 8)), ["1", "2"]);
        assert!(Axis::steps(&[], 8).ticks.is_empty());
    }

    #[test]
    fn absurd_ranges_have_few_ticks() {
        for range in [
            0.0..0.0,
            5.0..1.0,
            f64::NAN..f64::INFINITY,
            -1e308..1e308,
            1e18..1e18 + 1.0,
        ] {
            let axis = Axis::linear(range.clone(), Unit::Bytes, 5, 0.0);
            assert!(axis.end > axis.begin, "{range:?}");
            assert!((1..=13).contains(&axis.count()), "{range:?}: {axis:?}");
        }
        for value in [f64::NAN, 1e-308, 1e308, 0.0] {
            let axis = Axis::log([value].into_iter(), Unit::None);
            assert!(axis.end > axis.begin && axis.count() <= 10, "{axis:?}");
        }
    }
}
