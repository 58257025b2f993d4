// SPDX-License-Identifier: GPL-2.0

//! Counts the instructions of using and migrating a device: `mdma`, or any other that migrates.
//!
//! It runs in a VM whose clock counts instructions, one per nanosecond; `scripts/bench` starts one. The file that
//! measures a table describes it:
//!
//! | table       | file        |                                                           |
//! |-------------|-------------|-----------------------------------------------------------|
//! | `save`      | `drain`     | reading the state of a stopped device                     |
//! | `load`      | `drain`     | writing it to another one                                 |
//! | `file`      | `data_file` | the data file of v2, by the size of the calls             |
//! | `peers`     | `peers`     | the device, the kernel's sample `mtty` and plain files    |
//! | `sizes`     | `sizes`     | the types of the device, by the size of their memory      |
//! | `large`     | `precopy`   | passes over 1 GiB                                         |
//! | `passes`    | `precopy`   | passes of pre-copy, by how many pages have changed        |
//! | `engine`    | `engine`    | jobs of the device, by direction and size                 |
//! | `lists`     | `lists`     | jobs with scatter lists, by size of their entries         |
//! | `small`     | `small`     | what one job costs, and one access to guest memory        |
//! | `registers` | `registers` | accesses to registers, with and without a migration       |
//! | `faults`    | `faults`    | writes to mapped device memory, with and without one      |
//! | `generations`, `reports` | `generations` | the four generations of the interface        |
//! | `keys`      | `keys`      | jobs on registered memory, beside those by IOVA           |
//!
//! Most need more than a device that migrates; `need` says what.

#![forbid(unsafe_code)]

mod clock;
mod data_file;
mod device;
mod drain;
mod engine;
mod error;
mod faults;
mod generations;
mod host;
mod keys;
mod lists;
mod module;
mod need;
mod peers;
mod precopy;
mod registers;
mod report;
mod sizes;
mod small;
mod subject;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use serde_json::json;
use vfio_migrate::format::parse_bytes;

use crate::clock::Clock;
use crate::error::{fail, Result};
use crate::host::Costs;
use crate::need::{Group, Need};
use crate::report::Table;
use crate::subject::Subject;

/// Counts the instructions of using and migrating a device.
///
/// mdma has all tables. A device without an engine or without device memory has fewer.
#[derive(Debug, Parser)]
#[command(name = "bench", version, max_term_width = 100)]
struct Cli {
    /// Load this module first
    #[arg(long, value_name = "PATH")]
    module: Option<PathBuf>,

    /// Load this module of mtty, the kernel's own sample, and measure it beside the device
    #[arg(long, value_name = "PATH")]
    peer: Option<PathBuf>,

    /// The device to measure: the name of its module
    #[arg(long, value_name = "NAME", default_value = "mdma")]
    device: String,

    /// Type of the devices, for most by memory size [default: 256M of mdma, the smallest of another device]
    #[arg(long = "type", alias = "memory", value_name = "TYPE")]
    kind: Option<String>,

    /// How much of a save and a load to measure with 8-byte accesses
    #[arg(long, value_name = "SIZE", default_value = "1M", value_parser = parse_bytes)]
    words: u64,

    /// Bytes that each row of the engine table moves
    #[arg(long, value_name = "SIZE", default_value = "16M", value_parser = parse_bytes)]
    moved: u64,

    /// Measure even if the clock does not count instructions: the figures are then nanoseconds
    #[arg(long)]
    time: bool,

    /// Print times as multiples of the time in which memcpy() copies a KiB, beside the HOST's times of --costs
    #[arg(long, value_name = "HOST")]
    native: Option<Costs>,

    /// Only measure what --native compares, and print the times
    #[arg(long)]
    costs: bool,

    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,

    /// Tables to measure [default: all that the device can have]
    #[arg(value_name = "TABLE")]
    tables: Vec<String>,
}

/// A group of tables that are measured together.
type Part = (
    &'static [&'static str],
    Need,
    fn(&Clock, &Subject, &Cli) -> Result<Vec<Table>>,
);

