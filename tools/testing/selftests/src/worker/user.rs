// SPDX-License-Identifier: GPL-2.0

//! The worker is a thread of the process that sets bus master, and is subject to the limits of that process.
//!
//! Earlier, it was a kworker: the user's `memory.max`, `cpu.max`, `pids.max` and `cgroup.freeze` did not apply to it.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use ::hostile::Cgroup;
use mdma::engine::UNIT;
use mdma::regs::Reg;
use mdma::{job, Mdma};
use rustix::process::Resource;
use vfio_client::{Container, Device, DmaBuffer, Region};

use crate::env::{Env, Instance, MEDIUM, SMALL};
use crate::fixture::puppet::Puppet;
use crate::fixture::{self, VfioQueue, QUEUE};
use crate::harness::check::{wait_for, PATIENCE, SILENCE};
use crate::harness::need::SUSPEND_TEST;
use crate::harness::result::Result;
use crate::hostile::quiescent::Quiescent;
use crate::{fail, note, tests};

tests! { "worker" needs [Mdma]:
    one_task_for_each_process_that_sets_bus_master [],
    no_task_no_bus_master [],
    killed_while_another_process_has_the_device [],
    device_memory_is_the_users [],
    the_data_section_is_the_users [],
    processor_time_is_the_users [],
    a_frozen_user_does_no_dma [],
    a_suspended_user_does_no_dma [] needs [Suspend],
}

/// Returns the registers of a device. Does not access its configuration space.
fn registers(device: &Device) -> Result<Mdma<Region>> {
    Ok(Mdma::new(device.region(mdma::regs::BAR_REGISTERS)?)?)
}

fn one_task_for_each_process_that_sets_bus_master(env: &Env) -> Result {
    const TOGGLES: u64 = 200;
    let instance = env.instance(SMALL)?;
    let mut user = Puppet::open(&instance, None, &[], None)?;
    assert_eq!(user.ask("tasks")?, "[]", "before bus mastering");
    user.order("enable")?;
    let task = user.ask("tasks")?;
    assert_eq!(task.split(' ').count(), 1, "{task}");
    assert_ne!(task, "[]");
    // A guest can do this in a loop.
    user.order(&format!("toggle {TOGGLES}"))?;
    user.order("disable")?;
    user.order("reset")?;
    user.order("enable")?;
    assert_eq!(
        user.ask("tasks")?,
        task,
        "after bus mastering was disabled and enabled"
    );

    // Another process takes over, and the first one's task ends.
    let mut other = user.join(&instance)?;
    assert_eq!(other.ask("tasks")?, "[]");
    other.order("disable")?;
    let mark = env.kmsg.mark();
    other.order("enable")?;
    assert_ne!(other.ask("tasks")?, "[]");
    wait_for("the task of the first process to end", || {
        Ok(user.ask("tasks")? == "[]")
    })?;
    wait_for("a log line about the other process", || {
        let lines = env.kmsg.since(mark);
        Ok(lines.iter().any(|l| l.text.contains("by another process")))
    })?;
    other.order("fill 100")?;
    assert_eq!(other.ask("end")?, "0");
    Ok(())
}

/// If the kernel cannot create the task, the write of the command register fails and does not change the register.
fn no_task_no_bus_master(env: &Env) -> Result {
    let instance = env.instance(SMALL)?;
    let cgroup = Cgroup::new()?;
    let mut user = Puppet::open(&instance, Some(&cgroup), &[], None)?;
    assert_eq!(user.ask("master")?, "0");
    cgroup.set_pids_max(Some(cgroup.threads()?.len() as u64))?;
    for _ in 0..3 {
        assert_eq!(user.ask("enable")?, "EAGAIN", "pids.max");
        assert_eq!(user.ask("master")?, "0", "pids.max");
    }
    cgroup.set_pids_max(None)?;
    user.order("enable")?;
    user.order("fill 100")?;
    assert_eq!(user.ask("end")?, "0");
    user.kill("nothing")?;

    let mut user = Puppet::open(&instance, Some(&cgroup), &[(Resource::Nproc, 1)], None)?;
    assert_eq!(user.ask("enable")?, "EAGAIN", "RLIMIT_NPROC");
    assert_eq!(user.ask("master")?, "0", "RLIMIT_NPROC");
    Ok(())
}

