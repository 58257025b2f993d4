// SPDX-License-Identifier: GPL-2.0

//! A process that waits for a page of its memory can be killed, and other users can use the device afterwards.
//!
//! A userfaultfd or a FUSE server in this process backs the memory and answers at the end of the test. The waiting user
//! is another process without privileges.

use std::time::{Duration, Instant};

use ::hostile::{own_node, Cgroup, Kind, Stalled, User};

use crate::env::{Env, Instance, SMALL};
use crate::harness::check::PATIENCE;
use crate::harness::result::Result;
use crate::hostile::blocking_calls::{Row, ROWS};
use crate::hostile::quiescent::Quiescent;
use crate::{fail, note, tests};

tests! { "blocking" needs [Mdma]:
    calls_that_wait_for_userfaultfd_can_be_killed [],
    calls_that_wait_for_fuse_can_be_killed [],
}

/// How long a killed process may live. With an unkillable wait, it lives until the fault is answered.
const DEATH: Duration = Duration::from_secs(20);
/// How long the second call has to start waiting.
const BEGIN: Duration = Duration::from_millis(50);

fn calls_that_wait_for_userfaultfd_can_be_killed(env: &Env) -> Result {
    each_can_be_killed(env, Kind::Userfault)
}

fn calls_that_wait_for_fuse_can_be_killed(env: &Env) -> Result {
    each_can_be_killed(env, Kind::Fuse)
}

/// A user that waits for its memory.
struct Blocked {
    // Dropped in this order: the memory last.
    user: User,
    stalled: Stalled,
}

impl Blocked {
    /// Starts a user with a row of the table, and returns when it waits.
    fn start(number: usize, kind: Kind, instance: &Instance, cgroup: &Cgroup) -> Result<Self> {
        let row = &ROWS[number];
        let mut stalled = Stalled::for_another(kind, row.contents())?;
        let (number, spec) = (number.to_string(), stalled.spec());
        let args = ["--child", "block", &number, &spec, instance.uuid.as_str()];
        let mut user = User::start(&args, Some(cgroup), &[])?;
        let line = user.hear()?;
        stalled
            .adopt(user.pid(), &line)
            .map_err(|e| std::io::Error::other(format!("{line}: {e}")))?;
        let _device = user.hear()?;
        stalled.hold_after(row.answered);
        user.say("")?;
        let mut blocked = Blocked { user, stalled };
        blocked.wait(row)?;
        if row.then.is_some() {
            blocked.user.say("")?;
            // The call may return at once, or wait for the device.
            blocked.user.hear_within(BEGIN)?;
        }
        Ok(blocked)
    }

    /// Returns when the user waits. If it does not, it prints the reason.
    fn wait(&mut self, row: &Row) -> Result {
        if row.dma {
            self.hear("done")?;
        }
        let start = Instant::now();
        loop {
            let result = self.stalled.wait(row.answered + 1, BEGIN);
            if result.is_ok() {
                return Ok(());
            }
            if let Some(said) = self.user.hear_within(Duration::ZERO)? {
                fail!("the user does not wait for its memory: it printed {said:?}");
            }
            if start.elapsed() > PATIENCE {
                fail!("no page fault in {} s: {result:?}", PATIENCE.as_secs());
            }
        }
    }

    /// Waits for a line of output.
    fn hear(&mut self, expected: &str) -> Result {
        match self.user.hear_within(PATIENCE)? {
            Some(said) if said == expected => Ok(()),
            said => fail!("the user printed {said:?} instead of {expected:?}"),
        }
    }

    /// Kills the user. Returns its stacks if it does not die.
    fn kill(mut self) -> Result<Option<String>> {
        self.user.kill()?;
        if self.user.wait(DEATH)?.is_some() {
            return Ok(None);
        }
        let stacks = self.user.stacks();
        // Let the next row run.
        self.stalled.release();
        if self.user.wait(PATIENCE)?.is_none() {
            fail!("the killed user still lives after its fault was answered:\n{stacks}");
        }
        Ok(Some(stacks))
    }
}

fn each_can_be_killed(env: &Env, kind: Kind) -> Result {
    let instance = env.instance(SMALL)?;
    own_node(instance.iommu_group()?)?;
    let cgroup = Cgroup::new()?;
    let quiescent = Quiescent::before(&cgroup)?;
    let mut failed = Vec::new();
    for (number, row) in ROWS.iter().enumerate() {
        let verdict = try_row(number, kind, &instance, &cgroup);
        if let Err(e) = verdict {
            note!("{}, {}, held {}: {e}", row.name, row.memory, row.held);
            failed.push(row.name);
        }
    }
    if !failed.is_empty() {
        let list = failed.join(", ");
        fail!(
            "{} of {} calls failed with {kind}: {list}",
            failed.len(),
            ROWS.len()
        );
    }
    note!("{} calls", ROWS.len());
    quiescent.check(&cgroup, &instance)
}

fn try_row(number: usize, kind: Kind, instance: &Instance, cgroup: &Cgroup) -> Result {
    let blocked = Blocked::start(number, kind, instance, cgroup)?;
    if let Some(stacks) = blocked.kill()? {
        fail!(
            "the killed user still lives after {} s:\n{stacks}",
            DEATH.as_secs()
        );
    }
    Ok(())
}
