// SPDX-License-Identifier: GPL-2.0

//! Fuzzer: random programs of calls, over everything that a user of the device can reach.
//!
//! ```text
//! fuzz [--seconds N] [--programs N] [--seed N] [--device NAME] [--module PATH]... [--out DIR]
//!      [--corpus DIR]... [--budget MS] [--limit SECONDS] [--distil] [--plant CLASS]
//! fuzz --generate [--seed N] [--programs N] [--device NAME]
//! fuzz --replay FILE [--times N] [--verbose] [--module PATH]...
//! fuzz --minimise FILE --with COMMAND [--out DIR]
//! ```
//!
//! It runs as root, with `vfio`, `vfio_iommu_type1` and `mdev` loaded, on a kernel that it may crash. `--module` loads
//! a module first; programs use those of all devices. With `--device`, all programs begin with an instance of that
//! device, otherwise 16 in a row with each. `--out` keeps the running program in `DIR/current`, which survives the machine. `--minimise` runs
//! anywhere: it appends the name of a program's file to COMMAND, which fails if the program does.
//!
//! It begins with the programs in `--corpus`, the shortest first, and adds programs that reach new code to
//! `--out`/corpus. With `--distil`, it ends after them: `--out`/corpus has those that are needed.
//!
//! `--budget` is the time after which a program makes no more calls; 0 is no limit. Programs share an instance where
//! they leave it open, so a failure may need the programs before it: `--out`/before has them. A file can have several
//! programs, separated by lines of `---`.
//!
//! `--limit` is the time without output after which a program counts as hung. Each second counts only once some work
//! was done in it, because a busy host gives the VM little time. `--plant` fails on purpose after a device reset, to
//! test that the fuzzer detects it.
//!
//! The exit status is 1 after a finding, and 2 for wrong usage or if the fuzzer cannot run.

#![forbid(unsafe_code)]

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use kernel_utils::module;

mod budget;
mod bytes;
mod calls;
mod coverage;
mod disturb;
mod domain;
mod ended;
mod failure;
mod generate;
mod grammar;
mod ground;
mod health;
mod kept;
mod minimise;
mod patience;
mod program;
mod removal;
mod run;
mod samples;
mod second;
mod server;
mod target;
mod trace;
mod worker;
mod world;

use failure::Class;
use run::Options;
use samples::{mserial, Sample};
use worker::{Modules, Settings};

/// The task.
enum Task {
    Fuzz,
    Generate,
    Replay(PathBuf),
    Minimise(PathBuf),
    Worker,
    /// With the end of its budget.
    Second(Option<u64>),
    Remove,
    /// With the call that waits.
    HostEnd(String),
}

struct Arguments {
    task: Task,
    options: Options,
    modules: Vec<PathBuf>,
    times: u64,
    with: Option<String>,
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut parsed = Arguments {
        task: Task::Fuzz,
        options: Options {
            seconds: 60,
            programs: u64::MAX,
            seed: 1,
            device: None,
            out: None,
            corpus: Vec::new(),
            distil: false,
            limit: 600,
            settings: Settings::default(),
        },
        modules: Vec::new(),
        times: 1,
        with: None,
    };
    let options = &mut parsed.options;
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        let number = |text: String| text.parse().map_err(|e| format!("{text}: {e}"));
        match arg.as_str() {
            "--seconds" => options.seconds = number(value()?)?,
            "--programs" => options.programs = number(value()?)?,
            "--seed" => options.seed = number(value()?)?,
            "--limit" => options.limit = number(value()?)?,
            "--out" => options.out = Some(value()?.into()),
            "--corpus" => options.corpus.push(value()?.into()),
            "--distil" => options.distil = true,
            "--budget" => options.settings.limit = budget(number(value()?)?),
            "--module" => parsed.modules.push(value()?.into()),
            "--device" => {
                let word = value()?;
                let sample = Sample::named(&word).ok_or_else(|| format!("no device {word}"))?;
                options.device = Some(sample);
            }
            "--verbose" => options.settings.verbose = true,
            "--plant" => {
                let word = value()?;
                let class = Class::named(&word).ok_or_else(|| format!("no class {word}"))?;
                options.settings.plant = Some(class);
            }
            "--generate" => parsed.task = Task::Generate,
            "--replay" => parsed.task = Task::Replay(value()?.into()),
            "--minimise" => parsed.task = Task::Minimise(value()?.into()),
            "--times" => parsed.times = number(value()?)?,
            "--with" => parsed.with = Some(value()?),
            "--worker" => parsed.task = Task::Worker,
            "--remove" => parsed.task = Task::Remove,
            "--second" => parsed.task = Task::Second(None),
            _ => match arg.split_once('=') {
                Some(("--module-text", text)) => options.settings.modules = ranges(text),
                Some(("--budget", text)) => options.settings.limit = budget(number(text.into())?),
                Some(("--host-end", call)) => parsed.task = Task::HostEnd(call.into()),
                Some(("--until", text)) => parsed.task = Task::Second(Some(number(text.into())?)),
                _ => return Err(format!("unknown option {arg}")),
            },
        }
    }
    Ok(parsed)
}

/// Returns the limit in milliseconds, `None` for 0.
fn budget(limit: u64) -> Option<u64> {
    (limit > 0).then_some(limit)
}

/// Parses the address ranges of the modules.
fn ranges(text: &str) -> Option<Modules> {
    let ranges: Option<Vec<_>> = text.split(',').map(range).collect();
    ranges?.try_into().ok()
}

/// Parses an address range.
fn range(text: &str) -> Option<(u64, u64)> {
    let (start, end) = text.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    Some((number(start)?, number(end)?))
}

fn run(args: Arguments) -> Result<bool, String> {
    for path in &args.modules {
        module::load(path, "").map_err(|e| format!("load {}: {e}", path.display()))?;
    }
    let mut content = run_task(&args)?;
    for path in &args.modules {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        // The module has no user any more. If it cannot be unloaded, a reference to it has leaked.
        if let (Err(e), true) = (module::unload(&name), content) {
            println!("fuzz: FOUND leak: the module {name} cannot be unloaded: {e}");
            content = false;
        }
    }
    Ok(content)
}

fn run_task(args: &Arguments) -> Result<bool, String> {
    let options = &args.options;
    match &args.task {
        Task::Fuzz => run::fuzz(options),
        Task::Generate => {
            run::generate_all(options);
            Ok(true)
        }
        Task::Replay(path) => run::replay(path, args.times, options),
        Task::Minimise(path) => {
            let with = args.with.as_deref().ok_or("--minimise needs --with")?;
            run::minimise_with(path, with, options).map(|()| true)
        }
        Task::Worker => worker::main(options.settings).map(|()| true),
        Task::Second(until) => server::main(*until).map(|()| true),
        Task::Remove => removal::main().map(|()| true),
        Task::HostEnd(call) => mserial::main(call).map(|()| true),
    }
}

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)).and_then(run) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            // One write, because several processes share the terminal and each may be killed.
            let _ = std::io::stderr().write_all(format!("fuzz: {e}\n").as_bytes());
            ExitCode::from(2)
        }
    }
}
