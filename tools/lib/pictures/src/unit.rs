// SPDX-License-Identifier: GPL-2.0

//! Units of values, and numbers as text.

/// What a value counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes, shown in B, KiB, MiB and so on.
    Bytes,
    /// Seconds, shown in µs, ms, s, min or h.
    Seconds,
    /// Things with this name, such as pages.
    Count(&'static str),
    /// A number without a unit.
    None,
}

/// A unit of an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Scale {
    /// How much of the unit of values one of this is.
    pub(crate) factor: f64,
    pub(crate) name: &'static str,
}

const BYTES: [(f64, &str); 7] = [
    (1.0, "B"),
    (1024.0, "KiB"),
    (1048576.0, "MiB"),
    (1073741824.0, "GiB"),
    (1099511627776.0, "TiB"),
    (1125899906842624.0, "PiB"),
    (1152921504606846976.0, "EiB"),
];
const SECONDS: [(f64, &str); 5] = [
    (1e-6, "µs"),
    (1e-3, "ms"),
    (1.0, "s"),
    (60.0, "min"),
    (3600.0, "h"),
];

impl Unit {
    /// Returns the unit in which values up to `max` are short numbers.
    pub(crate) fn scale(self, max: f64) -> Scale {
        let (steps, least): (&[(f64, &'static str)], f64) = match self {
            Unit::Bytes => (&BYTES, 2.0),
            Unit::Seconds => (&SECONDS, 2.0),
            Unit::Count(name) => return Scale { factor: 1.0, name },
            Unit::None => {
                return Scale {
                    factor: 1.0,
                    name: "",
                }
            }
        };
        let (factor, name) = steps
            .iter()
            .rev()
            .find(|(factor, _)| max >= factor * least)
            .unwrap_or(&steps[0]);
        Scale {
            factor: *factor,
            name,
        }
    }

    /// Returns a value as text, with its unit.
    pub fn text(self, value: f64) -> String {
        let scale = match self {
            // 1.4 s is shorter than 1,400 ms.
            Unit::Seconds if value == 0.0 || (1.0..120.0).contains(&value.abs()) => Scale {
                factor: 1.0,
                name: "s",
            },
            unit => unit.scale(value.abs()),
        };
        let number = number(value / scale.factor);
        match scale.name {
            "" => number,
            name => format!("{number} {name}"),
        }
    }
}

/// Returns a number with three significant digits or more, its integer digits in groups.
pub(crate) fn number(value: f64) -> String {
    if !value.is_finite() {
        return "?".into();
    }
    let size = value.abs();
    if size >= 1e15 || (size > 0.0 && size < 1e-3) {
        return format!("{value:.2e}");
    }
    let digits = match size {
        size if size >= 99.95 || size.fract() == 0.0 => 0,
        size if size >= 9.995 => 1,
        size if size >= 0.9995 => 2,
        _ => 3,
    };
    trimmed(value, digits)
}

/// Returns a number with at most these digits after the point, its integer digits in groups.
pub(crate) fn trimmed(value: f64, digits: usize) -> String {
    let text = format!("{:.digits$}", value.abs());
    let (whole, part) = text.split_once('.').unwrap_or((&text, ""));
    let mut grouped = String::new();
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    let part = part.trim_end_matches('0');
    let sign = match value < 0.0 && (grouped != "0" || !part.is_empty()) {
        true => "−",
        false => "",
    };
    match part {
        "" => format!("{sign}{grouped}"),
        part => format!("{sign}{grouped}.{part}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_short_numbers() {
        for (unit, value, text) in [
            (Unit::Bytes, 0.0, "0 B"),
            (Unit::Bytes, 1536.0, "1,536 B"),
            (Unit::Bytes, 4178136.0, "3.98 MiB"),
            (Unit::Bytes, u64::MAX as f64, "16 EiB"),
            (Unit::Seconds, 0.0, "0 s"),
            (Unit::Seconds, 0.969, "969 ms"),
            (Unit::Seconds, 1.4, "1.4 s"),
            (Unit::Seconds, 20.383, "20.4 s"),
            (Unit::Seconds, 7200.0, "2 h"),
            (Unit::Count("pages"), 115004.0, "115,004 pages"),
            (Unit::None, -1234.6, "−1,235"),
            (Unit::None, 0.05, "0.05"),
            (Unit::None, 1e300, "1.00e300"),
            (Unit::None, f64::NAN, "?"),
        ] {
            assert_eq!(unit.text(value), text);
        }
    }

    #[test]
    fn zeros_after_the_point_are_left_out() {
        assert_eq!(trimmed(2.50, 2), "2.5");
        assert_eq!(trimmed(1000.0, 1), "1,000");
        assert_eq!(trimmed(-0.001, 2), "0");
    }
}
