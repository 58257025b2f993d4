// SPDX-License-Identifier: GPL-2.0

//! Removing instances, which waits for their users.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use vfio_client::mdev::{Instance, Sysfs};

/// How long an instance that nobody uses may take to go.
const PATIENCE: Duration = Duration::from_secs(300);

/// Held while an instance is created, and while the attribute that removes one is opened.
///
/// A write to that attribute deletes the attribute and then fails with `EAGAIN` if the instance is still being created:
/// nobody can remove the instance any more (Documentation/findings.rst).
pub(crate) static CREATING: Mutex<()> = Mutex::new(());

/// A process that removes an instance.
///
/// It is a process and not a thread: VFIO waits for the close of a device even when the waiting task is killed, so a
/// thread would keep the descriptors of a killed process open, and wait for itself (Documentation/findings.rst).
pub(crate) struct Removal(Child);

impl Removal {
    /// Begins to remove an instance.
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

    /// Waits for its end. Somebody else may have removed the instance, so it does not matter how it ended.
    pub(crate) fn wait(mut self) {
        let _ = self.0.wait();
    }
}

/// The `main` of such a process: its standard input is the attribute.
pub(crate) fn main() -> Result<(), String> {
    let attribute = io::stdin().as_fd().try_clone_to_owned();
    attribute
        .and_then(|fd| File::from(fd).write_all(b"1"))
        .map_err(|e| format!("remove: {e}"))
}

/// Removes every instance there is; which could not be.
pub(crate) fn remove_all(sysfs: &Sysfs) -> Vec<String> {
    let mut problems = Vec::new();
    match sysfs.instances() {
        Ok(instances) => {
            for instance in instances {
                match instance.remove() {
                    Ok(()) => {}
                    // A process of a worker that died may be at it.
                    Err(_) if is_gone(&instance) => {}
                    Err(e) => problems.push(e.to_string()),
                }
            }
        }
        Err(e) => problems.push(e.to_string()),
    }
    problems
}

/// Whether an instance goes, if it is given time.
fn is_gone(instance: &Instance) -> bool {
    let start = Instant::now();
    while fs::exists(instance.path()).unwrap_or(true) {
        if start.elapsed() > PATIENCE {
            return false;
        }
        thread::sleep(Duration::from_millis(1));
    }
    true
}