const PARTS: [Part; 14] = [
    (&["save", "load"], Need::Migration, |clock, subject, cli| {
        drain::run(clock, subject, cli.words)
    }),
    (&["file"], Need::Memory, |clock, subject, _| {
        data_file::run(clock, subject)
    }),
    (&["passes"], Need::Memory, |clock, subject, _| {
        precopy::run(clock, subject)
    }),
    (&["large"], Need::Large, |clock, subject, _| {
        precopy::large(clock, subject)
    }),
    (&["sizes"], Need::Memory, |clock, subject, _| {
        sizes::run(clock, subject)
    }),
    (&["engine"], Need::Engine, |clock, subject, cli| {
        engine::run(clock, &subject.kind, cli.moved)
    }),
    (&["lists"], Need::Engine, |clock, _, _| lists::run(clock)),
    (&["small"], Need::Engine, |clock, _, _| small::run(clock)),
    (&["registers"], Need::Migration, |clock, subject, _| {
        registers::run(clock, subject)
    }),
    (&["peers"], Need::Migration, |clock, subject, cli| {
        peers::run(clock, subject, cli.peer.is_some())
    }),
    (&["faults"], Need::Mapped, |clock, subject, _| {
        faults::run(clock, subject)
    }),
    (&["generations"], Need::Migration, |clock, subject, _| {
        generations::run(clock, subject)
    }),
    (&["reports"], Need::Engine, |clock, _, _| {
        generations::reports(clock)
    }),
    (&["keys", "lookups"], Need::Engine, |clock, _, _| {
        keys::run(clock)
    }),
];

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("bench: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let groups = PARTS.map(|(names, need, _)| -> Group { (names, need) });
    need::check_names(&groups, &cli.tables)?;
    if cli.costs {
        println!("{}", Costs::measure(&Clock::uncalibrated())?);
        return Ok(());
    }
    if let Some(path) = &cli.module {
        module::load(path, "")?;
    }
    if let Some(path) = &cli.peer {
        module::load(path, "")?;
    }
    let subject = Subject::find(&cli.device, cli.kind.as_deref())?;
    let (chosen, left_out) = need::choose(&groups, &cli.tables, &subject.name, |need| {
        subject.has(need)
    })?;
    let mut clock = match cli.native {
        Some(_) => Clock::uncalibrated(),
        None => Clock::new(),
    };
    if !clock.counts() && !cli.time && cli.native.is_none() {
        fail!(
            "the clock does not count instructions: a turn of the test loop takes {:.3} and {:.3} ns \
             (--time measures anyway)",
            clock.turns[0],
            clock.turns[1],
        );
    }
    let mut tables = Vec::new();
    if let Some(host) = &cli.native {
        let costs = Costs::measure(&clock)?;
        clock.unit = costs.unit();
        tables.push(costs.beside(host));
    }
    if !cli.json {
        println!("{}", clock.describe());
        left_out
            .iter()
            .for_each(|out| println!("{}", out.describe(&subject.name)));
        tables
            .iter()
            .for_each(|table| println!("\n{}", table.text()));
    }

    for ((_, _, measure), chosen) in PARTS.iter().zip(chosen) {
        if !chosen {
            continue;
        }
        clock.settle();
        for table in measure(&clock, &subject, cli)? {
            let table = table.per(clock.unit);
            if !cli.json {
                println!("\n{}", table.text());
            }
            tables.push(table);
        }
    }
    if cli.json {
        let titles: serde_json::Map<_, _> = tables
            .iter()
            .map(|table| (table.name.to_string(), json!(table.title)))
            .collect();
        let costs: serde_json::Map<_, _> = tables
            .iter()
            .map(|table| (table.name.to_string(), table.costs()))
            .collect();
        let tables: serde_json::Map<_, _> = tables
            .iter()
            .map(|table| (table.name.to_string(), table.json()))
            .collect();
        let left_out: serde_json::Map<_, _> = left_out
            .iter()
            .flat_map(|out| out.tables.iter().map(|table| (table, out.need.words())))
            .map(|(table, need)| (table.to_string(), json!(need)))
            .collect();
        println!(
            "{}",
            json!({
                "device": subject.kind,
                "clock": clock.json(),
                "titles": titles,
                "tables": tables,
                "costs": costs,
                "left_out": left_out,
            })
        );
    }
    Ok(())
}
