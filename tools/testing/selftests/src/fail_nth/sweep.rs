// SPDX-License-Identifier: GPL-2.0

//! Failures made to order: the kernel's allocations and its copies to and from users, one at a time.
//!
//! A kernel with fault injection fails the Nth thing that can fail in a thread when the thread asks for it in
//! `/proc/thread-self/fail-nth`. A [`Sweep`] does that to an operation for N = 1, 2, ... until the operation is through
//! with N to spare, so that nothing is left that was not made to fail. What was refused is asked for again, and has to
//! succeed.
//!
//! What counts is what a module does or has done: VFIO's, mdev's and the one under test. The rest of the kernel, which
//! is in the way of every system call, has failures of its own.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::env::meminfo::Meminfo;
use crate::harness::check::{wait_for, Errno};
use crate::harness::result::Result;
use crate::{fail, note};

const FAIL_NTH: &str = "/proc/thread-self/fail-nth";
const DEBUGFS: &str = "/sys/kernel/debug";
const KMEMLEAK: &str = "/sys/kernel/debug/kmemleak";

/// What has to be set for every allocation to be one that can fail, silently.
const KNOBS: [(&str, &str); 8] = [
    ("failslab/ignore-gfp-wait", "N"),
    ("failslab/verbose", "0"),
    ("fail_page_alloc/ignore-gfp-wait", "N"),
    ("fail_page_alloc/ignore-gfp-highmem", "N"),
    ("fail_page_alloc/min-order", "0"),
    ("fail_page_alloc/verbose", "0"),
    ("fail_usercopy/verbose", "0"),
    ("fail_usercopy/probability", "0"),
];

/// The three that can be made to fail.
const KINDS: [&str; 3] = ["failslab", "fail_page_alloc", "fail_usercopy"];

/// An object younger than this is not taken for a leak by kmemleak.
const LEAK_AGE: Duration = Duration::from_secs(6);

/// More than any operation has.
const MANY: u32 = 20_000;

/// Whether this kernel can.
pub(crate) fn available() -> bool {
    Path::new(FAIL_NTH).exists() && Path::new(DEBUGFS).join("fail_usercopy").exists()
}

/// What a kernel refuses with that lacks memory, or cannot reach a user's.
pub(crate) const SHORT: &[i32] = &[libc::ENOMEM, libc::EFAULT];

/// Operations made to fail, and what came of it. All on the thread that made it.
pub(crate) struct Sweep {
    file: File,
    pinned: i64,
    /// The name of each operation, faults, and how many of them it was refused for.
    rows: Vec<(String, u32, u32)>,
}

impl Sweep {
    /// Sets the kernel up for it.
    pub(crate) fn new() -> Result<Self> {
        for (knob, value) in KNOBS {
            fs::write(Path::new(DEBUGFS).join(knob), value)?;
        }
        // Modules lie above the kernel: what is called from there has such an address on its stack.
        let modules = fs::read_to_string("/proc/modules")?;
        let address = |line: &str| {
            let text = line.split_whitespace().nth(5)?;
            u64::from_str_radix(text.trim_start_matches("0x"), 16).ok()
        };
        let lowest = modules.lines().filter_map(address).min().unwrap_or(0);
        for kind in KINDS {
            let knob = Path::new(DEBUGFS).join(kind);
            fs::write(knob.join("require-start"), format!("{lowest:#x}"))?;
            fs::write(knob.join("stacktrace-depth"), "32")?;
            fs::write(knob.join("reject-start"), "0")?;
            fs::write(knob.join("reject-end"), "0")?;
        }
        if Path::new(KMEMLEAK).exists() {
            // What was there before is not ours.
            fs::write(KMEMLEAK, "scan")?;
            fs::write(KMEMLEAK, "clear")?;
        }
        Ok(Sweep {
            file: OpenOptions::new().read(true).write(true).open(FAIL_NTH)?,
            pinned: Meminfo::now()?.pinned(),
            rows: Vec::new(),
        })
    }

