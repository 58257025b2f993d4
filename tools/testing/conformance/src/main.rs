// SPDX-License-Identifier: GPL-2.0

//! Checks a migratable VFIO device against the UAPI, and prints the results as KTAP.

use std::process::ExitCode;

use clap::Parser;
use vfio_client::mdev::{Instance, Sysfs, Uuid};
use vfio_conformance::{checks, document, Access, Check, Fault, Subject};

/// Checks a migratable VFIO device against include/uapi/linux/vfio.h. Prints KTAP, or a table. Without --change, only
/// checks that read are run.
#[derive(Parser)]
#[command(name = "vfio-conformance")]
struct Options {
    /// The device: the UUID of an mdev, or a name on the PCI or platform bus.
    #[arg(required_unless_present_any = ["create", "document"])]
    device: Option<String>,
    /// Create an mdev of this type, check it, and remove it.
    #[arg(long, value_name = "TYPE", conflicts_with = "device")]
    create: Option<String>,
    /// Load this kernel module first.
    #[arg(long, value_name = "KO")]
    module: Option<String>,
    /// Also run the checks that change the migration state and reset the device. What is in the device is lost.
    #[arg(long)]
    change: bool,
    /// Open the device through its own file in /dev/vfio/devices, with iommufd, instead of through its group.
    #[arg(long)]
    cdev: bool,
    /// A check that must fail, because the device is known to have this fault.
    #[arg(long, value_name = "CHECK")]
    known: Vec<String>,
    /// Print a table instead of KTAP.
    #[arg(long)]
    table: bool,
    /// Print the list of checks as reStructuredText.
    #[arg(long)]
    document: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if options.document {
        print!("{}", document());
        return ExitCode::SUCCESS;
    }
    match run(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            println!("Bail out! {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether each check had the result that was expected.
fn run(options: &Options) -> vfio_client::Result<bool> {
    let unknown = |name: &&String| !checks().any(|c| c.name == name.as_str());
    if let Some(name) = options.known.iter().find(unknown) {
        return Err(vfio_client::Error::not_found(
            format!("check {name}"),
            "there is no such check",
        ));
    }
    if let Some(module) = &options.module {
        kernel_utils::module::ensure(module, "")
            .map_err(|e| vfio_client::Error::new(format!("module {module}"), e))?;
    }
    let created = match &options.create {
        Some(name) => Some(Sysfs::default().find_type(name)?.create(&Uuid::random()?)?),
        None => None,
    };
    let name = match &created {
        Some(instance) => instance.uuid.to_string(),
        None => options.device.clone().unwrap_or_default(),
    };
    let subject = match options.cdev {
        true => Subject::find(&name).and_then(Subject::through_cdev),
        false => Subject::find(&name),
    };
    let good = subject.map(|subject| report(&subject, options));
    created.as_ref().map_or(Ok(()), Instance::remove)?;
    good
}

/// Runs the checks, and returns whether each had the result that was expected.
fn report(subject: &Subject, options: &Options) -> bool {
    let chosen = |check: &&Check| options.change || check.access == Access::Read;
    let chosen: Vec<_> = checks().filter(chosen).collect();
    if !options.table {
        println!("KTAP version 1\n1..{}", chosen.len());
    }
    let mut bad = 0;
    for (number, check) in (1..).zip(&chosen) {
        let result = (check.run)(subject);
        let known = options.known.iter().any(|name| name == check.name);
        let verdict = Verdict::of(&result, known);
        bad += u32::from(!verdict.is_good());
        match options.table {
            true => print_row(check, verdict, &result),
            false => print_ktap(number, check, verdict, &result),
        }
    }
    if options.table {
        println!(
            "{} checks, {bad} with another result than expected",
            chosen.len()
        );
    }
    bad == 0
}

/// What a result means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Passed,
    Failed,
    Skipped,
    /// It failed, as was known.
    Known,
    /// It is known to fail, and did not.
    Mended,
}

impl Verdict {
    fn of(result: &Result<(), Fault>, known: bool) -> Self {
        match result {
            Ok(()) if known => Verdict::Mended,
            Ok(()) => Verdict::Passed,
            Err(Fault::Absent(_)) if !known => Verdict::Skipped,
            Err(Fault::Failed { .. }) if known => Verdict::Known,
            Err(_) => Verdict::Failed,
        }
    }

    fn is_good(self) -> bool {
        !matches!(self, Verdict::Failed | Verdict::Mended)
    }

    fn name(self) -> &'static str {
        match self {
            Verdict::Passed => "passed",
            Verdict::Failed => "FAILED",
            Verdict::Skipped => "skipped",
            Verdict::Known => "known",
            Verdict::Mended => "MENDED",
        }
    }
}

/// The lines that explain a failure: the line of the UAPI, what it demands and what the device did.
fn explain(check: &Check, result: &Result<(), Fault>) -> Vec<String> {
    match result {
        Ok(()) => vec!["the check is known to fail, and did not".into()],
        Err(Fault::Failed { expected, seen }) => vec![
            check.line.to_string(),
            format!("expected {expected}"),
            format!("saw {seen}"),
        ],
        Err(fault) => vec![check.line.to_string(), fault.to_string()],
    }
}

fn print_ktap(number: u32, check: &Check, verdict: Verdict, result: &Result<(), Fault>) {
    let name = check.name;
    match (verdict, result) {
        (Verdict::Passed, _) => println!("ok {number} {name}"),
        (Verdict::Skipped, Err(fault)) => println!("ok {number} {name} # SKIP {fault}"),
        _ => {
            for line in explain(check, result) {
                println!("# {line}");
            }
            let not = if verdict.is_good() { "" } else { "not " };
            println!("{not}ok {number} {name}");
        }
    }
}

fn print_row(check: &Check, verdict: Verdict, result: &Result<(), Fault>) {
    println!("{:<24} {}", check.name, verdict.name());
    match (verdict, result) {
        (Verdict::Passed, _) => {}
        (Verdict::Skipped, Err(fault)) => println!("    {fault}"),
        _ => {
            for line in explain(check, result) {
                println!("    {line}");
            }
        }
    }
}
