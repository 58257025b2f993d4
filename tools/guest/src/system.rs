// SPDX-License-Identifier: GPL-2.0

//! The duties of a first process.

use std::fs;
use std::io;
use std::time::Duration;

use kernel_utils::module;
use rustix::mm::{mlockall, MlockAllFlags};
use rustix::mount::{mount, MountFlags};
use rustix::system::{reboot, RebootCommand};
use rustix::time::{clock_gettime, ClockId};

/// Mounts the kernel's file systems.
pub fn mount_all() -> io::Result<()> {
    for (kind, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        mount(kind, target, kind, MountFlags::empty(), None).map_err(|e| {
            io::Error::new(io::Error::from(e).kind(), format!("mount {target}: {e}"))
        })?;
    }
    Ok(())
}

/// Loads the modules of a list with one path per line. The last one gets `parameters`.
pub fn insert_modules(list: &str, parameters: &str) -> io::Result<()> {
    let text = fs::read_to_string(list)?;
    let mut lines = text.lines().peekable();
    while let Some(path) = lines.next() {
        let parameters = if lines.peek().is_some() {
            ""
        } else {
            parameters
        };
        module::load(path, parameters)
            .map_err(|e| io::Error::new(e.kind(), format!("load {path}: {e}")))?;
    }
    Ok(())
}

/// Locks all present and future memory of the program.
///
/// A page fault between two instructions is one more event while a register is accessed, and emulators of nested
/// virtualisation get that wrong: `Documentation/qemu.rst`, "KVM internal error".
pub fn lock_memory() -> io::Result<()> {
    Ok(mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE)?)
}

/// Returns the time since the guest started, by the guest's clock, which stops while the guest is stopped.
pub fn now() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Suspends the machine to RAM. Returns when it has woken up.
pub fn suspend() -> io::Result<()> {
    fs::write("/sys/power/state", "mem")
}

/// Makes the kernel panic. Returns only on failure.
pub fn panic() -> io::Error {
    let told = fs::write("/proc/sysrq-trigger", "c");
    told.err()
        .unwrap_or_else(|| io::Error::other("the kernel has not panicked"))
}

/// Switches the machine off. Returns only on failure.
pub fn power_off() -> io::Error {
    match reboot(RebootCommand::PowerOff) {
        Ok(()) => io::Error::other("the machine is still on"),
        Err(e) => e.into(),
    }
}
