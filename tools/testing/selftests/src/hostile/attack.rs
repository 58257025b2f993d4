// SPDX-License-Identifier: GPL-2.0

//! Ordinary users who make random calls and are killed, frozen or limited at random points.
//!
//! The user owns only the device's node, and runs in a control group with limits on memory, processor time and tasks. The
//! test checks that the user leaves nothing behind on the machine. `--attacks N` sets the number of rounds, `--seed` the
//! random seed.

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::process::ExitStatusExt;

use ::hostile::{own_node, Cgroup, User};
use rustix::process::Resource;

use crate::env::{Env, Instance, SMALL};
use crate::harness::check::PATIENCE;
use crate::harness::result::Result;
use crate::hostile::quiescent::{nobody_is_stuck, Quiescent};
use crate::{fail, note, tests};

tests! { "attack" needs [Mdma]:
    users_end_at_random_points [],
}

/// The default limits of the group.
const MEMORY: u64 = 64 << 20;
const TASKS: u64 = 16;
const PERCENT: u64 = 100;

/// The maximal number of calls of a user in one round.
const CALLS: u64 = 40;
/// The number of rounds between two checks of the machine.
const EVERY: u64 = 250;

/// What happens to the user in the middle of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Blow {
    /// Nothing.
    None,
    /// SIGKILL.
    Kill,
    /// `cgroup.kill`.
    KillGroup,
    /// `cgroup.freeze`, then thaw.
    Freeze,
    /// `cgroup.freeze`, and SIGKILL while it is frozen.
    FreezeAndKill,
    /// `memory.max` drops below the memory in use.
    OutOfMemory,
    /// `memory.max` leaves little room for more.
    LittleMemory,
    /// `cpu.max` drops.
    SlowDown,
    /// `pids.max` allows no more tasks.
    NoTask,
}

impl Blow {
    const ALL: [Blow; 9] = [
        Blow::None,
        Blow::Kill,
        Blow::KillGroup,
        Blow::Freeze,
        Blow::FreezeAndKill,
        Blow::OutOfMemory,
        Blow::LittleMemory,
        Blow::SlowDown,
        Blow::NoTask,
    ];

    /// Returns whether it ends the user.
    fn is_fatal(self) -> bool {
        matches!(self, Blow::Kill | Blow::KillGroup | Blow::FreezeAndKill)
    }

    /// Returns whether it may end the user.
    fn may_be_fatal(self) -> bool {
        self.is_fatal() || matches!(self, Blow::OutOfMemory | Blow::LittleMemory)
    }
}

impl fmt::Display for Blow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

struct Attack<'a> {
    instance: &'a Instance,
    cgroup: Cgroup,
    rng: fastrand::Rng,
    /// The user of the previous round, and whether the OOM killer may be ending it.
    user: Option<(User, bool)>,
}

fn users_end_at_random_points(env: &Env) -> Result {
    let instance = env.instance(SMALL)?;
    own_node(instance.iommu_group()?)?;
    let cgroup = Cgroup::new()?;
    let quiescent = Quiescent::before(&cgroup)?;
    let seed = env.limits.seed;
    note!("{} rounds, seed {seed}", env.limits.attacks);
    let mut attack = Attack {
        instance: &instance,
        cgroup,
        rng: fastrand::Rng::with_seed(seed),
        user: None,
    };
    let mut blows = BTreeMap::<Blow, (u32, u32)>::new();
    for round in 1..=env.limits.attacks {
        let blow = Blow::ALL[attack.rng.usize(0..Blow::ALL.len())];
        let ended = match attack.round(blow) {
            Ok(ended) => ended,
            Err(e) => {
                note!("round {round}, {blow}:");
                return Err(e);
            }
        };
        let (times, ends) = blows.entry(blow).or_default();
        *times += 1;
        *ends += u32::from(ended);
        if round % EVERY == 0 || round == env.limits.attacks {
            attack.user = None;
            quiescent.check(&attack.cgroup, &instance)?;
        }
    }
    let text: Vec<_> = blows
        .iter()
        .map(|(blow, (times, ends))| format!("{blow} {times} ({ends} ended)"))
        .collect();
    note!("{}", text.join(", "));
    Ok(())
}

