// SPDX-License-Identifier: GPL-2.0

//! Runs tests and prints KTAP, version 1.
//!
//! Notes of a test, its panics, and kernel log lines that report trouble are printed as diagnostic lines before its
//! result.

pub(crate) mod catalog;
pub(crate) mod check;
pub(crate) mod limits;
pub(crate) mod need;
pub(crate) mod report;
pub(crate) mod result;
pub(crate) mod shard;
pub(crate) mod time;
mod watchdog;

use std::panic::{self, AssertUnwindSafe};
use std::thread;
use std::time::Duration;

use kernel_utils::filter;

use crate::env::Env;
use crate::harness::need::Need;
use crate::harness::report::{diagnose, problem, take_problems};
use crate::harness::result::{Ended, Result};
use crate::harness::time::Start;

/// A test: one row of its file's table.
pub(crate) struct Test {
    /// `area.what_it_shows`, or `area.pNN_what_it_shows` if the test proves a requirement.
    pub(crate) name: &'static str,
    /// The requirements that the test proves, such as `P3`.
    pub(crate) proves: &'static [&'static str],
    /// What all tests of the file need.
    pub(crate) area_needs: &'static [Need],
    /// What this test needs besides.
    pub(crate) own_needs: &'static [Need],
    /// The test.
    pub(crate) run: fn(&Env) -> Result,
}

impl Test {
    /// Returns whether the test is about devices of this mdev type.
    pub(crate) fn is_about(&self, mdev_type: &str) -> bool {
        let mut needs = self.area_needs.iter().chain(self.own_needs);
        !needs.any(|need| *need == Need::Mdma && !need.is_met(mdev_type))
    }

    /// Returns what the test needs and this machine, or a device of this mdev type, lacks.
    pub(crate) fn missing(&self, mdev_type: &str) -> Option<Need> {
        let mut needs = self.area_needs.iter().chain(self.own_needs);
        needs.find(|need| !need.is_met(mdev_type)).copied()
    }
}

/// Declares the table of a file:
///
/// ```text
/// tests! { "area" needs [Swap]:
///     first_test [],
///     p03_second_test ["P3"] needs [Hotplug],
/// }
/// ```
///
/// What the whole file or one test needs is optional.
#[macro_export]
macro_rules! tests {
    ($area:literal $(needs [$($all:ident),*])?: $($rows:tt)*) => {
        /// What all tests of this file need.
        const NEEDS: &[$crate::harness::need::Need] = &[$($($crate::harness::need::Need::$all),*)?];
        $crate::test_rows! { $area: $($rows)* }
    };
}

/// The rows of [`tests!`].
#[macro_export]
macro_rules! test_rows {
    ($area:literal: $($run:ident [$($proves:literal),*] $(needs [$($need:ident),*])?),* $(,)?) => {
        /// The tests of this file.
        pub(crate) const TESTS: &[$crate::harness::Test] = &[$(
            $crate::harness::Test {
                name: concat!($area, ".", stringify!($run)),
                proves: &[$($proves),*],
                area_needs: NEEDS,
                own_needs: &[$($($crate::harness::need::Need::$need),*)?],
                run: $run,
            },
        )*];
    };
}

/// The counts of a run.
#[derive(Default)]
pub(crate) struct Totals {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
}

/// Runs the tests in order.
pub(crate) fn run(env: &Env, tests: &[&'static Test], limit: Duration) -> Totals {
    panic::set_hook(Box::new(|info| {
        let thread = thread::current();
        let place = match thread.name() {
            Some("main") | None => String::new(),
            Some(name) => format!("thread {name}: "),
        };
        let payload = info.payload();
        let text = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied())
            .unwrap_or("panic without a message");
        match info.location() {
            Some(at) => problem(format!("{place}{}:{}: {text}", at.file(), at.line())),
            None => problem(format!("{place}{text}")),
        }
    }));
    thread::spawn(move || watchdog::watch(limit));

    println!("KTAP version 1");
    println!("1..{}", tests.len());
    let mut totals = Totals::default();
    for (i, test) in tests.iter().enumerate() {
        env.kmsg.note(&format!("selftests: {}", test.name));
        watchdog::started(test.name);
        let start = Start::now();
        let verdict = run_one(env, test);
        watchdog::ended();
        diagnose(&start.passed().to_string());
        let number = i + 1;
        match verdict {
            Verdict::Passed => {
                totals.passed += 1;
                println!("ok {number} {}", test.name);
            }
            Verdict::Failed => {
                totals.failed += 1;
                println!("not ok {number} {}", test.name);
            }
            Verdict::Skipped(why) => {
                totals.skipped += 1;
                println!("ok {number} {} # SKIP {why}", test.name);
            }
        }
    }
    println!(
        "# Totals: pass:{} fail:{} skip:{}",
        totals.passed, totals.failed, totals.skipped
    );
    totals
}

/// The number of kernel log lines to print for a failed test.
const LOG_LINES: usize = 100;

enum Verdict {
    Passed,
    Failed,
    Skipped(String),
}

fn run_one(env: &Env, test: &Test) -> Verdict {
    if let Some(need) = test.missing(env.subject()) {
        return Verdict::Skipped(format!("needs {}", need.words()));
    }
    let mark = env.kmsg.mark();
    let result = panic::catch_unwind(AssertUnwindSafe(|| (test.run)(env)));
    let mut skipped = None;
    let mut failed = false;
    match result {
        Ok(Ok(())) => {}
        Ok(Err(Ended::Skipped(why))) => skipped = Some(why),
        Ok(Err(ended)) => {
            failed = true;
            diagnose(&ended.to_string());
        }
        // The panic hook has recorded the message.
        Err(_) => failed = true,
    }
    if let Err(e) = clean_up(env) {
        problem(format!("cleaning up after the test: {e}"));
    }
    for text in take_problems() {
        failed = true;
        diagnose(&text);
    }

    let mut lines = filter::without_races_elsewhere(env.kmsg.since(mark));
    lines = filter::without_kills(lines);
    if test.name.starts_with("fail_nth.") {
        // Fault injection causes these lines.
        lines = filter::without_shortages(lines);
    }
    if lines.iter().any(|line| line.is_trouble()) {
        failed = true;
        diagnose("the kernel reported trouble in its log:");
    }
    if failed {
        // The last lines, and any earlier ones that report trouble.
        let first = lines.len().saturating_sub(LOG_LINES);
        for (n, line) in lines.iter().enumerate() {
            if n >= first || line.is_trouble() {
                diagnose(&format!("kmsg: <{}> {}", line.priority, line.text));
            }
        }
    }
    match (failed, skipped) {
        (true, _) => Verdict::Failed,
        (false, Some(why)) => Verdict::Skipped(why),
        (false, None) => Verdict::Passed,
    }
}

/// Loads the module if it is not loaded, and removes instances that the test left behind. Both fail the test. Does not
/// touch instances that the tests have not made.
pub(crate) fn clean_up(env: &Env) -> Result {
    if !env.module.is_loaded() {
        problem("the module is no longer loaded".into());
        env.module.load()?;
    }
    for instance in env.own_instances()? {
        problem(format!("the test left instance {} behind", instance.uuid));
        instance.remove()?;
    }
    Ok(())
}