    /// From now on anything in the kernel counts.
    pub(crate) fn everywhere(&self) -> Result {
        for kind in KINDS {
            fs::write(Path::new(DEBUGFS).join(kind).join("require-start"), "0")?;
        }
        Ok(())
    }

    /// Leaves out what a function does: one that is known not to survive it (see findings.rst).
    pub(crate) fn not_in(&self, function: &str) -> Result {
        let symbols = fs::read_to_string("/proc/kallsyms")?;
        let parse = |line: &str| {
            let mut words = line.split_whitespace();
            let address = u64::from_str_radix(words.next()?, 16).ok()?;
            Some((address, words.nth(1)?.to_string()))
        };
        let mut symbols: Vec<_> = symbols.lines().filter_map(parse).collect();
        symbols.sort();
        let Some(at) = symbols.iter().position(|(_, name)| name == function) else {
            fail!("there is no function {function}");
        };
        let start = symbols[at].0;
        let end = symbols[at..]
            .iter()
            .map(|(address, _)| *address)
            .find(|a| *a > start);
        for kind in KINDS {
            let knob = Path::new(DEBUGFS).join(kind);
            fs::write(knob.join("reject-start"), format!("{start:#x}"))?;
            fs::write(
                knob.join("reject-end"),
                format!("{:#x}", end.unwrap_or(start + 4096)),
            )?;
        }
        Ok(())
    }

    /// Does it with the `n`th thing that can fail failing; also says whether there were that many.
    pub(crate) fn failing<T>(&self, n: u32, operation: impl FnOnce() -> T) -> (T, bool) {
        let mut left = [0; 16];
        self.file
            .write_all_at(n.to_string().as_bytes(), 0)
            .expect("write fail-nth");
        let result = operation();
        let failed = match self.file.read_at(&mut left, 0) {
            Ok(len) => left[..len].starts_with(b"0"),
            // The one that was left was the copy of this answer.
            Err(_) => false,
        };
        // And this is copied as well.
        while self.file.write_all_at(b"0", 0).is_err() {}
        (result, failed)
    }

    /// Has everything fail in an operation, one after the other.
    ///
    /// `prepare` comes before each, `after` after each; the operation may end with one of these errors, and then has to
    /// succeed when it is done again.
    pub(crate) fn over<T, E: Errno>(
        &mut self,
        name: &str,
        errors: &[i32],
        mut prepare: impl FnMut() -> Result,
        mut operation: impl FnMut() -> Result<T, E>,
        mut after: impl FnMut() -> Result,
    ) -> Result {
        self.once(
            name,
            errors,
            |_| prepare(),
            |()| operation(),
            |(), _| Ok(()),
            |operation| {
                if let Err(e) = operation(()) {
                    fail!("{name}: refused after it was refused once: {e:?}");
                }
                Ok(())
            },
            &mut after,
        )
    }

    /// The same for an operation that is not done again, as it takes what `prepare` makes: `check` is handed that, and
    /// the error.
    pub(crate) fn over_each<S: Clone, T, E: Errno>(
        &mut self,
        name: &str,
        errors: &[i32],
        mut prepare: impl FnMut() -> Result<S>,
        operation: impl FnMut(S) -> Result<T, E>,
        check: impl FnMut(S, Option<i32>) -> Result,
    ) -> Result {
        self.once(
            name,
            errors,
            |_| prepare(),
            operation,
            check,
            |_| Ok(()),
            &mut || Ok(()),
        )
    }

