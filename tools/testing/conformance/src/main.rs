// SPDX-License-Identifier: GPL-2.0

//! Checks a migratable VFIO device against the UAPI, and prints the results as KTAP.

use std::process::ExitCode;

use clap::Parser;
use vfio_client::mdev::{Instance, Sysfs, Uuid};
use vfio_conformance::{checks, document, Access, Check, Fault, Subject};

/// Checks a migratable VFIO device against include/uapi/linux/vfio.h. Prints KTAP. Without --change, only checks that
/// read are run.
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
    /// A check that must fail, because the device is known to have this fault.
    #[arg(long, value_name = "CHECK")]
    known: Vec<String>,
    /// Print the table of checks as reStructuredText.
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
    let good = Subject::find(&name).map(|subject| report(&subject, options));
    created.as_ref().map_or(Ok(()), Instance::remove)?;
    good
}

fn report(subject: &Subject, options: &Options) -> bool {
    let chosen = |check: &&Check| options.change || check.access == Access::Read;
    let chosen: Vec<_> = checks().filter(chosen).collect();
    println!("KTAP version 1\n1..{}", chosen.len());
    let mut good = true;
    for (number, check) in (1..).zip(chosen) {
        let result = (check.run)(subject);
        let known = options.known.iter().any(|name| name == check.name);
        let (ok, note) = match &result {
            Ok(()) if known => (false, "  # expected the known fault; saw none".into()),
            Ok(()) => (true, String::new()),
            Err(fault @ Fault::Absent(_)) if !known => (true, format!(" # SKIP {fault}")),
            Err(fault @ Fault::Failed { .. }) if known => (true, format!("  # known: {fault}")),
            Err(fault) => (false, format!("  # {}: {fault}", check.symbol)),
        };
        let not = if ok { "" } else { "not " };
        println!("{not}ok {number} {}{note}", check.name);
        good &= ok;
    }
    good
}