/// The device stops when its user dies, and the other process that has it open can use it.
fn killed_while_another_process_has_the_device(env: &Env) -> Result {
    let instance = env.instance(SMALL)?;
    let mut user = Puppet::open(&instance, None, &[], None)?;
    user.order("work 50")?;
    let (device, container) = user.share(&instance)?;
    let mdma = registers(&device)?;
    fixture::wait_register(&mdma, Reg::BytesDone, "the job to begin", |v| v > 0)?;
    user.kill("a job in the memory of the killed process")?;
    let done = mdma.get(Reg::BytesDone)?;
    thread::sleep(SILENCE);
    assert_eq!(
        mdma.get(Reg::BytesDone)?,
        done,
        "the device worked for a dead process"
    );

    device.reset()?;
    let mut queue = queue(&device, &container)?;
    // Bus master is still set, but this process has not set it.
    queue.submit(&job::fill(fixture::device(0), 1, 100))?;
    thread::sleep(SILENCE);
    assert!(
        queue.poll().is_none(),
        "the device ran a job without a user"
    );
    device.config()?.enable()?;
    assert_eq!(queue.wait(PATIENCE)?.error, 0);
    Ok(())
}

/// Returns a queue in the memory of this process.
fn queue(device: &Device, container: &Container) -> Result<VfioQueue> {
    const AT: u64 = QUEUE + (1 << 32);
    let memory = DmaBuffer::new(container, AT, VfioQueue::size(4))?;
    Ok(VfioQueue::new(registers(device)?, memory, 4)?)
}

fn device_memory_is_the_users(env: &Env) -> Result {
    const FILL: u64 = 32 << 20;
    const MAX: u64 = 64 << 20;
    let instance = env.instance(MEDIUM)?;
    let cgroup = Cgroup::new()?;
    let quiescent = Quiescent::before(&cgroup)?;
    let mut user = Puppet::open(&instance, Some(&cgroup), &[], None)?;
    user.order("enable")?;
    let before = cgroup.memory()?;
    user.order(&format!("fill {FILL}"))?;
    assert_eq!(user.ask("end")?, "0");
    let filled = cgroup.memory()?;
    // Other memory of the group may have been freed in between.
    assert!(
        filled >= before + FILL * 7 / 8,
        "{before} bytes before, {filled} after a fill of {FILL}"
    );
    user.order("reset")?;
    wait_for("the device to free its memory", || {
        Ok(cgroup.settled_memory()? < filled - FILL / 2)
    })?;

    // If the group reaches its limit, the job fails or the OOM killer kills the user.
    cgroup.set_memory_max(Some(MAX))?;
    user.order(&format!("fill {}", 4 * FILL))?;
    user.tell("end")?;
    let answer = user.user.hear_within(PATIENCE)?;
    let error = (mdma::desc::Error::MemoryFault as u32).to_string();
    match answer.as_deref() {
        Some("") => assert!(
            cgroup.count("memory.events", "oom_kill")? > 0,
            "the user died, but not from the OOM killer"
        ),
        Some(answer) => assert_eq!(answer, error),
        None => fail!("waited {} s for the job to end", PATIENCE.as_secs()),
    }
    let peak = cgroup.count("memory.events", "max")?;
    assert!(peak > 0, "the group did not reach its limit");
    note!("the job ended with {answer:?}");
    cgroup.set_memory_max(None)?;
    user.kill("a job that ran out of memory")?;
    quiescent.check(&cgroup, &instance)
}