    #[allow(clippy::too_many_arguments)]
    fn once<S: Clone, T, E: Errno, F: FnMut(S) -> Result<T, E>>(
        &mut self,
        name: &str,
        errors: &[i32],
        mut prepare: impl FnMut(u32) -> Result<S>,
        mut operation: F,
        mut check: impl FnMut(S, Option<i32>) -> Result,
        mut again: impl FnMut(&mut F) -> Result,
        after: &mut dyn FnMut() -> Result,
    ) -> Result {
        let mut refused = 0;
        for n in 1..MANY {
            let at = |e: crate::harness::result::Ended| {
                crate::harness::result::Ended::failed(format!("{name}, fault {n}: {e}"))
            };
            let made = prepare(n).map_err(at)?;
            let (result, failed) = self.failing(n, || operation(made.clone()));
            let errno = match &result {
                Ok(_) => None,
                Err(e) => {
                    let errno = e.errno().unwrap_or(0);
                    if !failed {
                        fail!("{name} failed without a fault, after {}: {e:?}", n - 1);
                    }
                    if !errors.contains(&errno) {
                        fail!("{name}, fault {n}: an error it should not have: {e:?}");
                    }
                    refused += 1;
                    Some(errno)
                }
            };
            drop(result);
            check(made, errno).map_err(at)?;
            if errno.is_some() {
                again(&mut operation).map_err(at)?;
            }
            after().map_err(at)?;
            if !failed {
                self.rows.push((name.to_string(), n - 1, refused));
                return Ok(());
            }
        }
        fail!("{name} has more than {MANY} things that can fail")
    }

    /// Has everything of a kind fail that workers do for an operation, one after the other.
    ///
    /// Which worker it is cannot be said beforehand, so the kernel counts what all of them ask for: `step` bytes of slab
    /// more are granted each time, or as many copies. `operation` returns when the workers are through.
    pub(crate) fn over_workers(
        &mut self,
        name: &str,
        kind: &str,
        step: usize,
        mut prepare: impl FnMut() -> Result,
        mut operation: impl FnMut() -> Result<bool>,
        mut after: impl FnMut() -> Result,
    ) -> Result {
        let knob = |name: &str| Path::new(DEBUGFS).join(kind).join(name);
        let (mut faults, mut refused) = (0, 0);
        mark_workers()?;
        fs::write(knob("task-filter"), "Y")?;
        for space in (0..MANY).step_by(step) {
            prepare()?;
            fs::write(knob("space"), space.to_string())?;
            fs::write(knob("times"), "1")?;
            fs::write(knob("probability"), "100")?;
            let result = operation();
            let failed = fs::read_to_string(knob("times"))?.trim() == "0";
            fs::write(knob("probability"), "0")?;
            let done = result?;
            after()?;
            if !failed {
                assert!(done, "{name}: failed without a fault");
                fs::write(knob("task-filter"), "N")?;
                self.rows.push((name.to_string(), faults, refused));
                return Ok(());
            }
            faults += 1;
            refused += u32::from(!done);
        }
        fail!("{name} has more than {MANY} things that can fail")
    }

    /// Prints the table, and looks for what was leaked.
    pub(crate) fn finish(self) -> Result {
        for (name, faults, refused) in &self.rows {
            note!(
                "faults: {name} | {faults} | {refused} | {}",
                faults - refused
            );
        }
        if self.rows.iter().all(|(_, faults, _)| *faults == 0) {
            fail!("nothing was made to fail");
        }
        wait_for("the pages to be unpinned", || {
            Ok(Meminfo::now()?.pinned() == self.pinned)
        })?;
        leaks()
    }
}

/// Has the kernel's workers be those that things fail for, and those it makes later.
fn mark_workers() -> Result {
    for process in fs::read_dir("/proc")? {
        let path = process?.path();
        let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
        if name.starts_with("kworker") || name.trim() == "kthreadd" {
            // It may have ended.
            let _ = fs::write(path.join("make-it-fail"), "1");
        }
    }
    Ok(())
}

/// Fails if kmemleak finds something that nothing points to any more.
pub(crate) fn leaks() -> Result {
    if !Path::new(KMEMLEAK).exists() {
        return Ok(());
    }
    // A leak counts once two scans have not found a way to the object.
    fs::write(KMEMLEAK, "scan")?;
    thread::sleep(LEAK_AGE);
    fs::write(KMEMLEAK, "scan")?;
    let report = fs::read_to_string(KMEMLEAK)?;
    if !report.is_empty() {
        fail!("leaked:\n{report}");
    }
    Ok(())
}

/// A result without a value, for operations that make none.
pub(crate) fn done<E: Debug>(result: Result<usize, E>, all: usize) -> Result<(), E> {
    // What was done in part tells so.
    result.map(|n| assert!(n <= all))
}
