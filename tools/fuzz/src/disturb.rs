// SPDX-License-Identifier: GPL-2.0

//! Calls that make others wait: stalled memory, limits, freezing. Each ends soon by itself.

use std::fs;
use std::thread;
use std::time::Duration;

use crate::bytes::bytes;
use crate::domain::LIMITS;
use crate::ended::{Ended, Result};
use crate::program::{Call, SECOND};
use crate::removal::Removal;
use crate::world::World;

/// The longest intended delay or freeze in microseconds.
const LATE: u64 = 20_000;

/// Memory of the calling process, whose page faults are answered late.
pub(crate) fn stalled(world: &World, call: &Call) -> Result {
    let a = &call.args;
    let kind = hostile::Kind::ALL[(a[1] % 2) as usize];
    let pages = a[2].clamp(1, 16) as usize;
    let contents = bytes(a[3], pages * 4096);
    let mut all = world.stalled.lock().unwrap();
    // Each needs a thread.
    if all.len() >= 16 {
        return Err(Ended::Empty);
    }
    let stalled = match call.thread {
        Some(SECOND) => world.second.stalled(a[0], kind, contents)?,
        _ => {
            let stalled = hostile::Stalled::new(kind, contents)?;
            world.mappings.put(a[0], stalled.memory().clone());
            stalled
        }
    };
    stalled.answer_after(Duration::from_micros(a[3].min(LATE)));
    all.push(stalled);
    Ok(pages as u64)
}

/// Limits the second process. The lowest limits still leave it enough memory and time to exit.
pub(crate) fn limit(world: &World, what: u64, to: u64) -> Result {
    let cgroup = world.second.cgroup()?;
    let choose = |of: [u64; 3]| of.get((to % 4) as usize).copied();
    match LIMITS[(what % LIMITS.len() as u64) as usize] {
        "memory" => cgroup.set_memory_max(choose([8 << 20, 24 << 20, 64 << 20]))?,
        "cpu" => cgroup.set_cpu_max(choose([20, 50, 90]))?,
        _ => cgroup.set_pids_max(choose([1, 2, 4]))?,
    }
    Ok(0)
}

/// Freezes the second process for a moment.
pub(crate) fn freeze(world: &World, us: u64) -> Result {
    let cgroup = world.second.cgroup()?;
    cgroup.freeze(true)?;
    thread::sleep(Duration::from_micros(us.min(LATE)));
    cgroup.freeze(false)?;
    Ok(0)
}

/// Suspends the machine as far as freezing its tasks, and resumes it.
pub(crate) fn suspend(world: &World) -> Result {
    let stalled = world.stalled.lock().unwrap();
    // A task that waits for a page does not freeze if its server froze first, and the kernel logs that at length.
    if !stalled.is_empty() {
        return Err(Ended::Empty);
    }
    let set = |file: &str, value: &str| fs::write(file, value);
    // Neither does a task that removes an instance, which waits in VFIO until the device is closed.
    let mut removals = world.removals.lock().unwrap();
    if removals.iter_mut().any(Removal::is_running) {
        return Err(Ended::Empty);
    }
    for (file, value) in [
        ("/sys/power/pm_test", "freezer"),
        ("/sys/module/suspend/parameters/pm_test_delay", "0"),
        ("/sys/power/sync_on_suspend", "0"),
    ] {
        set(file, value).map_err(|_| Ended::Empty)?;
    }
    set("/sys/power/state", "freeze")?;
    Ok(0)
}
