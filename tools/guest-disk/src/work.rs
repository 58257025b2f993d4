// SPDX-License-Identifier: GPL-2.0

//! The heartbeat, and the commands of the host.

use std::fs;
use std::time::Duration;

use guest::console::{Command, Console, Verify};
use guest::system;
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::mount::{mount, MountFlags};
use serde::Serialize;

use crate::disk::{ask, Found};
use crate::fio::{Round, DEPTH, JOBS};
use crate::log::Log;
use crate::wrong::Wrong;

/// The time between two heartbeats.
const BEAT: Duration = Duration::from_millis(250);
/// How long the driver may take to find the disk.
const PATIENCE: Duration = Duration::from_secs(300);

/// What `nvme` is asked once at the start, whether it must succeed, and a word of the answer.
const QUESTIONS: [(&[&str], bool, &str); 8] = [
    (&["list"], true, "/dev/nvme0n1"),
    (&["id-ctrl", "/dev/nvme0"], true, "sqes      : 0x66"),
    (&["id-ns", "/dev/nvme0n1"], true, "lbads:9"),
    (&["smart-log", "/dev/nvme0"], true, "critical_warning"),
    (&["error-log", "/dev/nvme0"], true, "error_count"),
    (&["fw-log", "/dev/nvme0"], true, "frs1"),
    (
        &["get-feature", "/dev/nvme0", "-f", "7"],
        true,
        "Number of Queues",
    ),
    // The controller has no such command.
    (&["format", "/dev/nvme0n1", "--force"], false, ""),
];

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
    disk.format()?;
    for (question, succeeds, word) in QUESTIONS {
        let (success, text) = ask("/usr/sbin/nvme", question)?;
        if success != succeeds || !text.contains(word) {
            return Err(format!("nvme {}: {text}", question.join(" ")).into());
        }
    }
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
    })?;
    Worker {
        disk,
        round: None,
        rounds: 0,
        asked: Vec::new(),
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
    /// The round of fio that runs.
    round: Option<Round>,
    /// Rounds that have ended.
    rounds: u64,
    /// Commands that wait for the end of the round.
    asked: Vec<Verify>,
}

impl Worker {
    fn run(&mut self, console: &mut Console, log: &mut Log) -> Result<(), Wrong> {
        loop {
            if let Some(round) = &mut self.round {
                if round.has_ended()? {
                    self.round = None;
                    self.rounds += 1;
                }
            }
            if self.round.is_none() {
                for verify in std::mem::take(&mut self.asked) {
                    match verify {
                        Verify::End => self.disk.finish()?,
                        Verify::Check | Verify::Mend => self.disk.check()?,
                    }
                    log.check()?;
                    if verify == Verify::End {
                        self.tell(console, "ended", Some("clean"))?;
                        return Ok(());
                    }
                    self.tell(console, "checked", None)?;
                }
                self.round = Some(Round::start(self.rounds + 1)?);
            }
            log.check()?;
            self.tell(console, "beat", None)?;
            if wait(console, BEAT)? {
                for command in console.commands()? {
                    match command {
                        Ok(Command::Verify(verify)) => self.asked.push(verify),
                        Ok(Command::Hold) => return Err("hold: not for disks".into()),
                        Err(line) => return Err(format!("{line}: no command").into()),
                    }
                }
            }
        }
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
            bytes: counts.bytes,
            discards: counts.discards,
            interrupts: counts.interrupts,
            rounds: self.rounds,
            kernel_log,
        })?)
    }
}
