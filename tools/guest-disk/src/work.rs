// SPDX-License-Identifier: GPL-2.0

//! The heartbeat, and the commands of the host.

use std::fs;
use std::time::Duration;

use guest::console::{Command, Console, Verify};
use guest::system;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::mount::{mount, MountFlags};
use serde::Serialize;

use crate::cli;
use crate::disk::Found;
use crate::fio::{Round, DEPTH, JOBS, WRITTEN};
use crate::log::Log;
use crate::wrong::Wrong;

/// The time between two heartbeats.
const BEAT: Duration = Duration::from_millis(250);
/// How long the driver may take to find the disk.
const PATIENCE: Duration = Duration::from_secs(300);

/// The disk is found, and the work begins.
#[derive(Serialize)]
struct Ready<'a> {
    event: &'static str,
    ms: u64,
    devices: usize,
    found: &'a [Found],
    irq: &'static str,
    jobs: u32,
    depth: u32,
    /// Right answers of `nvme-cli`.
    answers: usize,
}

/// An event with all counts.
#[derive(Serialize)]
struct Totals<'a> {
    event: &'static str,
    ms: u64,
    /// Read commands: fio has verified what they have read.
    verified: u64,
    jobs: u64,
    bytes: u64,
    discards: u64,
    interrupts: u64,
    rounds: u64,
    /// Blocks that fio has written, read back and found correct.
    blocks: u64,
    /// Verifications of the files of a round.
    passes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel_log: Option<&'a str>,
}

/// Works until the host asks for the end.
pub(crate) fn run(console: &mut Console) -> Result<(), Wrong> {
    for directory in ["/dev/shm", "/tmp"] {
        fs::create_dir_all(directory)?;
        mount("tmpfs", directory, "tmpfs", MountFlags::empty(), None)?;
    }
    let mut log = Log::open()?;
    let disk = find(console)?;
    let answers = cli::examine(&disk)?;
    disk.format()?;
    cli::smart(disk.counts()?, 0)?;
    let interrupts = fs::read_to_string("/proc/interrupts")?;
    let msix = interrupts
        .lines()
        .any(|line| line.contains("nvme0q") && line.contains("MSI"));
    console.tell(&Ready {
        event: "ready",
        ms: now(),
        devices: 1,
        found: std::slice::from_ref(&disk),
        irq: if msix { "msix" } else { "intx" },
        jobs: JOBS,
        depth: DEPTH,
        answers,
    })?;
    Worker {
        disk,
        round: None,
        rounds: 0,
        blocks: 0,
        passes: 0,
        asked: Vec::new(),
        answering: Vec::new(),
    }
    .run(console, &mut log)
}

/// Waits for the disk.
fn find(console: &mut Console) -> Result<Found, Wrong> {
    loop {
        if let Some(found) = Found::look()? {
            return Ok(found);
        }
        if system::now() > PATIENCE {
            return Err("the driver has found no NVMe disk".into());
        }
        wait(console, BEAT)?;
    }
}

/// Returns the milliseconds since the kernel started.
fn now() -> u64 {
    system::now().as_millis() as u64
}

/// Waits for a command of the host, or for the end of a time. Returns whether there is a command.
fn wait(console: &Console, time: Duration) -> Result<bool, Wrong> {
    let timeout = Timespec {
        tv_sec: time.as_secs() as i64,
        tv_nsec: time.subsec_nanos().into(),
    };
    Ok(poll(&mut [PollFd::new(console, PollFlags::IN)], Some(&timeout))? != 0)
}

/// The work.
struct Worker {
    disk: Found,
    /// The round of fio that runs, or its verification.
    round: Option<Round>,
    /// Rounds that have ended.
    rounds: u64,
    /// Blocks that were verified.
    blocks: u64,
    /// Verifications.
    passes: u64,
    /// Commands that wait for the end of the round.
    asked: Vec<Verify>,
    /// Commands that wait for its verification.
    answering: Vec<Verify>,
}

impl Worker {
    fn run(&mut self, console: &mut Console, log: &mut Log) -> Result<(), Wrong> {
        loop {
            if self.proceed()? {
                for verify in std::mem::take(&mut self.answering) {
                    match verify {
                        Verify::End => self.disk.finish()?,
                        Verify::Unbind => return Err("unbind: not for disks".into()),
                        Verify::Check | Verify::Mend => self.disk.check()?,
                    }
                    cli::smart(self.disk.counts()?, self.rounds * WRITTEN)?;
                    log.check()?;
                    if verify == Verify::End {
                        self.tell(console, "ended", Some("clean"))?;
                        return Ok(());
                    }
                    self.tell(console, "checked", None)?;
                }
                if let Some(round) = self.round.take() {
                    round.remove_files()?;
                }
                self.round = Some(Round::start(self.rounds + 1)?);
            }
            log.check()?;
            self.tell(console, "beat", None)?;
            if wait(console, BEAT)? {
                for command in console.commands()? {
                    match command {
                        Ok(Command::Verify(verify)) => self.asked.push(verify),
                        Ok(other) => return Err(format!("{other:?}: not for disks").into()),
                        Err(line) => return Err(format!("{line}: no command").into()),
                    }
                }
            }
        }
    }

    /// Returns whether nothing runs any more. If there are commands to answer, the files of the round are verified.
    fn proceed(&mut self) -> Result<bool, Wrong> {
        let Some(round) = &mut self.round else {
            return Ok(true);
        };
        let Some(verified) = round.has_ended()? else {
            return Ok(false);
        };
        self.blocks += verified;
        if round.only_verifies() {
            self.passes += 1;
            return Ok(true);
        }
        self.rounds += 1;
        if self.asked.is_empty() {
            return Ok(true);
        }
        self.answering = std::mem::take(&mut self.asked);
        self.round = self.round.take().map(Round::verify).transpose()?;
        Ok(false)
    }

    fn tell(
        &self,
        console: &mut Console,
        event: &'static str,
        kernel_log: Option<&str>,
    ) -> Result<(), Wrong> {
        let counts = self.disk.counts()?;
        Ok(console.tell(&Totals {
            event,
            ms: now(),
            verified: counts.reads,
            jobs: counts.reads + counts.writes,
            bytes: counts.bytes_read + counts.bytes_written,
            discards: counts.discards,
            interrupts: counts.interrupts,
            rounds: self.rounds,
            blocks: self.blocks,
            passes: self.passes,
            kernel_log,
        })?)
    }
}
