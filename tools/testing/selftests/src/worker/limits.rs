// SPDX-License-Identifier: GPL-2.0

//! The limits of an ordinary user's control group hold for what a device does for that user.
//!
//! Earlier, `cpu.max` did not: the kernel makes a task wait for its next period when the task returns to user mode, and a
//! worker never returns there.

use std::fs;
use std::path::Path;
use std::time::Instant;

use ::hostile::{own_file, Cgroup};
use mdma::job;
use vfio_client::v2::State;

use crate::env::{Env, Guest, Instance, MEDIUM};
use crate::fixture::puppet::Puppet;
use crate::fixture::v2::MdmaV2;
use crate::fixture::{device, run_jobs, MdmaFixture};
use crate::harness::check::{wait_for, PATIENCE};
use crate::harness::result::Result;
use crate::hostile::quiescent::Quiescent;
use crate::{fail, note, tests};

tests! { "limits" needs [Mdma]:
    cpu_max_holds_for_the_worker [] needs [ProcessorTime],
    memory_max_holds_for_a_load [],
}

/// Without the limit, the worker uses a whole processor.
fn cpu_max_holds_for_the_worker(env: &Env) -> Result {
    const PERCENT: u64 = 20;
    const PERIODS: u64 = 10;
    let instance = env.instance(MEDIUM)?;
    let cgroup = Cgroup::new()?;
    let mut user = Puppet::open(&instance, Some(&cgroup), &[], None)?;
    user.order("work 60")?;
    cgroup.set_cpu_max(Some(PERCENT))?;
    let throttled = || cgroup.count("cpu.stat", "nr_throttled");
    let before = throttled()?;
    wait_for("the group to use up its processor time", || {
        Ok(throttled()? > before)
    })?;
    let (start, used, first) = (Instant::now(), cgroup.cpu_time()?, throttled()?);
    wait_for("the group to be throttled in more periods", || {
        Ok(throttled()? >= first + PERIODS)
    })?;
    let (elapsed, used) = (start.elapsed(), cgroup.cpu_time()? - used);
    note!("{used:?} of the processor in {elapsed:?}, cpu.max is {PERCENT} %");
    // A unit of work in progress goes beyond the limit, and the next periods make up for it.
    assert!(
        used < elapsed / 2,
        "the worker used {used:?} of {elapsed:?}, and cpu.max is {PERCENT} %"
    );
    // A job that waits for its period does not hold up the user's end.
    user.kill("a job that waits for the processor")
}

/// Saves a device with this many bytes of memory to a file that an ordinary user can read.
fn saved(env: &Env, len: u64, file: &Path) -> Result {
    let v2 = MdmaV2::of(MdmaFixture::of(Guest::open(env.instance(MEDIUM)?)?)?)?;
    let mut queue = v2.queue(2)?;
    run_jobs(&mut queue, &[job::fill(device(0), !0, len)])?;
    queue.close()?;
    let stream = v2.begin(State::STOP_COPY)?;
    let mut bytes = Vec::new();
    stream.read_available(&mut bytes)?;
    assert!(bytes.len() as u64 > len, "{} bytes saved", bytes.len());
    fs::write(file, bytes)?;
    Ok(own_file(&file.to_string_lossy())?)
}

/// A file that is deleted on drop.
struct Saved<'a>(&'a Path);

impl Drop for Saved<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.0);
    }
}

fn memory_max_holds_for_a_load(env: &Env) -> Result {
    const LEN: u64 = 64 << 20;
    const MAX: u64 = 32 << 20;
    let file = Saved(Path::new("/tmp/limits.stream"));
    saved(env, LEN, file.0)?;
    let order = format!("load {}", file.0.display());

    let instance: Instance = env.instance(MEDIUM)?;
    let cgroup = Cgroup::new()?;
    let quiescent = Quiescent::before(&cgroup)?;
    let mut user = Puppet::open(&instance, Some(&cgroup), &[], None)?;
    cgroup.set_memory_max(Some(MAX))?;
    user.tell(&order)?;
    let answer = user.user.hear_within(PATIENCE)?;
    match answer.as_deref() {
        Some("") => assert!(
            cgroup.count("memory.events", "oom_kill")? > 0,
            "the user died, but not from the OOM killer"
        ),
        Some(answer) => assert_eq!(answer, "ENOMEM"),
        None => fail!("waited {} s for the load to end", PATIENCE.as_secs()),
    }
    note!("the load ended with {answer:?}");
    let peak: u64 = cgroup.get("memory.peak")?.trim().parse()?;
    assert!(
        peak <= MAX,
        "the group had {peak} bytes, its limit is {MAX}"
    );
    user.kill("a load that ran out of memory")?;
    cgroup.set_memory_max(None)?;
    quiescent.check(&cgroup, &instance)?;

    let mut user = Puppet::open(&instance, Some(&cgroup), &[], None)?;
    user.order(&order)?;
    let charged = cgroup.memory()?;
    assert!(
        charged >= LEN,
        "charged {charged} bytes for {LEN} bytes of device memory"
    );
    user.kill("nothing")?;
    quiescent.check(&cgroup, &instance)
}
