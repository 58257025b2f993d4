// SPDX-License-Identifier: GPL-2.0

//! Removal of instances, which waits for their users.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use vfio_client::mdev::{Instance, Sysfs, Uuid};

use crate::patience;

/// Held while an instance is created, and while the attribute that removes one is opened.
///
/// A write to that attribute deletes the attribute and then fails with `EAGAIN` if the instance is still being created,
/// so the instance can never be removed (Documentation/findings.rst).
pub(crate) static CREATING: Mutex<()> = Mutex::new(());

/// A process that removes an instance.
///
/// A process, not a thread: VFIO waits for the close of a device even when the waiting task is killed. A thread would
/// keep the descriptors of a killed process open, and wait for itself (Documentation/findings.rst).
pub(crate) struct Removal(Child);

impl Removal {
    /// Starts the removal of an instance.
    pub(crate) fn begin(instance: &Instance) -> io::Result<Self> {
        let attribute = {
            let _created = CREATING.lock().unwrap();
            OpenOptions::new()
                .write(true)
                .open(instance.path().join("remove"))?
        };
        let child = Command::new("/proc/self/exe")
            .arg("--remove")
            .stdin(attribute)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Removal(child))
    }

    /// Returns whether it still waits.
    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }

    /// Waits for it to exit. Ignores the status, because somebody else may have removed the instance.
    pub(crate) fn wait(mut self) {
        let _ = self.0.wait();
    }
}

/// The `main` of such a process. Its standard input is the attribute.
pub(crate) fn main() -> Result<(), String> {
    let attribute = io::stdin().as_fd().try_clone_to_owned();
    attribute
        .and_then(|fd| File::from(fd).write_all(b"1"))
        .map_err(|e| format!("remove: {e}"))
}

/// Removes every instance except one; returns those that could not be removed.
pub(crate) fn remove_all(sysfs: &Sysfs, except: Option<&Uuid>) -> Vec<String> {
    let mut problems = Vec::new();
    match sysfs.instances() {
        Ok(instances) => {
            let other = |instance: &Instance| Some(&instance.uuid) != except;
            for instance in instances.into_iter().filter(other) {
                match instance.remove() {
                    Ok(()) => {}
                    // A process of a dead worker may be removing it.
                    Err(_) if is_gone(&instance) => {}
                    Err(e) => problems.push(e.to_string()),
                }
            }
        }
        Err(e) => problems.push(e.to_string()),
    }
    problems
}

/// Returns whether an instance disappears within the timeout.
fn is_gone(instance: &Instance) -> bool {
    patience::holds(|| Ok(!fs::exists(instance.path()).unwrap_or(true))).unwrap_or(false)
}
