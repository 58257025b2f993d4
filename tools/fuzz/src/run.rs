// SPDX-License-Identifier: GPL-2.0

//! The main loop: make a program, store it, run it, keep it if it reached something new.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::coverage::{self, Coverage};
use crate::failure::{Class, Failure};
use crate::generate::{first, generate, mutate};
use crate::minimise::minimise;
use crate::program::Program;
use crate::samples::Sample;
use crate::target::{Target, Trial};
use crate::worker::Settings;

/// Options of a run.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) seconds: u64,
    /// Maximum number of programs.
    pub(crate) programs: u64,
    pub(crate) seed: u64,
    /// The device that all programs begin with, if not each.
    pub(crate) device: Option<Sample>,
    /// Directory for files that must survive the machine.
    pub(crate) out: Option<PathBuf>,
    /// Directories of initial programs.
    pub(crate) corpus: Vec<PathBuf>,
    /// Run only these.
    pub(crate) distil: bool,
    /// As in [`Target`].
    pub(crate) limit: u64,
    pub(crate) settings: Settings,
}

/// Interval of progress lines.
const PROGRESS: Duration = Duration::from_secs(60);
/// The line between two programs of a file.
const SEPARATOR: &str = "---\n";
/// Programs in a row that begin with the same device, and so can share an instance.
const ROW: u64 = 16;
/// Repetitions of a failed program before it counts as failing only sometimes.
const TRIES: u32 = 5;

/// Counts of a run.
#[derive(Default)]
struct Counts {
    programs: u64,
    made: u64,
    empty: u64,
    /// Programs whose budget did not suffice, and that got the instance of the previous one.
    cut: u64,
    reused: u64,
    /// The longest time of a program.
    longest: Duration,
}

impl Counts {
    fn add(&mut self, trial: &Trial, took: Duration) {
        self.programs += 1;
        self.made += trial.made;
        self.empty += trial.empty;
        self.cut += u64::from(trial.cut);
        self.reused += u64::from(trial.reused);
        self.longest = self.longest.max(took);
    }
}

fn say(text: &str) {
    println!("fuzz: {text}");
}

/// Returns the settings, adapted to this kernel.
pub(crate) fn on_this_kernel(settings: Settings) -> Settings {
    Settings {
        modules: coverage::modules(),
        ..settings
    }
}

/// Writes a file of the run, if there is a directory.
fn keep(out: Option<&Path>, name: &str, text: &str) -> Result<(), String> {
    let Some(out) = out else { return Ok(()) };
    let path = out.join(name);
    let dir = path.parent().unwrap_or(out);
    fs::create_dir_all(dir)
        .and_then(|()| fs::write(&path, text))
        .map_err(|e| format!("{}: {e}", path.display()))
}

/// Reads the programs of some directories, the shortest first: a program is kept only if it reaches more.
fn load(dirs: &[PathBuf]) -> Vec<Program> {
    let entries = dirs.iter().flat_map(fs::read_dir).flatten().flatten();
    let mut texts: Vec<_> = entries
        .filter_map(|entry| fs::read_to_string(entry.path()).ok())
        .collect();
    texts.sort_by_cached_key(|text| (text.lines().count(), text.clone()));
    texts.dedup();
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

/// Returns the file of a program in the corpus. The same program has the same name in every run.
fn name(program: &Program) -> String {
    format!(
        "corpus/{:08x}",
        records::crc(program.to_string().as_bytes())
    )
}

/// Returns the generator of one program of a run, independent of the earlier ones.
fn generator(seed: u64, number: u64) -> Rng {
    Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number)
}

/// Returns the device that a program of a run begins with.
fn device(options: &Options, number: u64) -> Sample {
    let turn = number / ROW % Sample::COUNT as u64;
    options.device.unwrap_or(Sample::ALL[turn as usize])
}

/// Prints the programs that a run with this seed makes without coverage.
pub(crate) fn generate_all(options: &Options) {
    for number in 0..options.programs.min(1 << 20) {
        println!("# seed {} program {number}", options.seed);
        let first = device(options, number);
        print!("{}", generate(&mut generator(options.seed, number), first));
    }
}

