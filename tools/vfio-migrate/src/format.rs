// SPDX-License-Identifier: GPL-2.0

//! Formatting of numbers.

use std::time::Duration;

/// Formats bytes in binary units with three digits: `1.00 MiB`, `96 B`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    // 1023.5 would print as 1024.
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = match value {
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// Formats seconds or milliseconds with three digits: `1.23 s`, `45.6 ms`.
pub fn time(t: Duration) -> String {
    let (value, unit) = match t.as_secs_f64() {
        s if s >= 0.9995 => (s, "s"),
        s if s >= 0.000_999_5 => (s * 1e3, "ms"),
        s => (s * 1e6, "µs"),
    };
    let decimals = match value {
        v if v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.decimals$} {unit}")
}

/// Parses bytes with an optional binary unit: `65536`, `64K`, `8M`, `1GiB`.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number
        .parse()
        .map_err(|_| format!("{text:?} does not start with a number"))?;
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        _ => return Err(format!("{unit:?} is not a unit: use K, M or G")),
    };
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| format!("{text} is too large"))
}

/// Formats a table. Columns are as wide as their widest cell and two spaces apart; lines have no trailing space.
///
/// A column whose header starts with `>` is right-aligned.
pub fn table(headers: &[&str], rows: &[Vec<String>]) -> String {
    let width = |s: &str| s.chars().count();
    let mut widths: Vec<usize> = headers
        .iter()
        .map(|h| width(h.trim_start_matches('>')))
        .collect();
    for row in rows {
        for (w, cell) in widths.iter_mut().zip(row) {
            *w = (*w).max(width(cell));
        }
    }
    let line = |cells: Vec<&str>| {
        let mut out = String::new();
        for ((cell, w), header) in cells.iter().zip(&widths).zip(headers) {
            let pad = " ".repeat(w - width(cell));
            match header.starts_with('>') {
                true => out.extend([&pad, *cell, "  "]),
                false => out.extend([*cell, &pad, "  "]),
            }
        }
        out.trim_end().to_string()
    };
    let mut out = vec![line(
        headers.iter().map(|h| h.trim_start_matches('>')).collect(),
    )];
    out.extend(
        rows.iter()
            .map(|row| line(row.iter().map(String::as_str).collect())),
    );
    out.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_three_digits() {
        for (n, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (10 << 10, "10.0 KiB"),
            (256 << 20, "256 MiB"),
            ((1 << 20) - 1, "1.00 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(n), text);
        }
    }

    #[test]
    fn times() {
        assert_eq!(time(Duration::from_micros(1500)), "1.50 ms");
        assert_eq!(time(Duration::from_millis(45_600)), "45.6 s");
        assert_eq!(time(Duration::from_nanos(999_600)), "1.00 ms");
        assert_eq!(time(Duration::ZERO), "0.00 µs");
    }

    #[test]
    fn sizes_with_units() {
        assert_eq!(parse_bytes("64K"), Ok(65536));
        assert_eq!(parse_bytes(" 1GiB"), Ok(1 << 30));
        assert_eq!(parse_bytes("0"), Ok(0));
        for bad in ["", "K", "1T5", "-1", "99999999999999999G"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn tables_align() {
        let t = table(
            &["a", ">n"],
            &[
                vec!["long".into(), "1".into()],
                vec!["µ".into(), "100".into()],
            ],
        );
        assert_eq!(t, "a       n\nlong    1\nµ     100");
    }
}
