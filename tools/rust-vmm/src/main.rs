// SPDX-License-Identifier: GPL-2.0

//! A small VMM on rust-vmm's crates. It migrates an `mdma` device in the order of calls of Cloud Hypervisor, and prints
//! the results as KTAP.

mod cases;
mod dirty_log;
mod error;
mod hypervisor;
mod logs;
mod machine;
mod migratable;
mod moves;
mod ram;
mod refusals;
mod setup;
mod transport;
mod work;

use std::process::ExitCode;

use clap::Parser;

use crate::cases::CASES;
use crate::setup::Setup;

/// Migrates an mdma device by vfio-ioctls and vm-memory, in the order of calls of Cloud Hypervisor. Prints KTAP.
#[derive(Parser)]
#[command(name = "rust-vmm")]
struct Options {
    /// Only the cases whose name contains one of these words.
    case: Vec<String>,
    /// Load this kernel module first.
    #[arg(long, value_name = "KO")]
    module: Option<String>,
    /// The mdev type of the device.
    #[arg(long, value_name = "TYPE", default_value = "mdma-16M")]
    mdev_type: String,
    /// A type of another size, which must refuse the data of the first.
    #[arg(long, value_name = "TYPE", default_value = "mdma-256M")]
    other_type: String,
    /// The kernel has iommufd's bitmaps, so that the device logs its DMA.
    #[arg(long)]
    dma_log: bool,
    /// Use KVM: it is told about the device, and a processor accesses device memory.
    #[arg(long)]
    kvm: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(module) = &options.module {
        if let Err(e) = kernel_utils::module::ensure(module, "") {
            println!("Bail out! module {module}: {e}");
            return ExitCode::FAILURE;
        }
    }
    let setup = Setup {
        mdev_type: options.mdev_type,
        other_type: options.other_type,
        dma_log: options.dma_log,
        kvm: options.kvm,
    };
    let named = |name: &str| {
        options.case.is_empty() || options.case.iter().any(|word| name.contains(word.as_str()))
    };
    let chosen: Vec<_> = CASES
        .iter()
        .filter(|case| (case.on)(&setup) && named(case.name))
        .collect();
    println!("KTAP version 1\n1..{}", chosen.len());
    let mut failed = chosen.is_empty();
    for (number, case) in (1..).zip(chosen) {
        match (case.run)(&setup) {
            Ok(()) => println!("ok {number} {}", case.name),
            Err(e) => {
                failed = true;
                println!("# {e}\nnot ok {number} {}", case.name);
            }
        }
    }
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
