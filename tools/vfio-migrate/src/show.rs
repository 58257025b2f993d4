// SPDX-License-Identifier: GPL-2.0

//! Results as text.

use std::time::Duration;

use vfio_client::Reason;
use vfio_migrate::file::{Loaded, Saved};
use vfio_migrate::format::{bytes, table, time};
use vfio_migrate::{Entry, Failure, Inspection, PhaseReport, Received, Report};

use crate::all::Saved as SavedInstance;

pub(crate) fn list(entries: &[Entry]) -> String {
    if entries.is_empty() {
        return "no mediated devices".into();
    }
    let rows: Vec<_> = entries
        .iter()
        .map(|e| {
            vec![
                e.uuid.clone(),
                e.type_id.clone(),
                e.parent.clone(),
                e.group.map_or("?".into(), |g| g.to_string()),
                e.status.migration(),
                e.status.state(),
            ]
        })
        .collect();
    table(
        &["UUID", "TYPE", "PARENT", ">GROUP", "MIGRATION", "STATE"],
        &rows,
    )
}

fn phase(name: &str, sent: &PhaseReport) -> Vec<String> {
    vec![
        name.into(),
        bytes(sent.bytes),
        sent.buffers.to_string(),
        time(sent.time),
        rate(sent.bytes, sent.time),
    ]
}

fn rate(n: u64, t: Duration) -> String {
    if n == 0 || t.is_zero() {
        return "-".into();
    }
    format!("{}/s", bytes((n as f64 / t.as_secs_f64()) as u64))
}

const PHASES: [&str; 5] = ["PHASE", ">BYTES", ">BUFFERS", ">TIME", ">RATE"];

pub(crate) fn saved(saved: &Saved) -> String {
    let mut rows = Vec::new();
    if saved.pre_copy.buffers > 0 {
        rows.push(phase("pre-copy", &saved.pre_copy));
    }
    rows.push(phase("stop-and-copy", &saved.stop_and_copy));
    table(&PHASES, &rows)
}

pub(crate) fn loaded(loaded: &Loaded) -> String {
    table(&PHASES, &[phase("load", &loaded.loaded)])
}

pub(crate) fn received(received: &Received) -> String {
    table(&PHASES, &[phase("receive", &received.loaded)])
}

pub(crate) fn all(all: &[SavedInstance]) -> String {
    if all.is_empty() {
        return "no mediated devices that can migrate".into();
    }
    let rows: Vec<_> = all
        .iter()
        .map(|saved| {
            let size = saved.bytes.map_or("no state".into(), bytes);
            vec![
                saved.uuid.clone(),
                saved.type_id.clone(),
                saved.parent.clone(),
                size,
            ]
        })
        .collect();
    table(&["UUID", "TYPE", "PARENT", ">BYTES"], &rows)
}

pub(crate) fn transferred(report: &Report) -> String {
    let mut rows: Vec<_> = report
        .passes
        .iter()
        .map(|pass| phase(&format!("pre-copy, pass {}", pass.number), &pass.sent))
        .collect();
    rows.push(phase("stop-and-copy", &report.stop_and_copy));
    format!(
        "{}\n\ndowntime {} of {} in total",
        table(&PHASES, &rows),
        time(report.downtime),
        time(report.time)
    )
}

/// The order of record kinds, as in a stream.
const KINDS: [&str; 6] = ["IDENTITY", "PART", "MEMORY", "ZERO", "DEVICE", "END"];

pub(crate) fn inspected(found: &Inspection) -> String {
    let mut out = Vec::new();
    if let Some(device_type) = &found.device_type {
        out.push(format!(
            "device     {device_type}, version {}, features {:#x}",
            found.device_version, found.features
        ));
        out.push(match found.memory_size {
            0 => "memory     none".into(),
            size => format!(
                "memory     {} in pages of {}",
                bytes(size),
                bytes(found.page_size.into())
            ),
        });
        out.push(format!(
            "state      at most {}",
            bytes(found.state_size_max.into())
        ));
        out.push(String::new());
        let mut records: Vec<_> = found.records.iter().collect();
        records
            .sort_by_key(|(kind, _)| KINDS.iter().position(|k| k == kind).unwrap_or(KINDS.len()));
        let mut rows: Vec<_> = records
            .iter()
            .map(|(kind, r)| vec![kind.to_string(), r.count.to_string(), bytes(r.bytes)])
            .collect();
        rows.push(vec![
            "all".into(),
            found.record_count.to_string(),
            bytes(found.bytes),
        ]);
        out.push(table(&["RECORDS", ">COUNT", ">BYTES"], &rows));
        out.push(String::new());
        out.push(format!(
            "passes     {}; {} pages, {} of them more than once",
            found.passes, found.pages, found.pages_again
        ));
        if found.unchecked_bytes > 0 {
            out.push(format!(
                "unchecked  {} of memory have no checksum",
                bytes(found.unchecked_bytes)
            ));
        }
        for (name, parts) in [("parts", &found.parts), ("optional", &found.optional_parts)] {
            if !parts.is_empty() {
                let numbers: Vec<_> = parts.iter().map(|number| number.to_string()).collect();
                out.push(format!("{name:<10} {}", numbers.join(", ")));
            }
        }
        if found.restarted > 0 {
            out.push(format!("restarted  {} times", found.restarted));
        }
        if found.repeated > 0 {
            out.push(format!("repeated   {} buffers", found.repeated));
        }
        if found.skipped > 0 {
            out.push(format!(
                "skipped    {} records of unknown optional kinds",
                found.skipped
            ));
        }
    }
    out.push(match &found.broken {
        None => "valid      every checksum, number and count is right".into(),
        Some(b) => format!(
            "BROKEN     record {} at offset {:#x}: {}",
            b.record, b.offset, b.reason
        ),
    });
    out.join("\n")
}

pub(crate) fn failure(failure: &Failure) -> String {
    let mut out = format!("vfio-migrate: {failure}");
    for note in &failure.notes {
        out.push_str(&format!("\n  {note}"));
    }
    if let Some(hint) = failure.hint() {
        out.push_str(&format!("\n  hint: {hint}"));
    }
    out
}

pub(crate) fn failure_json(failure: &Failure) -> serde_json::Value {
    serde_json::json!({
        "kind": failure.kind,
        "step": failure.error.step,
        "field": failure.error.field,
        "errno": failure.error.errno(),
        "errno_name": failure.error.errno_name(),
        "reason": Reason(&failure.error.source).to_string(),
        "hint": failure.hint(),
        "notes": failure.notes,
    })
}