/// Fuzzes; returns whether nothing was found.
pub(crate) fn fuzz(options: &Options) -> Result<bool, String> {
    let settings = on_this_kernel(options.settings);
    let mut target = Target::new(settings, options.limit).map_err(|e| e.to_string())?;
    let mut coverage = Coverage::new();
    let mut corpus: [Vec<Program>; Sample::COUNT] = Default::default();
    let mut waiting = load(&options.corpus);
    waiting.retain(|program| options.device.is_none_or(|sample| sample == first(program)));
    // The programs that have used the instance.
    let mut before: Vec<Program> = Vec::new();
    waiting.reverse();
    let mut counts = Counts::default();
    let size = |corpus: &[Vec<Program>]| corpus.iter().map(Vec::len).sum();
    let start = Instant::now();
    let mut told = start;
    say(&format!(
        "seed {}, {}, {} programs to begin with",
        options.seed,
        match settings.modules {
            Some(_) => "coverage by kcov",
            None => "blind: the kernel has no kcov",
        },
        waiting.len()
    ));
    let found = loop {
        let all = options.distil && waiting.is_empty();
        if all
            || start.elapsed().as_secs() >= options.seconds
            || counts.programs >= options.programs
        {
            break None;
        }
        let mut rng = generator(options.seed, counts.programs);
        let sample = device(options, counts.programs);
        let known = &corpus[sample as usize];
        let program = match waiting.pop() {
            Some(program) => program,
            None if !known.is_empty() && rng.u32(0..4) > 0 => {
                let (one, other) = (rng.usize(0..known.len()), rng.usize(0..known.len()));
                mutate(&mut rng, &known[one], &known[other])
            }
            None => generate(&mut rng, sample),
        };
        let head = format!("# seed {} program {}\n", options.seed, counts.programs);
        keep(
            options.out.as_deref(),
            "current",
            &format!("{head}{program}"),
        )?;
        let begin = Instant::now();
        let trial = target.run(&program).map_err(|e| e.to_string())?;
        counts.add(&trial, begin.elapsed());
        if !trial.reused {
            before.clear();
        }
        before.push(program.clone());
        if coverage.add(&trial.pcs) > 0 {
            let text = format!("# SPDX-License-Identifier: GPL-2.0\n{program}");
            keep(options.out.as_deref(), &name(&program), &text)?;
            corpus[first(&program) as usize].push(program.clone());
        }
        if let Some(failure) = trial.failures.first() {
            for failure in &trial.failures {
                say(&format!("FOUND {failure}"));
            }
            break Some((program, failure.clone()));
        }
        if told.elapsed() > PROGRESS {
            told = Instant::now();
            progress(&counts, &coverage, size(&corpus), start.elapsed());
            if settings.modules.is_some() {
                // A machine that is ended from outside has said what it reached.
                keep(options.out.as_deref(), "functions", &table(&coverage))?;
            }
        }
    };
    progress(&counts, &coverage, size(&corpus), start.elapsed());
    if settings.modules.is_some() {
        keep(options.out.as_deref(), "functions", &table(&coverage))?;
    }
    let Some((program, failure)) = found else {
        return Ok(true);
    };
    say(&format!(
        "seed {} program {}",
        options.seed,
        counts.programs - 1
    ));
    let texts: Vec<_> = before.iter().map(Program::to_string).collect();
    keep(options.out.as_deref(), "before", &texts.join(SEPARATOR))?;
    keep(
        options.out.as_deref(),
        "failure",
        &format!("# {failure}\n{program}"),
    )?;
    print!("{program}");
    drop(target);
    if failure.class != Class::Report || options.settings.plant.is_some() {
        shrink(&program, &failure, options)?;
    } else {
        say(
            "a kernel that has reported once is no longer to be trusted: minimise it in fresh ones",
        );
    }
    Ok(false)
}

/// Minimises on this machine.
fn shrink(program: &Program, failure: &Failure, options: &Options) -> Result<(), String> {
    let settings = on_this_kernel(options.settings);
    let mut target = Target::new(settings, options.limit).map_err(|e| e.to_string())?;
    let mut again = |candidate: &Program| -> Result<bool, String> {
        let trial = target.run(candidate).map_err(|e| e.to_string())?;
        Ok(trial.failures.iter().any(|f| f.class == failure.class))
    };
    let mut reproduced = false;
    for _ in 0..TRIES {
        reproduced = reproduced || again(program)?;
    }
    if !reproduced {
        say(&format!(
            "it did not fail again in {TRIES} times; the file `before` has the programs that used its instance before"
        ));
        return Ok(());
    }
    let least = minimise(program, &mut again)?;
    say(&format!("minimised to {} calls:", least.calls.len()));
    print!("{least}");
    keep(
        options.out.as_deref(),
        "minimised",
        &format!("# {failure}\n{least}"),
    )
}

