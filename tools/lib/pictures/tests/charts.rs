// SPDX-License-Identifier: GPL-2.0

//! Draws each kind of chart, with sensible and with absurd values.

use pictures::{
    Band, Bar, Bars, Dots, Figure, Lane, Lanes, Line, Lines, Mark, Page, Pair, Series, Span, Tint,
    Unit,
};

/// Numbers that nobody should measure.
const ABSURD: [f64; 12] = [
    f64::NAN,
    f64::INFINITY,
    f64::NEG_INFINITY,
    f64::MAX,
    f64::MIN,
    f64::MIN_POSITIVE,
    0.0,
    -1.0,
    1.0,
    1e18,
    5e-324,
    u64::MAX as f64,
];

fn html(figure: &Figure) -> String {
    let mut page = Page::new("title", "subtitle");
    page.figure(figure);
    page.html("a test")
}

/// Returns the number of elements with this name.
fn elements(html: &str, name: &str) -> usize {
    html.matches(&format!("<{name} ")).count()
}

/// Checks what is true of every page.
fn check(html: &str) {
    for word in ["NaN", "inf", "<script", "http:", "https:", "url("] {
        assert!(!html.contains(word), "the page has {word}");
    }
    assert_eq!(html.matches("<svg").count(), html.matches("</svg>").count());
    assert_eq!(html.matches("<title id=").count(), 1);
}

fn span(name: &str, begin: f64, end: f64) -> Span {
    Span {
        time: begin..end,
        name: name.into(),
        colour: Tint::GREEN,
    }
}

fn lanes(lanes: &[Lane], time: std::ops::Range<f64>, marks: &[Mark]) -> String {
    let figure = Lanes {
        title: "lanes",
        lanes,
        time,
        origin: 0.0,
        axis: "time",
        marks,
        durations: true,
    };
    html(&figure.draw().unwrap())
}

#[test]
fn lanes_have_a_bar_for_each_state_and_names_where_there_is_room() {
    let lane = Lane {
        name: "the <guest>".into(),
        spans: vec![
            span("RUNNING", 0.0, 5.0),
            span("STOP", 5.0, 5.001),
            span("later", 11.0, 12.0),
        ],
    };
    let marks = [Mark {
        at: 5.0,
        name: "stops".into(),
    }];
    let html = lanes(&[lane], 0.0..10.0, &marks);
    check(&html);
    assert!(html.contains("RUNNING · 5 s"));
    // Only in the legend and the description.
    assert!(!html.contains("\nSTOP"));
    assert!(!html.contains("\nlater"));
    assert!(html.contains("the &lt;guest&gt;"));
    assert!(html.contains("\nstops\n"));
    assert!(html.contains("time, s"));
}

#[test]
fn labels_of_marks_do_not_overlap() {
    let marks: Vec<Mark> = (0..50)
        .map(|i| Mark {
            at: 5.0 + f64::from(i) * 1e-3,
            name: "a mark".into(),
        })
        .collect();
    let html = lanes(
        &[Lane {
            name: "l".into(),
            spans: vec![],
        }],
        0.0..10.0,
        &marks,
    );
    assert_eq!(html.matches("\na mark\n").count(), 2);
}

#[test]
fn lines_end_with_the_last_point_and_are_not_too_long() {
    let points = (0..100_000)
        .map(|i| (f64::from(i), f64::from(i % 7)))
        .collect();
    let series = [Series {
        name: "a & b".into(),
        colour: Line::BLUE,
        dashed: false,
        points,
    }];
    let figure = Lines {
        title: "lines",
        values: "bytes",
        unit: Unit::Bytes,
        axis: "time",
        time: 0.0..1e5,
        series: &series,
        bands: &[Band {
            time: 1.0..5e4,
            name: "band".into(),
            colour: Tint::BAND,
        }],
        marks: &[],
        half: true,
    };
    let html = html(&figure.draw().unwrap());
    check(&html);
    assert!(html.contains("a &amp; b"));
    assert!(html.len() < 100_000, "{}", html.len());
}

#[test]
fn bars_far_apart_are_dots_on_a_logarithmic_axis() {
    let bars = |values: &[f64]| -> String {
        let bar = |(i, value): (usize, &f64)| Bar {
            name: (i + 1).to_string(),
            value: *value,
            colour: Line::BLUE,
        };
        let bars: Vec<Bar> = values.iter().enumerate().map(bar).collect();
        let figure = Bars {
            title: "bars",
            steps: "pass",
            values: "pages",
            unit: Unit::Count("pages"),
            bars: &bars,
            legend: Vec::new(),
        };
        html(&figure.draw().unwrap())
    };
    let near = bars(&[10.0, 20.0, 30.0]);
    check(&near);
    assert_eq!((elements(&near, "rect"), elements(&near, "circle")), (3, 0));
    let far = bars(&[65536.0, 20.0, 30.0, 0.0]);
    check(&far);
    assert_eq!(elements(&far, "circle"), 3);
    assert!(far.contains("logarithmic"));
    // One of each few neighbours.
    assert!(elements(&bars(&vec![5.0; 5000]), "rect") <= 120);
    check(&bars(&[]));
    check(&bars(&ABSURD));
}

#[test]
fn dots_have_both_values() {
    let pair = |now, before| Pair {
        name: "a row".into(),
        now,
        before,
        difference: "+1 %".into(),
        colour: Line::RED,
    };
    let draw = |pairs: &[Pair]| {
        let figure = Dots {
            title: "dots",
            values: "instructions",
            unit: Unit::None,
            pairs,
            legend: Vec::new(),
        };
        html(&figure.draw().unwrap())
    };
    let html = draw(&[
        pair(Some(5.0), Some(6.0)),
        pair(None, Some(7.0)),
        pair(Some(8.0), None),
        pair(None, None),
    ]);
    check(&html);
    assert_eq!(elements(&html, "circle"), 4);
    check(&draw(&[]));
    for now in ABSURD {
        for before in ABSURD {
            check(&draw(&[
                pair(Some(now), Some(before)),
                pair(Some(1.0), Some(2.0)),
            ]));
        }
    }
}

#[test]
fn absurd_times_make_a_picture() {
    for a in ABSURD {
        for b in ABSURD {
            let lane = Lane {
                name: "l".into(),
                spans: vec![span("s", a, b), span("t", b, a), span("u", 0.0, 1.0)],
            };
            let marks = [Mark {
                at: a,
                name: "m".into(),
            }];
            check(&lanes(&[lane.clone()], a..b, &marks));
            check(&lanes(&[lane], 0.0..1.0, &marks));
            let series = [Series {
                name: "s".into(),
                colour: Line::BLUE,
                dashed: true,
                points: vec![(0.0, a), (a, b), (1.0, 1.0)],
            }];
            let figure = Lines {
                title: "lines",
                values: "v",
                unit: Unit::None,
                axis: "time",
                time: a..b,
                series: &series,
                bands: &[Band {
                    time: b..a,
                    name: "b".into(),
                    colour: Tint::BAND,
                }],
                marks: &marks,
                half: false,
            };
            check(&html(&figure.draw().unwrap()));
        }
    }
}
