// SPDX-License-Identifier: GPL-2.0

//! Runs `vfio-migrate plot` on figures of real migrations, and on files that are no figures.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{json, Value};
use tempfile::TempDir;

fn figures(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/figures/{name}.json"))
}

fn plot(figures: &Path, page: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vfio-migrate"))
        .arg("plot")
        .args([figures, page])
        .args(more)
        .output()
        .unwrap()
}

/// Draws figures; returns the page.
fn page(figures: &Path) -> String {
    let dir = TempDir::new().unwrap();
    let page = dir.path().join("page.html");
    let output = plot(figures, &page, &[]);
    assert!(output.status.success(), "{output:?}");
    fs::read_to_string(page).unwrap()
}

/// Writes figures and draws them; returns the page.
fn page_of(figures: &Value) -> String {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("figures.json");
    fs::write(&path, figures.to_string()).unwrap();
    page(&path)
}

fn count(html: &str, what: &str) -> usize {
    html.matches(what).count()
}

#[test]
fn a_run_has_all_figures() {
    let html = page(&figures("run"));
    assert_eq!(count(&html, "<figure"), 9);
    for text in [
        "The downtime, magnified",
        "Guest RAM: dirty pages",
        "Guest RAM: bytes copied",
        "Device state: dirty pages",
        "Device state: bytes copied",
        "Jobs of the device that the guest verified",
        "PRE_COPY",
        "STOP_COPY",
        "first message of the guest",
        "time since the migration began, s",
    ] {
        assert!(html.contains(text), "{text}");
    }
    // Each figure says in words what it shows.
    assert_eq!(count(&html, "<desc id="), count(&html, "</desc>"));
    assert!(!html.contains("\"></desc>"));
    // Nothing is loaded, and nothing runs.
    for word in [
        "http:", "https:", "<script", "<img", "url(", "@import", "href=",
    ] {
        assert!(!html.contains(word), "{word}");
    }
}

#[test]
fn a_watched_device_has_its_own_figures() {
    let html = page(&figures("watch"));
    assert_eq!(count(&html, "<figure"), 5);
    assert!(!html.contains("jobs"));
}

#[test]
fn strange_names_and_numbers_make_a_page() {
    let html = page(&figures("strange"));
    assert_eq!(count(&html, "<script"), 0);
    assert!(html.contains("&lt;script&gt;"));
    assert!(!html.contains("NaN"));
}

#[test]
fn figures_without_parts_make_a_page() {
    let html = page_of(&json!({ "figures": 1, "title": "nothing", "end": 0 }));
    assert_eq!(count(&html, "<figure"), 0);
    assert!(html.contains("The migration took 0 s."));
    let empty = json!({
        "figures": 1, "title": "", "end": 0, "stopped": { "begin": 0, "end": 0 },
        "lanes": [{ "name": "", "states": [] }],
        "memories": [{ "name": "", "samples": [], "passes": [] }],
        "jobs": { "samples": [], "before": 0, "during": 0, "after": 0 },
    });
    assert_eq!(count(&page_of(&empty), "<figure"), 2);
}

#[test]
fn the_largest_numbers_make_a_page() {
    let max = u64::MAX;
    let sample = json!({ "at": 1e9, "bytes": max, "left": max, "stopped_bytes": 0, "passes": max, "dirty_pages": max });
    let pass = json!({ "name": "1", "dirty_pages": max, "bytes": max });
    let html = page_of(&json!({
        "figures": 1, "title": "t", "end": 1e9, "stopped": { "begin": -1e9, "end": 1e9 },
        "lanes": [{ "name": "n".repeat(5000), "states": [{ "state": "s", "begin": -1e9, "end": 1e9 }] }],
        "memories": [{ "name": "a", "samples": [sample] }, { "name": "b", "passes": [pass.clone(), pass] }],
        "jobs": { "samples": [{ "at": 0, "jobs": max }], "before": max, "during": max, "after": max },
    }));
    assert!(!html.contains("NaN") && !html.contains(">inf"));
}

#[test]
fn a_file_that_is_no_figures_is_an_error_and_leaves_no_page() {
    let dir = TempDir::new().unwrap();
    let whole = fs::read(figures("run")).unwrap();
    for (contents, why) in [
        (&b""[..], "the file is empty"),
        (&whole[..whole.len() / 2], "EOF"),
        (b"\xff\xfe", "expected value"),
        (b"{\"figures\": 9}", "version 9 is not 1"),
    ] {
        let (path, page) = (
            dir.path().join("figures.json"),
            dir.path().join("page.html"),
        );
        fs::write(&path, contents).unwrap();
        let output = plot(&path, &page, &[]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(why), "{error}");
        assert!(error.contains("figures.json"), "{error}");
        assert!(!error.contains("panicked"), "{error}");
        assert!(!page.exists());
    }
    let output = plot(
        &dir.path().join("missing"),
        &dir.path().join("page.html"),
        &[],
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_page_is_replaced_by_force_only() {
    let dir = TempDir::new().unwrap();
    let page = dir.path().join("page.html");
    fs::write(&page, "mine").unwrap();
    assert_eq!(plot(&figures("run"), &page, &[]).status.code(), Some(1));
    assert_eq!(fs::read_to_string(&page).unwrap(), "mine");
    assert!(plot(&figures("run"), &page, &["--force"]).status.success());
    assert_ne!(fs::read_to_string(&page).unwrap(), "mine");
}
