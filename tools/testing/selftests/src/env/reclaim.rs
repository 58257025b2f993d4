// SPDX-License-Identifier: GPL-2.0

//! Memory that the kernel takes away all the time and has to bring back.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::env::pins::field;
use crate::harness::report::problem;
use crate::harness::result::Result;
use crate::{fail, note};

const ROOT: &str = "/sys/fs/cgroup";
const GROUP: &str = "/sys/fs/cgroup/vfio-mdev-selftests";

/// More than there is: all that can be taken away.
const ALL: &str = "64G";

/// Whether there is somewhere to swap to, and a group of processes can be made to.
pub(crate) fn available() -> bool {
    let controllers = fs::read_to_string(Path::new(ROOT).join("cgroup.controllers"));
    let swaps = fs::read_to_string("/proc/swaps");
    controllers.is_ok_and(|names| names.split_whitespace().any(|name| name == "memory"))
        && swaps.is_ok_and(|text| text.lines().count() > 1)
}

/// A control group with this process in it, and whatever memory it gets from now on; back in the root when dropped.
struct Group;

impl Group {
    fn join() -> Result<Self> {
        fs::write(Path::new(ROOT).join("cgroup.subtree_control"), "+memory")?;
        fs::create_dir(GROUP)?;
        let group = Group;
        fs::write(Path::new(GROUP).join("cgroup.procs"), "0")?;
        Ok(group)
    }

    /// Swaps out what there is. The kernel says `EAGAIN` when it has come to the end of it.
    fn reclaim() -> Result {
        match fs::write(Path::new(GROUP).join("memory.reclaim"), ALL) {
            Err(e) if e.raw_os_error() != Some(libc::EAGAIN) => Err(e.into()),
            _ => Ok(()),
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let left = fs::write(Path::new(ROOT).join("cgroup.procs"), "0");
        if let Err(e) = left.and_then(|()| fs::remove_dir(GROUP)) {
            problem(format!("{GROUP}: {e}"));
        }
    }
}

/// Pages swapped out and in since the machine was started.
fn swapped() -> Result<(u64, u64)> {
    let vmstat = fs::read_to_string("/proc/vmstat")?;
    let (Some(out), Some(into)) = (field(&vmstat, "pswpout "), field(&vmstat, "pswpin ")) else {
        fail!("the kernel does not count what it swaps");
    };
    Ok((out, into))
}

/// Does something while all memory of this process is swapped out again and again.
pub(crate) fn under_reclaim(f: impl FnOnce() -> Result) -> Result {
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
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
        stop.store(true, Ordering::Relaxed);
        let times = reclaimer.join().expect("no panic")?;
        let after = swapped()?;
        let (out, into) = (after.0 - before.0, after.1 - before.1);
        note!("{times} times, {out} pages out and {into} in");
        match result {
            Ok(outcome) => outcome?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        assert!(out > 100 && into > 100, "{out} pages out and {into} in");
        Ok(())
    })
}
