// SPDX-License-Identifier: GPL-2.0

//! Tests of the helpers of these tests: stalling memory, and users in control groups.

use std::io::Write;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use ::hostile::{admitted, Cgroup, Kind, Stalled, User, Victim};

use crate::env::{Env, SMALL};
use crate::fixture::PAGE;
use crate::harness::check::{wait_for, PATIENCE, SILENCE};
use crate::harness::result::Result;
use crate::hostile::quiescent::Quiescent;
use crate::{fail, tests};

tests! { "hostile" needs [Mdma]:
    memory_waits_until_it_is_released [],
    memory_of_a_process_that_is_killed_waits [],
    a_group_limits_freezes_and_kills_its_user [] needs [ProcessorTime],
}

/// Returns contents that differ from page to page.
pub(crate) fn contents(pages: usize) -> Vec<u8> {
    let page = |n: usize| [n as u8 + 1; PAGE as usize];
    (0..pages).flat_map(page).collect()
}

fn memory_waits_until_it_is_released(_: &Env) -> Result {
    for kind in Kind::ALL {
        let stalled = Stalled::new(kind, contents(3))?;
        let memory = stalled.memory().clone();
        let load = |page: usize| memory.load_u8(page * PAGE as usize, Ordering::Relaxed);
        thread::scope(|threads| -> Result {
            let late = threads.spawn(|| load(1));
            let at = stalled.wait(1, PATIENCE)?;
            assert_eq!(at, PAGE, "{kind}");
            thread::sleep(SILENCE);
            assert!(
                !late.is_finished(),
                "{kind}: the load did not wait for its page"
            );
            stalled.release();
            assert_eq!(late.join().expect("a load"), 2, "{kind}");
            Ok(())
        })?;
        const DELAY: Duration = Duration::from_millis(300);
        stalled.answer_after(DELAY);
        let start = Instant::now();
        assert_eq!(load(2), 3, "{kind}");
        assert!(start.elapsed() >= DELAY, "{kind}: answered too soon");
        // The drop answers all waiting faults.
        stalled.hold_after(0);
        thread::scope(|threads| {
            let late = threads.spawn(|| load(0));
            let arrived = stalled.wait(3, PATIENCE);
            drop(stalled);
            assert_eq!(late.join().expect("a load"), 1, "{kind}");
            arrived
        })?;
    }
    Ok(())
}

/// The child process: creates the memory and touches it.
pub(crate) fn touch(args: &[String]) -> Result {
    admitted()?;
    let [spec] = args else {
        fail!("touch takes a memory");
    };
    let victim = Victim::new(spec)?;
    let mut out = std::io::stdout();
    writeln!(out, "{}", victim.announcement())?;
    admitted()?;
    writeln!(out, "{}", victim.memory().load_u8(0, Ordering::Relaxed))?;
    loop {
        thread::park();
    }
}

/// Starts [`touch`], and returns when it waits for its memory.
fn toucher(stalled: &mut Stalled, cgroup: &Cgroup) -> Result<User> {
    let spec = stalled.spec();
    let mut user = User::start(&["--child", "touch", &spec], Some(cgroup), &[])?;
    let line = user.hear()?;
    stalled.adopt(user.pid(), &line)?;
    user.say("")?;
    stalled.wait(1, PATIENCE)?;
    Ok(user)
}

fn memory_of_a_process_that_is_killed_waits(env: &Env) -> Result {
    let instance = env.instance(SMALL)?;
    let cgroup = Cgroup::new()?;
    let quiescent = Quiescent::before(&cgroup)?;
    for kind in Kind::ALL {
        ::hostile::own_node(instance.iommu_group()?)?;
        let mut stalled = Stalled::for_another(kind, contents(1))?;
        let mut user = toucher(&mut stalled, &cgroup)?;
        assert_eq!(user.hear_within(SILENCE)?, None, "{kind}");
        user.kill()?;
        if user.wait(PATIENCE)?.is_none() {
            fail!("{kind}: the user survives SIGKILL:\n{}", user.stacks());
        }
        let mut stalled = Stalled::for_another(kind, contents(1))?;
        let mut user = toucher(&mut stalled, &cgroup)?;
        stalled.release();
        assert_eq!(user.hear()?, "1", "{kind}");
    }
    quiescent.check(&cgroup, &instance)
}

fn a_group_limits_freezes_and_kills_its_user(_: &Env) -> Result {
    let cgroup = Cgroup::new()?;
    cgroup.set_memory_max(Some(64 << 20))?;
    cgroup.set_cpu_max(Some(50))?;
    cgroup.set_pids_max(Some(20))?;
    ::hostile::own_userfault()?;
    let mut stalled = Stalled::for_another(Kind::Userfault, contents(1))?;
    let mut user = toucher(&mut stalled, &cgroup)?;
    assert!(cgroup.threads()?.contains(&user.pid()));
    wait_for("memory to be charged", || Ok(cgroup.memory()? > 0))?;
    assert!(cgroup.cpu_time()? > Duration::ZERO);
    assert_eq!(cgroup.count("memory.events", "oom_kill")?, 0);
    cgroup.freeze(true)?;
    // The user waits interruptibly for its page, so the freezer can stop it.
    cgroup.wait_frozen()?;
    stalled.release();
    assert_eq!(user.hear_within(SILENCE)?, None, "the frozen user runs");
    cgroup.freeze(false)?;
    assert_eq!(user.hear()?, "1");
    cgroup.kill()?;
    if user.wait(PATIENCE)?.is_none() {
        fail!("the user survives cgroup.kill");
    }
    Ok(cgroup.wait_empty()?)
}
