// SPDX-License-Identifier: GPL-2.0

//! Live-migrates a device and verifies every byte.
//!
//! Two instances of the device stand for two hosts. A workload keeps an `mdma` device busy while its state goes to the
//! second one (`scene`). It then stops with jobs in flight, which the second instance completes. The program compares all
//! memory, every register and every job with the expected values.
//!
//! Another device is filled instead, and written again between the passes of pre-copy (`any`). The program compares its
//! memory and the registers that keep what is written.

#![forbid(unsafe_code)]

mod any;
mod compare;
mod error;
mod flip;
mod guest;
mod inventory;
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
use serde_json::{json, Value};
use vfio_migrate::format::{bytes, parse_bytes, time};
use vfio_migrate::Protocol;

use crate::error::{fail, Result};
use crate::out::Out;
use crate::scene::{Outcome, Settings, MDMA};

/// Live-migrates a device and verifies every byte.
///
/// A workload keeps an mdma device busy meanwhile. Another device has no workload: all registers that keep what is
/// written, and its memory if it has any, are written before the migration and between the passes of pre-copy.
#[derive(Debug, Parser)]
#[command(name = "demo", version, max_term_width = 100)]
struct Cli {
    /// Load this module first
    #[arg(long, value_name = "PATH")]
    module: Option<PathBuf>,

    /// The device to migrate: the name of its module
    #[arg(long, value_name = "NAME", default_value = MDMA)]
    device: String,

    /// Type of the devices, for most by memory size [default: 256M of mdma, the smallest of another device]
    #[arg(long = "type", alias = "memory", value_name = "TYPE")]
    kind: Option<String>,

    /// The migration protocol [default: v1 for mdma, both for another device]
    #[arg(long, value_enum)]
    protocol: Option<ProtocolArg>,

    /// Flip one bit of the stream; the destination must detect it
    #[arg(long)]
    corrupt: bool,

    /// Number of pre-copy passes
    #[arg(long, value_name = "N", default_value_t = 3)]
    passes: u32,

    /// Device memory or storage to use
    #[arg(long, value_name = "SIZE", default_value = "48M", value_parser = parse_bytes)]
    used: u64,

    /// Size of guest memory on each side, for mdma [default: 16M]
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes)]
    ram: Option<u64>,

    /// How long mdma's workload runs before and after the migration, in seconds [default: 1]
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<f64>,

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

impl From<ProtocolArg> for Protocol {
    fn from(protocol: ProtocolArg) -> Self {
        match protocol {
            ProtocolArg::V1 => Protocol::V1,
            ProtocolArg::V2 => Protocol::V2,
        }
    }
}

impl Cli {
    /// Returns the protocols to migrate by, one after the other.
    fn protocols(&self) -> Vec<Protocol> {
        match (self.protocol, self.is_mdma()) {
            (Some(protocol), _) => vec![protocol.into()],
            (None, true) => vec![Protocol::V1],
            (None, false) => vec![Protocol::V1, Protocol::V2],
        }
    }

    fn is_mdma(&self) -> bool {
        self.device == MDMA
    }

    fn check_used(&self) -> Result<()> {
        const USED_MIN: u64 = 1 << 20;
        if self.used < USED_MIN {
            fail!("--used must be at least {USED_MIN}");
        }
        Ok(())
    }

    /// Returns the settings of a migration of `mdma`.
    fn settings(&self) -> Result<Settings> {
        // Two ranges, each large enough for any job.
        const RAM_MIN: u64 = 4 << 20;
        let ram = self.ram.unwrap_or(16 << 20);
        if ram < RAM_MIN || ram % (2 * ram::PAGE as u64) != 0 {
            fail!("--ram must be a multiple of two pages, and at least {RAM_MIN}");
        }
        self.check_used()?;
        Ok(Settings {
            kind: self.kind.clone().unwrap_or_else(|| "256M".into()),
            protocol: self.protocols()[0],
            ram: ram as usize,
            used: self.used,
            passes: self.passes,
            warm_up: Duration::try_from_secs_f64(self.seconds.unwrap_or(1.0)).unwrap_or_default(),
            seed: self.seed,
            corrupt: self.corrupt,
        })
    }