fn the_data_section_is_the_users(env: &Env) -> Result {
    let section = env.module.param("data_section_kib") << 10;
    let instance = env.instance(SMALL)?;
    let cgroup = Cgroup::new()?;
    let mut user = Puppet::open(&instance, Some(&cgroup), &[], None)?;
    // The user has the device open when it answers.
    assert_eq!(user.ask("state")?, "running");
    let charged = cgroup.count("memory.stat", "vmalloc")?;
    assert!(
        charged >= section,
        "charged {charged} bytes of vmalloc for a section of {section} bytes"
    );
    Ok(())
}

fn processor_time_is_the_users(env: &Env) -> Result {
    /// The user itself needs less.
    const ENOUGH: Duration = Duration::from_millis(200);
    let instance = env.instance(MEDIUM)?;
    let cgroup = Cgroup::new()?;
    let mut user = Puppet::open(&instance, Some(&cgroup), &[], None)?;
    user.order("fill 67108864")?;
    assert_eq!(user.ask("end")?, "0");
    user.order("work 60")?;
    let before = cgroup.cpu_time()?;
    wait_for("the work to appear in cpu.stat", || {
        Ok(cgroup.cpu_time()? >= before + ENOUGH)
    })
}

fn a_frozen_user_does_no_dma(env: &Env) -> Result {
    let instance = env.instance(SMALL)?;
    let cgroup = Cgroup::new()?;
    let mut user = Puppet::open(&instance, Some(&cgroup), &[], None)?;
    user.order("throttle 1000")?;
    user.order("work 50")?;
    let (device, _container) = user.share(&instance)?;
    let mdma = registers(&device)?;
    fixture::wait_register(&mdma, Reg::BytesDone, "the job to begin", |v| v > 0)?;
    cgroup.freeze(true)?;
    cgroup.wait_frozen()?;
    let done = mdma.get(Reg::BytesDone)?;
    thread::sleep(SILENCE);
    assert_eq!(
        mdma.get(Reg::BytesDone)?,
        done,
        "the device worked for a frozen user"
    );
    // The reset does not wait for the frozen worker.
    device.reset()?;
    assert_eq!(mdma.get(Reg::BytesDone)?, 0);
    cgroup.freeze(false)?;
    user.order("reset")?;
    user.order("fill 100")?;
    assert_eq!(user.ask("end")?, "0");
    Ok(())
}

/// Starts a suspend test that freezes all processes for a second.
fn a_suspended_user_does_no_dma(env: &Env) -> Result {
    const DELAY: &str = "/sys/module/suspend/parameters/pm_test_delay";
    const FROZEN: Duration = Duration::from_secs(1);
    const THROTTLE: Duration = Duration::from_millis(10);
    let instance: Instance = env.instance(SMALL)?;
    let mut user = Puppet::open(&instance, None, &[], None)?;
    user.order(&format!("throttle {}", THROTTLE.as_micros()))?;
    user.order("work 50")?;
    let (device, _container) = user.share(&instance)?;
    let mdma = registers(&device)?;
    fixture::wait_register(&mdma, Reg::BytesDone, "the job to begin", |v| v > 0)?;
    fs::write(DELAY, FROZEN.as_secs().to_string())?;
    fs::write(SUSPEND_TEST, "freezer")?;
    let before = mdma.get(Reg::BytesDone)?;
    let start = Instant::now();
    let suspended = fs::write("/sys/power/state", "freeze");
    let (elapsed, after) = (start.elapsed(), mdma.get(Reg::BytesDone)?);
    fs::write(SUSPEND_TEST, "none")?;
    suspended?;
    assert!(elapsed >= FROZEN, "suspended for only {elapsed:?}");
    // The pauses of the throttle alone limit the number of units. A slower worker does less.
    let most = (elapsed - FROZEN).as_micros() / THROTTLE.as_micros() + 20;
    let units = (after - before) / UNIT as u64;
    note!("{units} units in {elapsed:?} with {FROZEN:?} frozen, the limit is {most}");
    assert!(
        u128::from(units) <= most,
        "the device worked for a suspended user"
    );
    Ok(())
}
