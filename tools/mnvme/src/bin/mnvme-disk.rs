// SPDX-License-Identifier: GPL-2.0

//! Copies a raw disk image to or from an mnvme device that no VMM has open.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use mnvme::Disk;
use vfio_client::mdev::{Instance, Sysfs, Uuid};

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

/// What went wrong.
type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Load { uuid, image } => load(&uuid, &image),
        Command::Store { uuid, image, force } => store(&uuid, &image, force),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mnvme-disk: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Adds the path to an error of a file.
fn of(path: &Path) -> impl Fn(io::Error) -> Failure + '_ {
    move |error| format!("{}: {error}", path.display()).into()
}

fn instance(uuid: &Uuid) -> Result<Instance, Failure> {
    Ok(Sysfs::default().instance(uuid)?)
}

/// Returns whether all bytes are 0.
fn is_zero(data: &[u8]) -> bool {
    data.iter().all(|byte| *byte == 0)
}

fn load(uuid: &Uuid, path: &Path) -> Result<(), Failure> {
    let mut image = File::open(path).map_err(of(path))?;
    let len = image.seek(SeekFrom::End(0)).map_err(of(path))?;
    image.seek(SeekFrom::Start(0)).map_err(of(path))?;
    let instance = instance(uuid)?;
    let device = instance.open_alone()?;
    let mut disk = Disk::open(&device)?;
    if len > disk.size() {
        let size = disk.size();
        return Err(format!("{}: {len} bytes, the namespace has {size}", path.display()).into());
    }
    let mut buffer = vec![0; Disk::TRANSFER_MAX];
    for at in (0..disk.size()).step_by(buffer.len()) {
        let data = &mut buffer[..(disk.size() - at).min(Disk::TRANSFER_MAX as u64) as usize];
        let part = len.saturating_sub(at).min(data.len() as u64) as usize;
        image.read_exact(&mut data[..part]).map_err(of(path))?;
        data[part..].fill(0);
        if is_zero(data) {
            disk.zero(at, data.len())?;
        } else {
            disk.write(at, data)?;
        }
    }
    disk.close()?;
    // Only a complete image survives the close.
    Ok(instance.keep_state(true)?)
}

fn store(uuid: &Uuid, path: &Path, force: bool) -> Result<(), Failure> {
    let instance = instance(uuid)?;
    let device = instance.open_alone()?;
    let mut disk = Disk::open(&device)?;
    let mut options = File::options();
    options
        .write(true)
        .create_new(!force)
        .create(force)
        .truncate(force);
    let mut image = options.open(path).map_err(of(path))?;
    image.set_len(disk.size()).map_err(of(path))?;
    let mut buffer = vec![0; Disk::TRANSFER_MAX];
    for at in (0..disk.size()).step_by(buffer.len()) {
        let data = &mut buffer[..(disk.size() - at).min(Disk::TRANSFER_MAX as u64) as usize];
        disk.read(at, data)?;
        if !is_zero(data) {
            image.seek(SeekFrom::Start(at)).map_err(of(path))?;
            image.write_all(data).map_err(of(path))?;
        }
    }
    image.sync_all().map_err(of(path))?;
    Ok(disk.close()?)
}
