// SPDX-License-Identifier: GPL-2.0

//! What a first process does for the system.

use std::fs;
use std::io;
use std::time::Duration;

use kernel_utils::module;
use rustix::mm::{mlockall, MlockAllFlags};
use rustix::mount::{mount, MountFlags};
use rustix::system::{reboot, RebootCommand};
use rustix::time::{clock_gettime, ClockId};

/// Mounts what the kernel has to tell.
pub fn mount_all() -> io::Result<()> {
    for (kind, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        mount(kind, target, kind, MountFlags::empty(), None).map_err(|e| {
            io::Error::new(io::Error::from(e).kind(), format!("mount {target}: {e}"))
        })?;
    }
    Ok(())
}

/// Inserts the modules of a list: one path a line. The last one gets `parameters`.
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

/// Has all memory of the program there before it is used, now and in future.
///
/// A page fault between two instructions is one more thing that goes on in the processor when a register is accessed,
/// and emulators of nested virtualisation get that wrong: `Documentation/qemu.rst`, "KVM internal error".
pub fn lock_memory() -> io::Result<()> {
    Ok(mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE)?)
}

/// Time since the guest started, by its own clock: it stands still while the guest does.
pub fn now() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Switches the machine off.
pub fn power_off() -> io::Error {
    match reboot(RebootCommand::PowerOff) {
        Ok(()) => io::Error::other("the machine is still on"),
        Err(e) => e.into(),
    }
}
