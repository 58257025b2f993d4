// SPDX-License-Identifier: GPL-2.0

//! Live-migrates an `mdma` device under load, and verifies every byte.
//!
//! Two instances of the device stand for two hosts. A workload keeps the first one busy while its state goes to the
//! second. It then stops with jobs in flight, which the second instance completes. The program compares all memory,
//! every register and every job with the expected values.

#![forbid(unsafe_code)]

mod compare;
mod error;
mod guest;
mod machine;
mod out;
mod ram;
mod rng;
mod scene;
mod show;
mod workload;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use kernel_utils::module;
use serde_json::json;
use vfio_migrate::format::{bytes, parse_bytes, time};
use vfio_migrate::Protocol;

use crate::error::{fail, Result};
use crate::out::Out;
use crate::scene::{Outcome, Settings};

/// Live-migrates an mdma device under load, and verifies every byte.
#[derive(Debug, Parser)]
#[command(name = "demo", version, max_term_width = 100)]
struct Cli {
    /// Load this module first
    #[arg(long, value_name = "PATH")]
    module: Option<PathBuf>,

    /// Type of the devices, by memory size
    #[arg(long, default_value = "256M")]
    memory: String,

    /// The migration protocol
    #[arg(long, value_enum, default_value_t = ProtocolArg::V1)]
    protocol: ProtocolArg,

    /// Flip one bit of the stream; the destination must detect it
    #[arg(long)]
    corrupt: bool,

    /// Number of pre-copy passes
    #[arg(long, value_name = "N", default_value_t = 3)]
    passes: u32,

    /// Device memory that the workload uses
    #[arg(long, value_name = "SIZE", default_value = "48M", value_parser = parse_bytes)]
    used: u64,

    /// Size of guest memory on each side
    #[arg(long, value_name = "SIZE", default_value = "16M", value_parser = parse_bytes)]
    ram: u64,

    /// How long the workload runs before and after the migration, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    seconds: f64,

    /// Seed of the random numbers
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ProtocolArg {
    V1,
    V2,
}

impl Cli {
    fn settings(&self) -> Result<Settings> {
        // Two ranges, each large enough for any job.
        const RAM_MIN: u64 = 4 << 20;
        const USED_MIN: u64 = 1 << 20;
        if self.ram < RAM_MIN || self.ram % (2 * ram::PAGE as u64) != 0 {
            fail!("--ram must be a multiple of two pages, and at least {RAM_MIN}");
        }
        if self.used < USED_MIN {
            fail!("--used must be at least {USED_MIN}");
        }
        Ok(Settings {
            kind: self.memory.clone(),
            protocol: match self.protocol {
                ProtocolArg::V1 => Protocol::V1,
                ProtocolArg::V2 => Protocol::V2,
            },
            ram: self.ram as usize,
            used: self.used,
            passes: self.passes,
            warm_up: Duration::try_from_secs_f64(self.seconds).unwrap_or_default(),
            seed: self.seed,
            corrupt: self.corrupt,
        })
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let out = Out { quiet: cli.json };
    let start = Instant::now();
    let result = prologue(&cli, out)
        .and_then(|()| cli.settings())
        .and_then(|settings| scene::run(&settings, out));
    let (json, code) = match &result {
        Ok(outcome) => {
            epilogue(outcome, start.elapsed(), out);
            (json!({ "verified": true, "result": outcome }), 0)
        }
        Err(e) => {
            eprintln!("demo: FAILED: {e}");
            (json!({ "verified": false, "error": e.0 }), 1)
        }
    };
    if cli.json {
        println!("{json}");
    }
    ExitCode::from(code)
}

fn prologue(cli: &Cli, out: Out) -> Result<()> {
    let protocol = match cli.protocol {
        ProtocolArg::V1 => "v1",
        ProtocolArg::V2 => "v2",
    };
    if !out.quiet {
        println!("Live migration of a mediated device under load, protocol {protocol}");
        println!();
    }
    if let Some(path) = &cli.module {
        load_module(path)?;
        out.line("module", path.display().to_string());
    }
    Ok(())
}

/// Loads the module, unless it is loaded already.
fn load_module(path: &Path) -> Result<()> {
    let failed = |e| vfio_client::Error::new(format!("load {}", path.display()), e);
    Ok(module::ensure(path, "").map_err(failed)?)
}

fn epilogue(outcome: &Outcome, elapsed: Duration, out: Out) {
    if out.quiet {
        return;
    }
    out.blank();
    match outcome {
        Outcome::Migrated(s) => {
            println!("{}", show::summary(s));
            println!();
            let c = &s.compared;
            println!(
                "equal before the destination ran: {} registers, {} bytes of configuration, \
                 {} of device memory, {} of guest memory",
                c.registers,
                c.config,
                bytes(c.device_memory),
                bytes(c.guest_memory),
            );
            println!(
                "downtime {}; verified: yes; {} in total",
                time(s.report.downtime),
                time(elapsed)
            );
        }
        Outcome::CorruptionCaught(c) => {
            println!(
                "corruption caught: bit {} of a buffer of {} was flipped, and the destination answered {}",
                c.bit,
                bytes(c.buffer as u64),
                c.errno.unwrap_or("an error")
            );
            println!("verified: yes; {} in total", time(elapsed));
        }
    }
}
