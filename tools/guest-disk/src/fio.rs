// SPDX-License-Identifier: GPL-2.0

//! The rounds of fio. Each writes files at random, reads them back meanwhile and at the end, and checks every block.

use std::fs::{self, File};
use std::io;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::disk::MOUNT;
use crate::wrong::Wrong;

/// What fio says if something is wrong.
const SAID: &str = "/tmp/fio";
/// Its report.
const REPORT: &str = "/tmp/fio.json";

/// Jobs of a round.
pub(crate) const JOBS: u32 = 4;
/// MiB that each job writes.
const SIZE: u32 = 2;
/// Bytes that a round writes.
pub(crate) const WRITTEN: u64 = (JOBS as u64 * SIZE as u64) << 20;
/// Commands in flight of each job.
pub(crate) const DEPTH: u32 = 32;

/// Returns the command that writes the files of a round, or with `only` the one that verifies them.
fn command(seed: u64, only: bool) -> Command {
    let mut command = Command::new("/usr/bin/fio");
    command
        .args([
            "--name=verify",
            "--thread",
            "--direct=1",
            "--ioengine=libaio",
            "--rw=randwrite",
            "--bsrange=4k-32k",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--verify_state_save=0",
            "--fallocate=none",
            "--output-format=json",
        ])
        .args([
            format!("--output={REPORT}"),
            format!("--directory={MOUNT}"),
            format!("--numjobs={JOBS}"),
            format!("--iodepth={DEPTH}"),
            format!("--size={SIZE}m"),
            format!("--randseed={seed}"),
        ])
        .arg(match only {
            true => "--verify_only=1",
            false => "--verify_backlog=16",
        })
        .stdin(Stdio::null());
    command
}

/// A round.
pub(crate) struct Round {
    child: Child,
    seed: u64,
    /// It verifies what it has written before.
    only: bool,
}

impl Round {
    /// Starts a round with this seed.
    pub(crate) fn start(seed: u64) -> Result<Self, Wrong> {
        Self::spawn(seed, false)
    }

    /// Reads the files of the round, which has ended, and checks every block once more.
    pub(crate) fn verify(self) -> Result<Self, Wrong> {
        Self::spawn(self.seed, true)
    }

    fn spawn(seed: u64, only: bool) -> Result<Self, Wrong> {
        let said = File::create(SAID)?;
        let child = command(seed, only)
            .stdout(said.try_clone()?)
            .stderr(said)
            .spawn()
            .map_err(|e| format!("fio: {e}"))?;
        Ok(Round { child, seed, only })
    }

    /// Returns whether it is the verification of a round.
    pub(crate) fn only_verifies(&self) -> bool {
        self.only
    }

    /// Returns how many blocks were verified if it has ended, and fails if there was an error.
    pub(crate) fn has_ended(&mut self) -> Result<Option<u64>, Wrong> {
        let Some(status) = self.child.try_wait()? else {
            return Ok(None);
        };
        if status.success() {
            return Ok(Some(report(&fs::read_to_string(REPORT)?)?));
        }
        let said = fs::read_to_string(SAID).unwrap_or_default();
        let lines: Vec<&str> = said.lines().take(12).collect();
        Err(format!("fio: {status}: {}", lines.join(" | ")).into())
    }

    /// Removes the files of the round, which deallocates their blocks.
    pub(crate) fn remove_files(self) -> io::Result<()> {
        for entry in fs::read_dir(MOUNT)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with("verify.") {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}

/// Reads a report: there are all jobs, none has an error, each has read all that it has written, and has had its whole
/// depth in flight. Returns how many blocks were verified.
fn report(text: &str) -> Result<u64, Wrong> {
    let report: Value = serde_json::from_str(text).map_err(|e| format!("fio's report: {e}"))?;
    let jobs = report["jobs"].as_array().map_or(&[][..], Vec::as_slice);
    if jobs.len() != JOBS as usize {
        return Err(format!("fio reports {} of {JOBS} jobs", jobs.len()).into());
    }
    let mut verified = 0;
    for (number, job) in jobs.iter().enumerate() {
        let wrong = |what: String| Wrong::from(format!("job {number} of fio: {what}"));
        let count = |of: &Value, what: &str| {
            let count = of[what].as_u64();
            count.ok_or_else(|| wrong(format!("its report has no {what}: {of}")))
        };
        if count(job, "error")? != 0 {
            return Err(wrong(format!("error {}", job["error"])));
        }
        let read = count(&job["read"], "total_ios")?;
        // A verification counts those of the round.
        let written = count(&job["write"], "total_ios")?;
        if read < written || written == 0 {
            return Err(wrong(format!("{written} blocks written, {read} verified")));
        }
        let levels = &job["iodepth_level"];
        let deep = levels[DEPTH.to_string()].as_f64();
        if deep.unwrap_or(0.0) <= 0.0 {
            return Err(wrong(format!("never {DEPTH} commands in flight: {levels}")));
        }
        verified += read;
    }
    Ok(verified)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn job(error: u64, read: u64, written: u64, deep: f64) -> Value {
        json!({
            "error": error,
            "read": { "total_ios": read },
            "write": { "total_ios": written },
            "iodepth_level": { "1": 0.1, "16": 40.0, "32": deep },
        })
    }

    fn of(jobs: &[Value]) -> Result<u64, String> {
        let text = json!({ "fio version": "fio-3.39", "jobs": jobs }).to_string();
        report(&text).map_err(|wrong| wrong.to_string())
    }

    #[test]
    fn verified_blocks_are_counted() {
        let jobs = [1, 2, 3, 4].map(|n| job(0, 100 + n, 100 + n, 55.0));
        assert_eq!(of(&jobs), Ok(410));
    }

    #[test]
    fn what_is_missing_is_an_error() {
        let good = || job(0, 100, 100, 55.0);
        for (bad, what) in [
            (job(84, 100, 100, 55.0), "error 84"),
            (job(0, 99, 100, 55.0), "100 blocks written, 99 verified"),
            (job(0, 0, 0, 55.0), "0 blocks written"),
            (job(0, 100, 100, 0.0), "never 32 commands"),
            (json!({ "error": 0 }), "no total_ios"),
        ] {
            let said = of(&[good(), good(), bad, good()]).unwrap_err();
            assert!(
                said.starts_with("job 2 of fio") && said.contains(what),
                "{said}"
            );
        }
        assert!(of(&[good(), good(), good()]).is_err());
        assert!(report("fio: bad option").is_err());
    }
}
