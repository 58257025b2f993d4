// SPDX-License-Identifier: GPL-2.0

//! Colours, and the style sheet of a page.
//!
//! A figure is drawn in the light colours, as attributes. In a dark page the style sheet replaces each of them.
//! So no two colours may share their light value. Lines differ in lightness too, for readers who do not see all hues.

use plotters::style::RGBColor;

/// A colour of a figure: its value in a light page and in a dark one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Colour {
    light: (u8, u8, u8),
    dark: (u8, u8, u8),
}

const fn colour(light: u32, dark: u32) -> Colour {
    Colour {
        light: rgb(light),
        dark: rgb(dark),
    }
}

const fn rgb(hex: u32) -> (u8, u8, u8) {
    let [_, r, g, b] = hex.to_be_bytes();
    (r, g, b)
}

impl Colour {
    /// Returns the colour to draw with.
    pub(crate) fn drawn(self) -> RGBColor {
        let (r, g, b) = self.light;
        RGBColor(r, g, b)
    }

    /// Returns the value in a light page, as attributes have it.
    pub(crate) fn hex(self) -> String {
        hex(self.light)
    }
}

fn hex((r, g, b): (u8, u8, u8)) -> String {
    format!("#{r:02X}{g:02X}{b:02X}")
}

/// Text.
pub(crate) const INK: Colour = colour(0x1f2933, 0xe8ecf1);
/// Text beside an axis.
pub(crate) const MUTED: Colour = colour(0x52606d, 0xa3afbd);
/// Lines of a grid.
pub(crate) const GRID: Colour = colour(0xe3e8ee, 0x2f3b47);
/// Axes.
pub(crate) const AXIS: Colour = colour(0x9aa5b1, 0x5c6b7a);
/// The background of a lane.
pub(crate) const LANE: Colour = colour(0xf3f5f8, 0x212b35);
/// The background of the page.
pub(crate) const PAPER: Colour = colour(0xfffffe, 0x182028);

/// Colours of lines, bars and dots.
#[derive(Debug)]
pub struct Line;

impl Line {
    /// The first series.
    pub const BLUE: Colour = colour(0x1f6fb5, 0x6cb4f0);
    /// The second series.
    pub const ORANGE: Colour = colour(0xc2591b, 0xf4a261);
    /// The third series, or what is good.
    pub const GREEN: Colour = colour(0x2a8058, 0x6fd3a2);
    /// What is bad.
    pub const RED: Colour = colour(0xb3261e, 0xff8a80);
    /// What others are compared with.
    pub const GREY: Colour = colour(0x6b7885, 0xa9b4c0);
}

/// Colours of areas that have text on them.
#[derive(Debug)]
pub struct Tint;

impl Tint {
    /// At work.
    pub const GREEN: Colour = colour(0xbfe3cf, 0x1e5a3f);
    /// At work, and watched.
    pub const BLUE: Colour = colour(0xbcdaf5, 0x1f4f7d);
    /// Stopped, and copied.
    pub const ORANGE: Colour = colour(0xf9d3ae, 0x7a4516);
    /// Being loaded.
    pub const PURPLE: Colour = colour(0xd9cbf2, 0x4c3a80);
    /// At rest.
    pub const GREY: Colour = colour(0xd5dbe2, 0x3e4a57);
    /// Broken.
    pub const RED: Colour = colour(0xf4bfbb, 0x7d2a25);
    /// Between two others.
    pub const TEAL: Colour = colour(0xb9e4e4, 0x1b5759);
    /// The background of a part of a chart.
    pub const BAND: Colour = colour(0xe9f2fb, 0x1d2e3f);
    /// The background of a part that matters.
    pub const STRONG_BAND: Colour = colour(0xfbe3cb, 0x46321f);
}

/// All colours.
const ALL: [Colour; 20] = [
    INK,
    MUTED,
    GRID,
    AXIS,
    LANE,
    PAPER,
    Line::BLUE,
    Line::ORANGE,
    Line::GREEN,
    Line::RED,
    Line::GREY,
    Tint::GREEN,
    Tint::BLUE,
    Tint::ORANGE,
    Tint::PURPLE,
    Tint::GREY,
    Tint::RED,
    Tint::TEAL,
    Tint::BAND,
    Tint::STRONG_BAND,
];