    /// Returns the settings of a migration of another device.
    fn settings_of_any(&self) -> Result<any::Settings> {
        for (given, name) in [
            (self.ram.is_some(), "--ram"),
            (self.seconds.is_some(), "--seconds"),
        ] {
            if given {
                fail!(
                    "{name} is about mdma's workload, which {} does not have",
                    self.device
                );
            }
        }
        self.check_used()?;
        Ok(any::Settings {
            device: self.device.clone(),
            kind: self.kind.clone(),
            protocols: self.protocols(),
            used: self.used,
            passes: self.passes,
            seed: self.seed,
            corrupt: self.corrupt,
        })
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let out = Out { quiet: cli.json };
    let (json, code) = match run(&cli, out) {
        Ok(result) => (json!({ "verified": true, "result": result }), 0),
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

/// Migrates, prints what happened, and returns it for programs.
fn run(cli: &Cli, out: Out) -> Result<Value> {
    let start = Instant::now();
    if cli.is_mdma() {
        let settings = cli.settings()?;
        prologue(cli, out)?;
        let outcome = scene::run(&settings, out)?;
        epilogue(&outcome, start.elapsed(), out);
        return Ok(json!(outcome));
    }
    let settings = cli.settings_of_any()?;
    prologue(cli, out)?;
    let outcomes = any::run(&settings, out)?;
    epilogue_of_any(&outcomes, start.elapsed(), out);
    Ok(json!({ "device": cli.device, "migrations": outcomes }))
}

fn prologue(cli: &Cli, out: Out) -> Result<()> {
    let protocols: Vec<_> = cli.protocols().into_iter().map(any::name).collect();
    if !out.quiet {
        let load = if cli.is_mdma() { " under load" } else { "" };
        let plural = if protocols.len() == 1 { "" } else { "s" };
        println!(
            "Live migration of a mediated device{load}, protocol{plural} {}",
            inventory::listed(&protocols)
        );
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

fn epilogue_of_any(outcomes: &[any::Outcome], elapsed: Duration, out: Out) {
    if out.quiet {
        return;
    }
    out.blank();
    let mut moved = Vec::new();
    for outcome in outcomes {
        match outcome {
            any::Outcome::Migrated(m) => moved.push(&**m),
            any::Outcome::CorruptionCaught(c) => println!(
                "corruption caught by {}: bit {} of a buffer of {} was flipped, and the destination answered {}",
                any::name(c.protocol),
                c.bit,
                bytes(c.buffer as u64),
                c.errno.unwrap_or("an error")
            ),
        }
    }
    let mut ends = Vec::new();
    if let [first, ..] = moved[..] {
        println!("{}", show::moves(&moved));
        println!();
        println!(
            "equal at the destination: {}",
            any::compared(&first.amount, first.config)
        );
        let downtimes: Vec<_> = moved
            .iter()
            .map(|m| {
                format!(
                    "{} by {}",
                    time(m.report.downtime),
                    any::name(m.report.protocol)
                )
            })
            .collect();
        ends.push(format!("downtime {}", inventory::listed(&downtimes)));
    }
    ends.push("verified: yes".into());
    println!("{}; {} in total", ends.join("; "), time(elapsed));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cli(words: &str) -> Cli {
        let words = ["demo"].into_iter().chain(words.split_whitespace());
        Cli::try_parse_from(words).unwrap()
    }

    #[test]
    fn mdma_is_the_default_and_moves_by_v1() {
        let settings = cli("").settings().unwrap();
        assert_eq!((&*settings.kind, settings.ram), ("256M", 16 << 20));
        assert_eq!(settings.protocol, Protocol::V1);
        let settings = cli("--memory 16M --protocol v2").settings().unwrap();
        assert_eq!(settings.kind, "16M");
        assert_eq!(settings.protocol, Protocol::V2);
    }

    #[test]
    fn another_device_moves_by_both() {
        let settings = cli("--device scratch").settings_of_any().unwrap();
        assert_eq!(settings.protocols, [Protocol::V1, Protocol::V2]);
        assert_eq!(settings.kind, None);
        let settings = cli("--device mnvme --type 256M --protocol v2");
        let settings = settings.settings_of_any().unwrap();
        assert_eq!(settings.protocols, [Protocol::V2]);
        assert_eq!(settings.kind.as_deref(), Some("256M"));
    }

    #[test]
    fn options_of_the_workload_are_mdmas() {
        for (option, name) in [("--ram 16M", "--ram"), ("--seconds 2", "--seconds")] {
            assert!(cli(option).settings().is_ok());
            let e = cli(&format!("--device mserial {option}"))
                .settings_of_any()
                .unwrap_err();
            let text = format!("{name} is about mdma's workload, which mserial does not have");
            assert_eq!(e.0, text);
        }
        for device in ["mdma", "mnvme"] {
            let cli = cli(&format!("--device {device} --used 4K"));
            let e = [cli.settings().err(), cli.settings_of_any().err()];
            assert!(e.iter().flatten().count() == 2, "{device}");
        }
    }
}
