// SPDX-License-Identifier: GPL-2.0

//! The host suspends while devices work and migrate, and all of them go on when it resumes.
//!
//! The kernel suspends all of the host's devices and resumes them, as for s2idle (`/sys/power/pm_test`).

use std::fs;

use mdma::regs::Reg;

use crate::env::{Env, SMALL};
use crate::fixture::puppet::Puppet;
use crate::fixture::v2::MdmaV2;
use crate::fixture::wait_register;
use crate::harness::need::SUSPEND_TEST;
use crate::harness::result::Result;
use crate::hostile::load::migrate;
use crate::tests;

tests! { "suspend" needs [Mdma]:
    a_job_goes_on [] needs [Suspend],
    a_migration_goes_on [] needs [Suspend],
}

/// Suspends the host, which resumes at once.
fn suspend() -> Result {
    fs::write("/sys/module/suspend/parameters/pm_test_delay", "0")?;
    fs::write(SUSPEND_TEST, "platform")?;
    let suspended = fs::write("/sys/power/state", "freeze");
    fs::write(SUSPEND_TEST, "none")?;
    Ok(suspended?)
}

fn a_job_goes_on(env: &Env) -> Result {
    let instance = env.instance(SMALL)?;
    let mut user = Puppet::open(&instance, None, &[], None)?;
    // A second for each unit, of which the job has 256.
    user.order("throttle 1000000")?;
    user.order("work 1")?;
    let (device, container) = user.share(&instance)?;
    let mdma = mdma::Mdma::new(device.region(mdma::regs::BAR_REGISTERS)?)?;
    wait_register(&mdma, Reg::BytesDone, "the job to begin", |n| n > 0)?;
    suspend()?;
    assert_eq!(
        mdma.get(Reg::JobsDone)?,
        0,
        "the job ended before the host resumed"
    );
    user.order("throttle 0")?;
    assert_eq!(user.ask("end")?, "0");
    drop((mdma, device, container));
    user.order("fill 100")?;
    assert_eq!(user.ask("end")?, "0");
    Ok(())
}

/// Once while both devices have a session open, and once when all data was moved.
fn a_migration_goes_on(env: &Env) -> Result {
    let (from, to) = (MdmaV2::new(env)?, MdmaV2::new(env)?);
    migrate(&from, &to, 1, &|| suspend().expect("the host suspends"))
}
