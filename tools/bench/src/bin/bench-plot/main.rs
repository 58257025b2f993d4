// SPDX-License-Identifier: GPL-2.0

//! Draws the tables of `bench --json` beside committed ones, as an HTML page.

#![forbid(unsafe_code)]

mod comparison;
mod counts;
mod picture;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::comparison::compare;
use crate::counts::Counts;

/// Draws measured counts beside committed ones.
///
/// The page holds everything that it shows: it loads nothing and has no script.
#[derive(Debug, Parser)]
#[command(name = "bench-plot", version, max_term_width = 100)]
struct Cli {
    /// The output of `bench --json`
    measured: PathBuf,

    /// What it is compared with: another such output, or a committed table
    committed: Option<PathBuf>,

    /// The page to write
    #[arg(long, value_name = "FILE", required = true)]
    html: PathBuf,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("bench-plot: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<(), String> {
    let measured = Counts::read(&cli.measured)?;
    let committed = match &cli.committed {
        Some(path) => Some(Counts::read(path)?),
        None => None,
    };
    let tables = compare(&measured, committed.as_ref());
    let html = picture::page(&measured, committed.as_ref(), &tables).map_err(|e| e.to_string())?;
    fs::write(&cli.html, html).map_err(|e| format!("write {}: {e}", cli.html.display()))
}
