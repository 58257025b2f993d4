// SPDX-License-Identifier: GPL-2.0

//! Checks that a user has left nothing behind.

use std::fs;

use ::hostile::Cgroup;
use mdma::job;

use crate::env::pins::Pins;
use crate::env::{Guest, Instance};
use crate::fixture::{device, guest, run_jobs, MdmaFixture, PAGE};
use crate::harness::check::wait_for;
use crate::harness::result::{Ended, Result};

/// Memory that may stay charged to an empty group, because the kernel frees it only under memory pressure.
const SLACK: u64 = 64 * PAGE;

/// The state of the machine before a user starts.
pub(crate) struct Quiescent {
    pins: Pins,
    memory: u64,
}

impl Quiescent {
    /// Records the state. No task may run in `cgroup`.
    pub(crate) fn before(cgroup: &Cgroup) -> Result<Self> {
        Ok(Quiescent {
            pins: Pins::now()?,
            memory: cgroup.settled_memory()?,
        })
    }

    /// Checks that the group is empty and its memory freed, no task is stuck, no page is pinned, and another user can use
    /// the instance. The harness checks the kernel log.
    pub(crate) fn check(&self, cgroup: &Cgroup, instance: &Instance) -> Result {
        cgroup.wait_empty()?;
        nobody_is_stuck()?;
        usable(instance)?;
        let mut held = 0;
        wait_for("all pages to be unpinned", || {
            held = Pins::now()?.held();
            Ok(held == self.pins.held())
        })
        .map_err(|e| explain(e, format!("{} pinned before, {held} now", self.pins.held())))?;
        let mut memory = 0;
        wait_for("the kernel to free the group's memory", || {
            memory = cgroup.settled_memory()?;
            Ok(memory <= self.memory + SLACK)
        })
        .map_err(|e| explain(e, format!("{} bytes before, {memory} now", self.memory)))
    }
}

fn explain(e: Ended, what: String) -> Ended {
    match e {
        Ended::Failed { what: first, at } => Ended::Failed {
            what: format!("{first}: {what}"),
            at,
        },
        other => other,
    }
}

/// Waits until no task of the machine is in state D.
pub(crate) fn nobody_is_stuck() -> Result {
    let mut stuck = Vec::new();
    wait_for("no task to be in state D", || {
        stuck = in_state_d();
        Ok(stuck.is_empty())
    })
    .map_err(|e| explain(e, stuck.join("\n")))
}

/// Returns the tasks in state D: ID, name and stack of each.
fn in_state_d() -> Vec<String> {
    let mut found = Vec::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for task in processes
        .flat_map(|process| fs::read_dir(process.path().join("task")))
        .flatten()
        .flatten()
    {
        let read = |file| fs::read_to_string(task.path().join(file)).unwrap_or_default();
        let stat = read("stat");
        // The name in parentheses may contain any character.
        let state = stat.rsplit_once(") ").map(|(_, rest)| rest.as_bytes()[0]);
        if state == Some(b'D') {
            let (comm, stack) = (read("comm"), read("stack"));
            let number = task.file_name();
            found.push(format!("{} {comm}{stack}", number.to_string_lossy()));
        }
    }
    found
}

/// Opens the instance as another user, runs a job, saves the device, and closes it.
pub(crate) fn usable(instance: &Instance) -> Result {
    const BUFFER: u64 = 0x10_0000;
    let opened = Guest::open(Instance::from(instance.again()))?;
    // A queue that a user left enabled would run as soon as the fixture sets bus master.
    opened.device.reset()?;
    let fixture = MdmaFixture::of(opened)?;
    let buffer = fixture.buffer(BUFFER, PAGE as usize)?;
    buffer.fill(0, buffer.len(), 0x5a);
    let mut queue = fixture.queue(4)?;
    let jobs = [
        job::copy(guest(BUFFER), device(0), PAGE),
        job::copy(device(0), guest(BUFFER), PAGE),
    ];
    run_jobs(&mut queue, &jobs)?;
    drop(queue);
    assert!(buffer.to_vec(0, buffer.len()).iter().all(|b| *b == 0x5a));
    let bytes = fixture.save()?;
    assert!(!bytes.is_empty());
    fixture.guest.device.reset()?;
    drop(buffer);
    fixture.close().forget();
    Ok(())
}
