// SPDX-License-Identifier: GPL-2.0

//! The rounds of fio. Each writes files at random and reads them back, and checks every block.

use std::fs::{self, File};
use std::io;
use std::process::{Child, Command, Stdio};

use crate::disk::MOUNT;
use crate::wrong::Wrong;

/// Where fio's output is.
const OUTPUT: &str = "/tmp/fio";

/// Jobs of a round.
pub(crate) const JOBS: u32 = 4;
/// Commands in flight of each job.
pub(crate) const DEPTH: u32 = 32;

/// A round.
pub(crate) struct Round(Child);

impl Round {
    /// Starts a round with this seed.
    pub(crate) fn start(seed: u64) -> Result<Self, Wrong> {
        let output = File::create(OUTPUT)?;
        let child = Command::new("/usr/bin/fio")
            .args([
                "--name=verify",
                "--thread",
                "--direct=1",
                "--ioengine=libaio",
                "--rw=randrw",
                "--bsrange=4k-64k",
                "--size=2m",
                "--verify=crc32c",
                "--verify_fatal=1",
                "--verify_backlog=64",
                "--fallocate=none",
                "--group_reporting",
            ])
            .args([
                format!("--directory={MOUNT}"),
                format!("--numjobs={JOBS}"),
                format!("--iodepth={DEPTH}"),
                format!("--randseed={seed}"),
            ])
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .map_err(|e| format!("fio: {e}"))?;
        Ok(Round(child))
    }

    /// Returns whether the round has ended, and fails if it found an error.
    pub(crate) fn has_ended(&mut self) -> Result<bool, Wrong> {
        match self.0.try_wait()? {
            None => Ok(false),
            Some(status) if status.success() => {
                remove_files()?;
                Ok(true)
            }
            Some(status) => {
                let text = fs::read_to_string(OUTPUT).unwrap_or_default();
                let lines: Vec<&str> = text.lines().take(12).collect();
                Err(format!("fio: {status}: {}", lines.join(" | ")).into())
            }
        }
    }
}

/// Removes the files of the round, which deallocates their blocks.
fn remove_files() -> io::Result<()> {
    for entry in fs::read_dir(MOUNT)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("verify.") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
