// SPDX-License-Identifier: GPL-2.0

//! Tests of the module on a running kernel.
//!
//! ```text
//! selftests [--module PATH [--params "NAME=VALUE ..."]] [--type MDEV-TYPE] [--timeout SECONDS]
//!           [--scripts DIRECTORY]
//!           [--jobs N] [--iterations N] [--gib N] [--kills N] [--attacks N] [--seed N]
//!           [--all] [--shard K/N] [PATTERN...]
//! selftests --list [--all] [--type MDEV-TYPE] [--shard K/N] [PATTERN...]
//! ```
//!
//! Most tests run on any device of the framework: `--type` names the mdev type, by default the smallest of `mdma`. Those
//! about `mdma` itself run only on that.
//!
//! `--scripts` names a directory with tests of a driver's own, see `mdev/script.rs`.
//!
//! The program runs as root on a kernel with `vfio`, `vfio_iommu_type1` and `mdev` loaded, and prints KTAP. A pattern is
//! a substring of a test's name, or a requirement such as `P3`. `--module` loads the module first and unloads it at the
//! end; tests that load it with other parameters need it. `--shard 1/3` runs the first, fourth, seventh, ... test, so
//! three machines can share the tests. A test declares what it needs beyond that; tests that cannot run on this machine are
//! left out, or with `--all` reported as skipped. The exit status is 1 if a test failed and 2 if the arguments are wrong.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

mod dirty;
mod dma;
mod env;
mod fail_nth;
mod fixture;
mod harness;
mod history;
mod hostile;
mod inject;
mod irq;
mod mdev;
mod memory;
mod mnvme;
mod pci;
mod stream;
mod tools;
mod trace;
mod v1;
mod v2;
mod vmm;
mod worker;

use kernel_utils::Kmsg;
use vfio_client::mdev::Sysfs;

use env::module::Module;
use env::Env;

use harness::limits::Limits;
use harness::report::diagnose;
use harness::result::Result;
use harness::shard::Shard;

/// The default time limit of one test.
const TIMEOUT: Duration = Duration::from_secs(900);

struct Options {
    list: bool,
    all: bool,
    module: Option<PathBuf>,
    params: String,
    timeout: Duration,
    limits: Limits,
    shard: Shard,
    patterns: Vec<String>,
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options {
        list: false,
        all: false,
        module: None,
        params: String::new(),
        timeout: TIMEOUT,
        limits: Limits::default(),
        shard: Shard::default(),
        patterns: Vec::new(),
    };
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            "--list" => options.list = true,
            "--all" => options.all = true,
            "--module" => options.module = Some(value()?.into()),
            "--scripts" => env::scripts::set(value()?.into()),
            "--params" => options.params = value()?,
            "--timeout" => {
                let text = value()?;
                let seconds = text.parse().map_err(|e| format!("--timeout {text}: {e}"))?;
                options.timeout = Duration::from_secs(seconds);
            }
            "--shard" => options.shard = value()?.parse()?,
            _ if options.limits.option(&arg, value)? => {}
            _ if arg.starts_with('-') => return Err(format!("unknown option {arg}")),
            _ => options.patterns.push(arg),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [child, args @ ..] = &args[..] {
        if child == "--child" {
            return fixture::child::main(args);
        }
    }
    let options = match parse(args.into_iter()) {
        Ok(options) => options,
        Err(e) => {
            eprintln!("selftests: {e}");
            return ExitCode::from(2);
        }
    };
    if options.list {
        let mdev_type = &options.limits.mdev_type;
        let tests = harness::catalog::select_for(&options.patterns, mdev_type, options.all);
        for test in options.shard.of(tests) {
            println!("{} {}", test.name, test.proves.join(" "));
        }
        return ExitCode::SUCCESS;
    }
    if harness::catalog::select(&options.patterns).is_empty() {
        eprintln!("selftests: no test matches {}", options.patterns.join(" "));
        return ExitCode::from(2);
    }
    match run(options) {
        Ok(failed) => ExitCode::from(u8::from(failed)),
        Err(e) => {
            println!("Bail out! {e}");
            ExitCode::FAILURE
        }
    }
}

/// Returns the name of the module in a file.
fn module_name(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default();
    stem.to_string_lossy().replace('-', "_")
}

/// Runs the tests; returns whether any failed.
fn run(options: Options) -> Result<bool> {
    let ours = options.module.is_some();
    let name = match &options.module {
        Some(path) => module_name(path),
        None => {
            Sysfs::default()
                .find_type(&options.limits.mdev_type)?
                .parent
        }
    };
    let env = Env {
        module: Module::new(name, options.module, options.params),
        kmsg: Kmsg::open()?,
        sysfs: Sysfs::default(),
        limits: options.limits,
    };
    if ours && env.module.is_loaded() {
        fail!("the module is already loaded");
    }
    if ours {
        env.module.load()?;
    }
    env::facts::find(&env.open_subject()?)?;
    let tests = harness::catalog::select_for(&options.patterns, env.subject(), options.all);
    let tests = options.shard.of(tests);
    let totals = harness::run(&env, &tests, options.timeout);
    let mut failed = totals.failed > 0;
    if ours {
        if let Err(e) = env.module.unload() {
            diagnose(&format!("the module cannot be unloaded: {e}"));
            failed = true;
        }
    }
    Ok(failed)
}
