// SPDX-License-Identifier: GPL-2.0

//! A process that waits for a step can be killed while the step waits for a page that another process withholds.
//!
//! Earlier, a kworker ran the steps. The user's exit, a reset, a change of state, a write of the command register and a
//! read of debugfs then blocked until the page arrived.

use std::fs;
use std::sync::mpsc;
use std::thread;

use ::hostile::{Cgroup, Kind, Stalled};

use crate::env::{Env, Instance, SMALL};
use crate::fixture::puppet::Puppet;
use crate::harness::check::{wait_for, PATIENCE};
use crate::harness::result::Result;
use crate::hostile::quiescent::Quiescent;
use crate::hostile::setup::contents;
use crate::{fail, tests};

tests! { "waits" needs [Mdma]:
    killed_while_dma_waits_for_its_memory [],
    calls_that_wait_for_a_step_can_be_killed [],
    exec_ends_a_step_that_waits [],
}

/// Starts a user whose device waits for its memory.
fn stalled_user(instance: &Instance, cgroup: &Cgroup, stalled: &mut Stalled) -> Result<Puppet> {
    let mut user = Puppet::open(instance, Some(cgroup), &[], Some(stalled))?;
    user.order("stall")?;
    stalled.wait(1, PATIENCE)?;
    Ok(user)
}

/// Reads the instance's debugfs file. Fails if the read takes longer than [`PATIENCE`].
fn status(instance: &Instance) -> Result<String> {
    let path = format!(
        "/sys/kernel/debug/mdma/{}/migration",
        instance.uuid.as_str()
    );
    let (done, read) = mpsc::channel();
    thread::spawn(move || done.send(fs::read_to_string(path)));
    match read.recv_timeout(PATIENCE) {
        Ok(text) => Ok(text?),
        Err(_) => fail!("waited {} s for debugfs", PATIENCE.as_secs()),
    }
}

fn killed_while_dma_waits_for_its_memory(env: &Env) -> Result {
    let instance = env.instance(SMALL)?;
    let cgroup = Cgroup::new()?;
    let quiescent = Quiescent::before(&cgroup)?;
    for kind in Kind::ALL {
        let mut stalled = Stalled::for_another(kind, contents(4))?;
        let mut user = stalled_user(&instance, &cgroup, &mut stalled)?;
        assert!(status(&instance)?.starts_with("state: RUNNING\n"), "{kind}");
        user.kill(&format!("DMA from {kind}"))?;
        assert!(status(&instance)?.starts_with("state: RUNNING\n"), "{kind}");
    }
    quiescent.check(&cgroup, &instance)
}

/// A call that waits for a step, and a second call that waits for the first.
const CALLS: [(&str, &str); 3] = [("reset", "state"), ("stop", "state"), ("disable", "master")];

fn calls_that_wait_for_a_step_can_be_killed(env: &Env) -> Result {
    let instance = env.instance(SMALL)?;
    let cgroup = Cgroup::new()?;
    let mut stalled = Stalled::for_another(Kind::Userfault, contents(4))?;
    let mut user = stalled_user(&instance, &cgroup, &mut stalled)?;
    for (call, behind) in CALLS {
        let mut first = user.join(&instance)?;
        let mut second = user.join(&instance)?;
        // Both have the device open when they answer.
        let (state, master) = (first.ask("state")?, second.ask("master")?);
        first.tell(call)?;
        first.expect_silence(call)?;
        second.tell(behind)?;
        second.expect_silence(behind)?;
        let expected = match behind {
            "state" => "state: busy\n",
            _ => "state: RUNNING\n",
        };
        // A slow machine takes a while to reach the wait.
        wait_for(&format!("{call}: {expected}"), || {
            Ok(status(&instance)?.starts_with(expected))
        })?;
        second.kill(&format!("{behind} behind {call}"))?;
        first.kill(call)?;

        // The killed calls have changed nothing.
        let mut third = user.join(&instance)?;
        assert_eq!(third.ask("state")?, state, "{call}");
        assert_eq!(third.ask("master")?, master, "{call}");
        third.kill("nothing")?;
        // The step still waits. A call that waits for it wakes its task, which then faults again.
        assert!(stalled.waiting() >= 1, "{call}");
    }
    // The job continues.
    stalled.release();
    assert_eq!(user.ask("end")?, "0");
    user.order("reset")
}

/// `execve()` ends the threads of a process, but the process may keep the device open.
fn exec_ends_a_step_that_waits(env: &Env) -> Result {
    let instance = env.instance(SMALL)?;
    let cgroup = Cgroup::new()?;
    let mut stalled = Stalled::for_another(Kind::Userfault, contents(4))?;
    let mut user = stalled_user(&instance, &cgroup, &mut stalled)?;
    let mut other = user.join(&instance)?;
    assert_eq!(other.ask("state")?, "running");
    assert_eq!(user.ask("exec")?, "waiting");
    other.order("reset")?;
    other.order("fill 100")?;
    assert_eq!(other.ask("end")?, "0");
    assert_ne!(other.ask("tasks")?, "[]");
    Ok(())
}
