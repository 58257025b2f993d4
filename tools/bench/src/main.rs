// SPDX-License-Identifier: GPL-2.0

//! Counts the instructions of using and migrating an `mdma` device.
//!
//! It runs in a VM whose clock counts instructions, one per nanosecond; `scripts/bench` starts one. The file that
//! measures a table describes it:
//!
//! | table       | file        |                                                           |
//! |-------------|-------------|-----------------------------------------------------------|
//! | `save`      | `drain`     | reading the state of a stopped device                     |
//! | `load`      | `drain`     | writing it to another one                                 |
//! | `passes`    | `precopy`   | passes of pre-copy, by how many pages have changed        |
//! | `engine`    | `engine`    | jobs of the device, by direction and size                 |
//! | `lists`     | `lists`     | jobs with scatter lists, by size of their entries         |
//! | `small`     | `small`     | what one job costs, and one access to guest memory        |
//! | `registers` | `registers` | accesses to registers, with and without a migration       |
//! | `faults`    | `faults`    | writes to mapped device memory, with and without one      |
//! | `generations`, `reports` | `generations` | the four generations of the interface        |
//! | `keys`      | `keys`      | jobs on registered memory, beside those by IOVA           |

#![forbid(unsafe_code)]

mod clock;
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
mod precopy;
mod registers;
mod report;
mod small;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use serde_json::json;
use vfio_migrate::format::parse_bytes;

use crate::clock::Clock;
use crate::error::{fail, Result};
use crate::host::Costs;
use crate::report::Table;

/// Counts the instructions of using and migrating an mdma device.
#[derive(Debug, Parser)]
#[command(name = "bench", version, max_term_width = 100)]
struct Cli {
    /// Load this module first
    #[arg(long, value_name = "PATH")]
    module: Option<PathBuf>,

    /// Type of the devices, by memory size
    #[arg(long, default_value = "256M")]
    memory: String,

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

    /// Tables to measure [default: all]
    #[arg(value_name = "TABLE")]
    tables: Vec<String>,
}

/// A group of tables that are measured together.
type Part = (
    &'static [&'static str],
    fn(&Clock, &Cli) -> Result<Vec<Table>>,
);

const PARTS: [Part; 9] = [
    (&["save", "load"], |clock, cli| {
        drain::run(clock, &cli.memory, cli.words)
    }),
    (&["passes"], |clock, cli| precopy::run(clock, &cli.memory)),
    (&["engine"], |clock, cli| {
        engine::run(clock, &cli.memory, cli.moved)
    }),
    (&["lists"], |clock, _| lists::run(clock)),
    (&["small"], |clock, _| small::run(clock)),
    (&["registers"], |clock, cli| {
        registers::run(clock, &cli.memory)
    }),
    (&["faults"], |clock, _| faults::run(clock)),
    (&["generations", "reports"], |clock, _| {
        generations::run(clock)
    }),
    (&["keys"], |clock, _| keys::run(clock)),
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
    let known = || PARTS.iter().flat_map(|(names, _)| *names);
    for name in &cli.tables {
        if !known().any(|known| known == name) {
            let known: Vec<_> = known().copied().collect();
            fail!("there is no table {name:?}: {}", known.join(", "));
        }
    }
    if cli.costs {
        println!("{}", Costs::measure(&Clock::uncalibrated())?);
        return Ok(());
    }
    if let Some(path) = &cli.module {
        module::load(path, "")?;
    }
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
        tables
            .iter()
            .for_each(|table| println!("\n{}", table.text()));
    }

    for (names, measure) in PARTS {
        let wanted = |name: &&str| cli.tables.is_empty() || cli.tables.iter().any(|t| t == name);
        if !names.iter().any(wanted) {
            continue;
        }
        clock.settle();
        for table in measure(&clock, cli)? {
            let table = table.per(clock.unit);
            if !cli.json {
                println!("\n{}", table.text());
            }
            tables.push(table);
        }
    }
    if cli.json {
        let tables: serde_json::Map<_, _> = tables
            .iter()
            .map(|table| (table.name.to_string(), table.json()))
            .collect();
        println!("{}", json!({ "clock": clock.json(), "tables": tables }));
    }
    Ok(())
}
