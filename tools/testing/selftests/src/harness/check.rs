// SPDX-License-Identifier: GPL-2.0

//! Checks beyond `assert!` and `assert_eq!`.

use std::fmt::Debug;
use std::io;
use std::time::{Duration, Instant};

use kernel_utils::{Line, Mark};
use vfio_client::{errno_name, EventFd};

use crate::env::Env;
use crate::harness::result::{Ended, Result};

/// How long to wait for something that must happen: enough for the slowest emulated machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// How long to wait for something that must not happen and has no event after it. A bug shows within a millisecond,
/// unless the host is busy, and the next run shows it then.
pub(crate) const SILENCE: Duration = Duration::from_millis(50);

/// An error with an errno.
pub(crate) trait Errno: Debug {
    /// Returns the errno if the error comes from a system call.
    fn errno(&self) -> Option<i32>;
}

impl Errno for io::Error {
    fn errno(&self) -> Option<i32> {
        self.raw_os_error()
    }
}

impl Errno for vfio_client::Error {
    fn errno(&self) -> Option<i32> {
        vfio_client::Error::errno(self)
    }
}

impl Errno for rustix::io::Errno {
    fn errno(&self) -> Option<i32> {
        Some(self.raw_os_error())
    }
}

fn name(errno: i32) -> String {
    errno_name(errno).map_or_else(|| errno.to_string(), str::to_string)
}

/// Panics unless `result` is an error with this errno.
#[track_caller]
pub(crate) fn expect_errno<T, E: Errno>(result: Result<T, E>, errno: i32, call: &str) {
    match result {
        Err(e) if e.errno() == Some(errno) => {}
        Err(e) => panic!("{call}: expected {}, got {e:?}", name(errno)),
        Ok(_) => panic!("{call}: expected {}, it succeeded", name(errno)),
    }
}

/// Checks that a call fails with an errno: `assert_errno!(device.reset(), EINVAL)`. Further arguments describe the
/// circumstances, in the syntax of `format!`.
#[macro_export]
macro_rules! assert_errno {
    ($call:expr, $errno:ident $(,)?) => {
        $crate::harness::check::expect_errno($call, ::libc::$errno, stringify!($call))
    };
    ($call:expr, $errno:ident, $($arg:tt)+) => {
        $crate::harness::check::expect_errno($call, ::libc::$errno, &format!($($arg)+))
    };
}

/// Checks that the kernel refuses a call: the call fails with an errno, and the kernel logs one line that names the
/// device and contains `reason`.
///
/// `assert_refused!(env, device.name(), config.write_u64(0, 0), EINVAL, "8 bytes")`. The call may be made twice.
#[macro_export]
macro_rules! assert_refused {
    ($env:expr, $uuid:expr, $call:expr, $errno:ident, $reason:expr $(,)?) => {
        $crate::harness::check::expect_refusal(
            $env,
            ::std::convert::AsRef::<str>::as_ref(&$uuid),
            ::libc::$errno,
            $reason,
            stringify!($call),
            || $call,
        )
    };
}

/// See [`assert_refused`].
#[track_caller]
pub(crate) fn expect_refusal<T, E: Errno>(
    env: &Env,
    uuid: &str,
    errno: i32,
    reason: &str,
    name: &str,
    call: impl FnOnce() -> Result<T, E>,
) {
    let mark = env.kmsg.mark();
    // This refusal must log a line, and no other: each costs an emulated console half a millisecond.
    env.module.limit_log(false).expect("log_limit in debugfs");
    let result = call();
    env.module.limit_log(true).expect("log_limit in debugfs");
    expect_errno(result, errno, name);
    let lines = refusals(env.kmsg.since(mark), uuid);
    match &lines[..] {
        [one] if one.to_lowercase().contains(&reason.to_lowercase()) => {}
        [] => panic!("{name}: refused, but no log line names {uuid}"),
        [one] => panic!("{name}: expected {reason:?} in the log, got {one:?}"),
        many => panic!(
            "{name}: expected one log line, got {}: {many:?}",
            many.len()
        ),
    }
}

/// Checks that the kernel has logged no line that names the device since `mark`.
#[track_caller]
pub(crate) fn expect_no_line(env: &Env, uuid: &str, mark: Mark, what: &str) {
    let lines = env.kmsg.since(mark);
    let ours: Vec<_> = lines.iter().filter(|l| l.text.contains(uuid)).collect();
    assert!(ours.is_empty(), "{what}: logged {ours:?}");
}

/// Returns the module's lines that name the device, without rate limit notices and the driver core's lines about failed
/// creations.
fn refusals(lines: Vec<Line>, uuid: &str) -> Vec<String> {
    let ours = |text: &String| {
        text.contains(uuid)
            && !text.contains("callbacks suppressed")
            && !text.contains("probe with driver")
    };
    lines
        .into_iter()
        .map(|line| line.text)
        .filter(ours)
        .collect()
}

/// Waits until `done` returns `true`, and fails the test after [`PATIENCE`]. The message names `what`.
#[track_caller]
pub(crate) fn wait_for(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result {
    let start = Instant::now();
    let mut pause = Duration::from_micros(100);
    // Created here so that it records the location of the caller.
    let late = Ended::failed(format!("waited {} s for {what}", PATIENCE.as_secs()));
    while !done()? {
        if start.elapsed() > PATIENCE {
            return Err(late);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
    Ok(())
}

/// Waits for a signal and returns the count.
#[track_caller]
pub(crate) fn expect_signal(event: &EventFd, what: &str) -> u64 {
    let count = event.wait(PATIENCE).expect("poll of an eventfd");
    assert!(count > 0, "waited {} s for {what}", PATIENCE.as_secs());
    count
}

/// Checks that no signal arrives.
#[track_caller]
pub(crate) fn expect_silence(event: &EventFd, why: &str) {
    let count = event.wait(SILENCE).expect("poll of an eventfd");
    assert_eq!(count, 0, "unexpected signal: {why}");
}