/// Where there is no desktop, system-ui may be any font.
const SHEET: &str = "\
:root{--fonts:\"Segoe UI\",Roboto,\"Helvetica Neue\",\"Noto Sans\",\"Liberation Sans\",\"DejaVu Sans\",Arial,sans-serif;\
color-scheme:light dark;--paper:#fffffe;--ink:#1f2933;--muted:#52606d;--rule:#e3e8ee;--card:#f6f8fa}
@media(prefers-color-scheme:dark){:root{--paper:#182028;--ink:#e8ecf1;--muted:#a3afbd;--rule:#2f3b47;--card:#1f2932}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:66rem;padding:2rem 1.5rem 3rem;background:var(--paper);color:var(--ink);
font:1rem/1.55 var(--fonts);overflow-wrap:anywhere}
h1{font-size:1.75rem;line-height:1.2;margin:0 0 .25rem}
h2{font-size:1.2rem;line-height:1.3;margin:2.5rem 0 .25rem}
h3{font-size:1rem;margin:0}
p{margin:.35rem 0;max-width:46rem}
.subtitle,.note,footer,dt{color:var(--muted)}
.lead{font-size:1.08rem;margin-top:1rem}
dl.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(10rem,1fr));gap:.75rem;margin:1.5rem 0 0}
dl.tiles div{background:var(--card);border:1px solid var(--rule);border-radius:.5rem;padding:.7rem .9rem}
dl.tiles dt{font-size:.85rem}
dl.tiles dd{margin:0;font-size:1.35rem;font-weight:600;font-variant-numeric:tabular-nums}
.figures{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:1.5rem 2rem;margin-top:1rem}
figure{margin:0;grid-column:1/-1;overflow-x:auto}
figure.half{grid-column:auto}
@media(max-width:46rem){figure.half{grid-column:1/-1}figure>svg{min-width:50rem}figure.half>svg{min-width:24rem}}
figcaption{font-size:.92rem}
figcaption p{color:var(--muted)}
figure>svg{display:block;width:100%;height:auto;margin-top:.5rem}
svg text{font-family:var(--fonts);\
font-variant-numeric:tabular-nums}
ul.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.15rem 1.1rem;margin:.4rem 0 0;padding:0;font-size:.88rem}
ul.legend svg{width:.85rem;height:.85rem;margin-right:.4rem;vertical-align:-.1em}
details{margin-top:1.5rem}
summary{cursor:pointer;font-weight:600}
table{border-collapse:collapse;margin-top:.75rem;font-size:.92rem;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.25rem 1.5rem .25rem 0;border-bottom:1px solid var(--rule);vertical-align:top}
th.number,td.number{text-align:right}
footer{margin-top:3rem;border-top:1px solid var(--rule);padding-top:.75rem;font-size:.85rem}
@media print{details{display:block}body{max-width:none}}
";

/// Returns the style sheet.
pub(crate) fn sheet() -> String {
    let mut sheet = String::from(SHEET);
    sheet.push_str("@media(prefers-color-scheme:dark){\n");
    for colour in ALL {
        let (light, dark) = (colour.hex(), hex(colour.dark));
        sheet.push_str(&format!(
            "svg [fill=\"{light}\"]{{fill:{dark}}}svg [stroke=\"{light}\"]{{stroke:{dark}}}\n"
        ));
    }
    sheet.push_str("}\n");
    sheet
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The contrast ratio of WCAG 2.
    fn contrast(a: (u8, u8, u8), b: (u8, u8, u8)) -> f64 {
        let light = |(r, g, b): (u8, u8, u8)| {
            let linear = |c: u8| match f64::from(c) / 255.0 {
                c if c <= 0.04045 => c / 12.92,
                c => ((c + 0.055) / 1.055).powf(2.4),
            };
            0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b)
        };
        let (a, b) = (light(a), light(b));
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    #[test]
    fn each_colour_can_be_replaced() {
        for (i, a) in ALL.iter().enumerate() {
            assert!(ALL[i + 1..].iter().all(|b| a.light != b.light), "{a:?}");
        }
    }

    #[test]
    fn text_can_be_read_in_both_pages() {
        let tints = [
            Tint::GREEN,
            Tint::BLUE,
            Tint::ORANGE,
            Tint::PURPLE,
            Tint::GREY,
            Tint::RED,
            Tint::TEAL,
            Tint::BAND,
            Tint::STRONG_BAND,
            PAPER,
            LANE,
        ];
        for tint in tints {
            assert!(contrast(INK.light, tint.light) > 7.0, "{tint:?}");
            assert!(contrast(INK.dark, tint.dark) > 6.0, "{tint:?}");
        }
        let lines = [
            Line::BLUE,
            Line::ORANGE,
            Line::GREEN,
            Line::RED,
            Line::GREY,
            MUTED,
        ];
        for line in lines {
            assert!(contrast(line.light, PAPER.light) > 4.0, "{line:?}");
            assert!(contrast(line.dark, PAPER.dark) > 4.0, "{line:?}");
        }
    }
}
