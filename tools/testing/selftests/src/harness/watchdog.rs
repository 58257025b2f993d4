// SPDX-License-Identifier: GPL-2.0

//! Tells where a test that hangs is, and ends the run: a task that is stuck in the kernel cannot be killed.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::report::diagnose;

/// The running test, and when it began.
static RUNNING: Mutex<Option<(&'static str, Instant)>> = Mutex::new(None);

/// When a test is first reported. `scripts/vm` ends a machine that prints nothing for 900 s, so this is less.
const SLOW: Duration = Duration::from_secs(300);

/// A test begins.
pub(super) fn started(name: &'static str) {
    *RUNNING.lock().unwrap() = Some((name, Instant::now()));
}

/// The test has ended.
pub(super) fn ended() {
    *RUNNING.lock().unwrap() = None;
}

/// Reports a test that runs for long, and ends the run when it takes longer than `limit`.
pub(super) fn watch(limit: Duration) {
    let mut reported = None;
    loop {
        thread::sleep(Duration::from_secs(1));
        let Some((name, since)) = *RUNNING.lock().unwrap() else {
            continue;
        };
        let ends = since.elapsed() > limit;
        if ends || (since.elapsed() > SLOW && reported != Some(since)) {
            reported = Some(since);
            report(name, since.elapsed());
        }
        if ends {
            println!("Bail out! {name} hangs");
            let _ = std::io::stdout().flush();
            process::exit(1);
        }
    }
}

/// Prints where the threads of this program and of its children are.
fn report(name: &str, elapsed: Duration) {
    diagnose(&format!("{name} has run for {} s", elapsed.as_secs()));
    let own = fs::read_link("/proc/self/exe").unwrap_or_default();
    for process in entries(Path::new("/proc")) {
        if fs::read_link(process.join("exe")).is_ok_and(|exe| exe == own) {
            for task in entries(&process.join("task")) {
                let read = |file| fs::read_to_string(task.join(file)).unwrap_or_default();
                diagnose(&format!("{} {}", task.display(), read("comm").trim_end()));
                diagnose(&format!("system call {}", read("syscall").trim_end()));
                diagnose(&read("stack"));
            }
        }
    }
    // To the console: what each processor does, and all tasks that wait without being interruptible.
    for key in ["l", "w"] {
        let _ = fs::write("/proc/sysrq-trigger", key);
    }
}

/// Returns the paths in a directory.
fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> {
    let found = fs::read_dir(dir).into_iter().flatten().flatten();
    found.map(|entry| entry.path())
}