/// Runs the programs of a file some times; returns whether nothing was found.
pub(crate) fn replay(path: &Path, times: u64, options: &Options) -> Result<bool, String> {
    let programs = read(path)?;
    let mut target =
        Target::new(on_this_kernel(options.settings), options.limit).map_err(|e| e.to_string())?;
    for time in 0..times {
        for program in &programs {
            let trial = target.run(program).map_err(|e| e.to_string())?;
            for failure in &trial.failures {
                say(&format!("FOUND {failure} (time {})", time + 1));
            }
            if !trial.failures.is_empty() {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Minimises with a command that gets the name of a program's file and fails if the program does.
pub(crate) fn minimise_with(path: &Path, command: &str, options: &Options) -> Result<(), String> {
    let programs = read(path)?;
    let [program] = &programs[..] else {
        return Err(format!(
            "{}: has {} programs",
            path.display(),
            programs.len()
        ));
    };
    let candidate = path.with_extension("candidate");
    let text = |e: std::io::Error| format!("{}: {e}", candidate.display());
    let mut tries = 0;
    let mut fails = |program: &Program| -> Result<bool, String> {
        fs::write(&candidate, program.to_string()).map_err(text)?;
        let status = Command::new("sh")
            .args(["-c", &format!("{command} \"$0\"")])
            .arg(&candidate)
            .status()
            .map_err(|e| format!("{command}: {e}"))?;
        let fails = !status.success();
        tries += 1;
        say(&format!(
            "try {tries}: {} calls, {}",
            program.calls.len(),
            if fails { "it fails" } else { "it does not" }
        ));
        Ok(fails)
    };
    if !fails(program)? {
        return Err("it does not fail".into());
    }
    let least = minimise(program, &mut fails)?;
    let _ = fs::remove_file(&candidate);
    print!("{least}");
    keep(options.out.as_deref(), "minimised", &least.to_string())
}

fn read(path: &Path) -> Result<Vec<Program>, String> {
    fs::read_to_string(path)
        .map_err(|e| format!("{}: {e}", path.display()))?
        .split(SEPARATOR)
        .map(str::parse)
        .collect()
}

fn progress(counts: &Counts, coverage: &Coverage, corpus: usize, elapsed: Duration) {
    let seconds = elapsed.as_secs_f64().max(0.001);
    let rate = |count: u64| count as f64 / seconds;
    let mut line = format!(
        "{:.0} s, {} programs ({:.1}/s, longest {:.1} s, {} cut, {} reused an instance), {} calls ({:.0}/s), {} not made",
        seconds,
        counts.programs,
        rate(counts.programs),
        counts.longest.as_secs_f64(),
        counts.cut,
        counts.reused,
        counts.made,
        rate(counts.made),
        counts.empty
    );
    if coverage.len() > 0 {
        line += &format!(", corpus {corpus}");
        for sample in Sample::ALL {
            let (branches, reached, all) = coverage.of(sample);
            line += &format!(
                ", {}: {branches} branches in {reached} of {all} functions",
                sample.name()
            );
        }
    }
    say(&line);
}

/// Lists the functions, unreached ones first.
fn table(coverage: &Coverage) -> String {
    let mut rows = coverage.table();
    rows.sort_by_key(|(_, _, count)| *count > 0);
    let lines: Vec<_> = rows
        .iter()
        .map(|(sample, name, count)| format!("{count:6} {} {name}", sample.name()))
        .collect();
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_can_be_read() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
        let files = fs::read_dir(&dir).unwrap().count();
        let programs = load(&[dir]);
        assert!(files > 0);
        assert_eq!(programs.len(), files);
        let lengths: Vec<_> = programs.iter().map(|program| program.calls.len()).collect();
        assert!(lengths.is_sorted(), "the shortest first");
    }

    #[test]
    fn a_program_has_one_name() {
        let text = "create i0 mdma-16M\n";
        let commented = format!("# why\n{text}");
        let [one, other] = [text, &commented].map(|text| name(&text.parse().unwrap()));
        assert_eq!(one, other);
    }
}