impl Attack<'_> {
    fn limits(&self) -> Result {
        self.cgroup.set_memory_max(Some(MEMORY))?;
        self.cgroup.set_cpu_max(Some(PERCENT))?;
        Ok(self.cgroup.set_pids_max(Some(TASKS))?)
    }

    /// Starts a new user.
    fn new_user(&mut self) -> Result<User> {
        let locked = [0, 64 << 10, 8 << 20, 1 << 30][self.rng.usize(0..4)];
        let limits = [
            (Resource::Memlock, locked),
            (Resource::Nofile, 32),
            (Resource::Core, 0),
        ];
        let uuid = self.instance.uuid.as_str();
        let args = ["--child", "attack", uuid];
        Ok(User::start(&args, Some(&self.cgroup), &limits)?)
    }

    /// Returns a user in the middle of a new round.
    fn user(&mut self) -> Result<User> {
        let calls = self.rng.u64(1..=CALLS);
        let at = self.rng.u64(0..calls);
        let round = format!("{} {calls} {at}", self.rng.u64(..));
        if let Some((mut user, dying)) = self.user.take() {
            let said = user.say(&round);
            if said.is_ok() && hear(&mut user)? == "at" {
                return Ok(user);
            }
            let ended = user.wait(PATIENCE)?;
            if !dying {
                fail!("the user ended between two rounds: {ended:?}");
            }
        }
        let mut user = self.new_user()?;
        user.say(&round)?;
        let line = hear(&mut user)?;
        if line != "at" {
            fail!("the user printed {line:?}: {:?}", user.wait(PATIENCE)?);
        }
        Ok(user)
    }

    /// Runs one round, and returns whether the user ended.
    fn round(&mut self, blow: Blow) -> Result<bool> {
        self.limits()?;
        let mut user = self.user()?;
        self.strike(blow, &mut user)?;
        if !blow.is_fatal() && hear(&mut user)? == "done" {
            self.user = Some((user, blow.may_be_fatal()));
            return Ok(false);
        }
        let Some(status) = user.wait(PATIENCE)? else {
            let stacks = user.stacks();
            let _ = nobody_is_stuck();
            fail!("the user survives SIGKILL:\n{stacks}");
        };
        if !blow.may_be_fatal() {
            fail!("the user ended unexpectedly: {status}");
        }
        // A signal must end the user, not an error.
        if !matches!(status.signal(), Some(libc::SIGKILL | libc::SIGBUS)) && !blow.is_fatal() {
            fail!("the user ended unexpectedly: {status}");
        }
        Ok(true)
    }

    fn strike(&mut self, blow: Blow, user: &mut User) -> Result {
        let cgroup = &self.cgroup;
        match blow {
            Blow::None => {}
            Blow::Kill => user.kill()?,
            Blow::KillGroup => cgroup.kill()?,
            Blow::Freeze => {
                cgroup.freeze(true)?;
                cgroup.wait_frozen()?;
                cgroup.freeze(false)?;
            }
            Blow::FreezeAndKill => {
                cgroup.freeze(true)?;
                cgroup.wait_frozen()?;
                user.kill()?;
                cgroup.freeze(false)?;
            }
            Blow::OutOfMemory => {
                let now = cgroup.memory()?;
                cgroup.set_memory_max(Some(self.rng.u64(0..=now)))?;
            }
            Blow::LittleMemory => {
                let now = cgroup.memory()?;
                cgroup.set_memory_max(Some(now + self.rng.u64(0..4 << 20)))?;
            }
            Blow::SlowDown => cgroup.set_cpu_max(Some(self.rng.u64(10..=40)))?,
            Blow::NoTask => cgroup.set_pids_max(Some(1))?,
        }
        Ok(())
    }
}

/// Returns the user's next line, which is empty if the user has ended.
fn hear(user: &mut User) -> Result<String> {
    match user.hear_within(PATIENCE)? {
        Some(line) => Ok(line),
        None => fail!(
            "waited {} s for a line from the user:\n{}",
            PATIENCE.as_secs(),
            user.stacks()
        ),
    }
}
