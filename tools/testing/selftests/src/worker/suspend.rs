// SPDX-License-Identifier: GPL-2.0

//! The host suspends while devices work and migrate, and all of them go on when it resumes.
//!
//! The host is suspended to idle until a byte arrives at the serial port `WAKEUP_TTY`, which `scripts/vm` sends.

use std::fs::{self, OpenOptions};
use std::io::{Error, ErrorKind};
use std::os::unix::fs::OpenOptionsExt;

use mdma::regs::Reg;
use rustix::termios::{self, LocalModes, OptionalActions};

use crate::env::{Env, SMALL};
use crate::fixture::puppet::Puppet;
use crate::fixture::v2::MdmaV2;
use crate::fixture::wait_register;
use crate::harness::need::wakeup_port;
use crate::harness::result::Result;
use crate::hostile::load::migrate;
use crate::tests;

tests! { "suspend" needs [Mdma]:
    a_job_goes_on [] needs [Wakeup],
    a_migration_goes_on [] needs [Wakeup],
}

/// A byte that arrives while the host is being suspended ends the attempt.
const ATTEMPTS: u32 = 20;

/// Suspends the host, which resumes when a byte arrives.
fn suspend() -> Result {
    let name = wakeup_port().expect("a test that needs the port runs with it");
    // The port interrupts only while it is open.
    let port = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(format!("/dev/{name}"))?;
    // The last close would wait half a minute for the echo to be sent.
    let mut modes = termios::tcgetattr(&port)?;
    modes.local_modes.remove(LocalModes::ECHO);
    termios::tcsetattr(&port, OptionalActions::Now, &modes)?;
    let wakeup = format!("/sys/class/tty/{name}/power/wakeup");
    fs::write(&wakeup, "enabled")?;
    let suspended = (0..ATTEMPTS)
        .map(|_| fs::write("/sys/power/state", "freeze"))
        .find(|tried| !tried.as_ref().is_err_and(is_busy));
    fs::write(&wakeup, "disabled")?;
    suspended.expect("the host sleeps before it is woken up")?;
    Ok(())
}

fn is_busy(error: &Error) -> bool {
    error.kind() == ErrorKind::ResourceBusy
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
