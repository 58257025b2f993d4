// SPDX-License-Identifier: GPL-2.0

//! Memory that the kernel repeatedly swaps out.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::env::pins::field;
use crate::harness::check::wait_for;
use crate::harness::report::problem;
use crate::harness::result::Result;
use crate::{fail, note};

const ROOT: &str = "/sys/fs/cgroup";
const GROUP: &str = "/sys/fs/cgroup/vfio-mdev-selftests";

/// More memory than any test machine has, so a write reclaims as much as possible.
const ALL: &str = "64G";

/// Returns whether there is swap space and a memory control group.
pub(crate) fn available() -> bool {
    let controllers = fs::read_to_string(Path::new(ROOT).join("cgroup.controllers"));
    let swaps = fs::read_to_string("/proc/swaps");
    controllers.is_ok_and(|names| names.split_whitespace().any(|name| name == "memory"))
        && swaps.is_ok_and(|text| text.lines().count() > 1)
}

/// A control group that contains this process and its new memory. On drop, the process returns to the root group.
struct Group;

impl Group {
    fn join() -> Result<Self> {
        fs::write(Path::new(ROOT).join("cgroup.subtree_control"), "+memory")?;
        fs::create_dir(GROUP)?;
        let group = Group;
        fs::write(Path::new(GROUP).join("cgroup.procs"), "0")?;
        Ok(group)
    }

    /// Swaps out all memory of the group. The kernel returns `EAGAIN` when nothing is left to reclaim.
    fn reclaim() -> Result {
        match fs::write(Path::new(GROUP).join("memory.reclaim"), ALL) {
            Err(e) if e.raw_os_error() != Some(libc::EAGAIN) => Err(e.into()),
            _ => Ok(()),
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let left = || -> Result {
            fs::write(Path::new(ROOT).join("cgroup.procs"), "0")?;
            // A thread of the test that is over stays in the group until the kernel has reaped it.
            wait_for("the group to be empty", || match fs::remove_dir(GROUP) {
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) => Ok(false),
                removed => Ok(removed.map(|()| true)?),
            })
        };
        if let Err(e) = left() {
            problem(format!("{GROUP}: {e}"));
        }
    }
}

/// Returns the numbers of pages swapped out and in since boot.
fn swapped() -> Result<(u64, u64)> {
    let vmstat = fs::read_to_string("/proc/vmstat")?;
    let (Some(out), Some(into)) = (field(&vmstat, "pswpout "), field(&vmstat, "pswpin ")) else {
        fail!("the kernel does not count swapped pages");
    };
    Ok((out, into))
}

/// The numbers of pages swapped out and in that a test needs.
const ENOUGH: u64 = 100;

/// How often a test runs at most to reach them.
const ROUNDS: u32 = 50;

/// Runs `f` while the kernel repeatedly swaps out all memory of this process. Runs it again while fewer than [`ENOUGH`]
/// pages were swapped: the speed of the machine decides how often the kernel comes in between.
pub(crate) fn under_reclaim(f: impl Fn() -> Result) -> Result {
    let _group = Group::join()?;
    let before = swapped()?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let reclaimer = scope.spawn(|| -> Result<u64> {
            let mut times = 0;
            while !stop.load(Ordering::Relaxed) {
                Group::reclaim()?;
                times += 1;
            }
            Ok(times)
        });
        let rounds = || -> Result<(u32, u64, u64)> {
            let (mut out, mut into) = (0, 0);
            for round in 1..=ROUNDS {
                f()?;
                let after = swapped()?;
                (out, into) = (after.0 - before.0, after.1 - before.1);
                if out > ENOUGH && into > ENOUGH {
                    return Ok((round, out, into));
                }
            }
            fail!("too little swapping in {ROUNDS} rounds: {out} pages out and {into} in");
        };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(rounds));
        stop.store(true, Ordering::Relaxed);
        let times = reclaimer.join().expect("no panic")?;
        let (rounds, out, into) =
            result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        note!("{rounds} rounds, reclaimed {times} times, {out} pages out and {into} in");
        Ok(())
    })
}
