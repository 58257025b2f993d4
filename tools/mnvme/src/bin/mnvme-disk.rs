// SPDX-License-Identifier: GPL-2.0

//! Copies a raw disk image to or from an mnvme device that no VMM has open.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use mnvme::image;
use vfio_client::mdev::{Sysfs, Uuid};

/// Copies a raw disk image to or from an mnvme device that no VMM has open.
///
/// The device keeps the image when it is closed only while `keep_state` of the instance is 1, so `load` sets it. From
/// then on the next user of the device finds what the last one has left. Write 0 to `keep_state` to discard it.
#[derive(Debug, Parser)]
#[command(name = "mnvme-disk", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Copy an image to the device. Blocks behind its end become 0
    Load {
        /// The instance
        uuid: Uuid,
        /// The image
        image: PathBuf,
    },
    /// Copy the namespace to an image. Zeroes become holes of the file
    Store {
        /// The instance
        uuid: Uuid,
        /// The image to write
        image: PathBuf,
        /// Overwrite the image
        #[arg(long)]
        force: bool,
    },
}

fn main() -> ExitCode {
    match run(&Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mnvme-disk: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> mnvme::Result {
    let instance = |uuid| Sysfs::default().instance(uuid);
    match command {
        Command::Load { uuid, image } => image::load(&instance(uuid)?, image),
        Command::Store { uuid, image, force } => image::store(&instance(uuid)?, image, *force),
    }
}
