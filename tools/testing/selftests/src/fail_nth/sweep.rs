// SPDX-License-Identifier: GPL-2.0

//! Fault injection: fails the kernel's allocations and user copies one at a time.
//!
//! A thread that writes N to `/proc/thread-self/fail-nth` makes the Nth fault point it reaches fail. A [`Sweep`] runs an
//! operation with N = 1, 2, ... until the operation completes with fewer than N fault points, so each has failed once. A
//! failed operation is repeated and must then succeed.
//!
//! Only fault points below a module count: VFIO, mdev and the module under test. Other kernel code on the path of every
//! system call is excluded.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::env::meminfo::Meminfo;
use crate::harness::check::{wait_for, Errno};
use crate::harness::need::FAIL_NTH;
use crate::harness::result::Result;
use crate::{fail, note};

const DEBUGFS: &str = "/sys/kernel/debug";
const KMEMLEAK: &str = "/sys/kernel/debug/kmemleak";

/// The settings that make each allocation able to fail, without a log line.
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

/// The three kinds of faults.
const KINDS: [&str; 3] = ["failslab", "fail_page_alloc", "fail_usercopy"];

/// kmemleak does not report objects younger than this.
const LEAK_AGE: Duration = Duration::from_secs(6);

/// The limit of fault points of one operation.
const MANY: u32 = 20_000;

/// The errnos of a failed allocation and of a failed user copy.
pub(crate) const SHORT: &[i32] = &[libc::ENOMEM, libc::EFAULT];

/// A series of operations with injected faults, and the results. It works on the thread that created it.
pub(crate) struct Sweep {
    file: File,
    pinned: i64,
    /// For each operation: its name, the number of faults, and the number of faults that made it fail.
    rows: Vec<(String, u32, u32)>,
}

impl Sweep {
    /// Configures fault injection.
    pub(crate) fn new() -> Result<Self> {
        for (knob, value) in KNOBS {
            fs::write(Path::new(DEBUGFS).join(knob), value)?;
        }
        // Modules lie above the kernel, so a call from a module has such an address on its stack.
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
            // Ignore earlier reports.
            fs::write(KMEMLEAK, "scan")?;
            fs::write(KMEMLEAK, "clear")?;
        }
        Ok(Sweep {
            file: OpenOptions::new().read(true).write(true).open(FAIL_NTH)?,
            pinned: Meminfo::now()?.pinned(),
            rows: Vec::new(),
        })
    }

    /// Makes all fault points in the kernel count from now on.
    pub(crate) fn everywhere(&self) -> Result {
        for kind in KINDS {
            fs::write(Path::new(DEBUGFS).join(kind).join("require-start"), "0")?;
        }
        Ok(())
    }

    /// Excludes a function that is known not to survive a fault (see findings.rst).
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
            note!("the kernel has no {function} to exclude");
            return Ok(());
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

    /// Runs the operation with a fault at its `n`th fault point. Also returns whether it reached that many.
    pub(crate) fn failing<T>(&self, n: u32, operation: impl FnOnce() -> T) -> (T, bool) {
        let mut left = [0; 16];
        self.file
            .write_all_at(n.to_string().as_bytes(), 0)
            .expect("write fail-nth");
        let result = operation();
        let failed = match self.file.read_at(&mut left, 0) {
            Ok(len) => left[..len].starts_with(b"0"),
            // The remaining fault hit the copy of this result.
            Err(_) => false,
        };
        // This write is copied too and may fail.
        while self.file.write_all_at(b"0", 0).is_err() {}
        (result, failed)
    }

    /// Fails each fault point of an operation in turn.
    ///
    /// `prepare` runs before each attempt and `after` after it. The operation may fail with one of `errors`, and must then
    /// succeed when repeated.
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
                    fail!("{name}: failed again without a fault: {e:?}");
                }
                Ok(())
            },
            &mut after,
        )
    }

    /// Does the same for an operation that cannot be repeated because it consumes the result of `prepare`. `check` gets that
    /// result and the errno.
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
                        fail!("{name}, fault {n}: expected one of {errors:?}, got {e:?}");
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
        fail!("{name} has more than {MANY} fault points")
    }

    /// Fails each fault point of a kind that workers reach for an operation in turn.
    ///
    /// The worker is not known beforehand, so the kernel counts the requests of all workers: each attempt grants `step` more
    /// bytes of slab, or `step` more copies. `operation` returns when the workers are done.
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
        fs::write(knob("task-filter"), "Y")?;
        for space in (0..MANY).step_by(step) {
            prepare()?;
            // `prepare` may have started a task.
            mark_workers()?;
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
        fail!("{name} has more than {MANY} fault points")
    }

    /// Prints the results, and checks for leaks.
    pub(crate) fn finish(self) -> Result {
        for (name, faults, refused) in &self.rows {
            note!(
                "faults: {name} | {faults} | {refused} | {}",
                faults - refused
            );
        }
        if self.rows.iter().all(|(_, faults, _)| *faults == 0) {
            fail!("no fault was injected");
        }
        wait_for("the pages to be unpinned", || {
            Ok(Meminfo::now()?.pinned() == self.pinned)
        })?;
        leaks()
    }
}

/// Enables faults for the tasks that do the work of devices: those of this process, and the kernel's workers, present
/// and future.
fn mark_workers() -> Result {
    for task in fs::read_dir("/proc/self/task")?.chain(fs::read_dir("/proc")?) {
        let path = task?.path();
        let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
        let name = name.trim();
        if name == "mdma" || name.starts_with("kworker") || name == "kthreadd" {
            // The worker may have ended.
            let _ = fs::write(path.join("make-it-fail"), "1");
        }
    }
    Ok(())
}

/// Fails if kmemleak reports a leak.
pub(crate) fn leaks() -> Result {
    if !Path::new(KMEMLEAK).exists() {
        return Ok(());
    }
    // kmemleak reports an object that two scans found unreachable.
    fs::write(KMEMLEAK, "scan")?;
    thread::sleep(LEAK_AGE);
    fs::write(KMEMLEAK, "scan")?;
    let report = fs::read_to_string(KMEMLEAK)?;
    if !report.is_empty() {
        fail!("leaked:\n{report}");
    }
    Ok(())
}

/// Drops the value of a result, and checks that it is at most `all`.
pub(crate) fn done<E: Debug>(result: Result<usize, E>, all: usize) -> Result<(), E> {
    // A partial transfer returns a smaller count.
    result.map(|n| assert!(n <= all))
}
