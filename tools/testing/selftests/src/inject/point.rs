// SPDX-License-Identifier: GPL-2.0

//! A point at which a device can be made to fail or to wait, and the files of all points.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;

use crate::env::{debugfs, Env};
use crate::fixture::Fixture;
use crate::harness::check::wait_for;
use crate::harness::result::Result;
use crate::{assert_errno, fail, tests};

tests! { "inject":
    everything_is_off_at_first [],
    only_root_may_ask [],
    the_limits_of_the_files [],
}

/// All points.
pub(crate) const ALL: [&str; 8] = [
    "save",
    "save_record",
    "load",
    "load_record",
    "stop",
    "run",
    "pin",
    "dma",
];

/// A point of one device.
pub(crate) struct Point {
    uuid: String,
    name: &'static str,
    directory: String,
}

impl Point {
    /// Returns the point with this name.
    pub(crate) fn of(uuid: &str, name: &'static str) -> Result<Self> {
        Ok(Point {
            uuid: uuid.to_string(),
            name,
            directory: debugfs::path(uuid, &format!("faults/{name}"))?,
        })
    }

    /// Lets the `nth` call from now on fail.
    pub(crate) fn fail(&self, nth: u64) -> Result {
        Ok(self.write("fail_nth", &nth.to_string())?)
    }

    /// Sets how long each call waits.
    pub(crate) fn delay(&self, msecs: u64) -> Result {
        Ok(self.write("delay_ms", &msecs.to_string())?)
    }

    fn write(&self, file: &str, text: &str) -> io::Result<()> {
        fs::write(format!("{}/{file}", self.directory), text)
    }

    fn read(&self, file: &str) -> Result<u64> {
        let text = fs::read_to_string(format!("{}/{file}", self.directory))?;
        match text.trim_end().parse() {
            Ok(number) => Ok(number),
            Err(_) => fail!("{file} of {} has {text:?}", self.name),
        }
    }

    /// Returns the number of calls until one fails.
    pub(crate) fn left(&self) -> Result<u64> {
        self.read("fail_nth")
    }

    /// Returns how many calls failed.
    pub(crate) fn failed(&self) -> Result<u64> {
        debugfs::number(
            &self.uuid,
            "faults/counts",
            &format!("{}_failed", self.name),
        )
    }

    /// Returns how many calls waited, or wait now.
    pub(crate) fn delayed(&self) -> Result<u64> {
        debugfs::number(
            &self.uuid,
            "faults/counts",
            &format!("{}_delayed", self.name),
        )
    }

    /// Checks that the failure that was asked for has happened, and no other.
    #[track_caller]
    pub(crate) fn expect_failed(&self, times: u64) -> Result {
        assert_eq!(self.failed()?, times, "failures of {}", self.name);
        assert_eq!(self.left()?, 0, "{}: a failure is left", self.name);
        Ok(())
    }

    /// Waits until `times` calls wait, or have waited.
    pub(crate) fn wait_delayed(&self, times: u64) -> Result {
        wait_for(&format!("a call that waits in {}", self.name), || {
            Ok(self.delayed()? == times)
        })
    }
}

fn everything_is_off_at_first(env: &Env) -> Result {
    let fixture = Fixture::new(env)?;
    for name in ALL {
        let point = Point::of(fixture.uuid(), name)?;
        assert_eq!(point.read("fail_nth")?, 0, "{name}");
        assert_eq!(point.read("delay_ms")?, 0, "{name}");
    }
    fixture.usable()?;
    for name in ALL {
        let point = Point::of(fixture.uuid(), name)?;
        assert_eq!(point.failed()?, 0, "{name}");
        assert_eq!(point.delayed()?, 0, "{name}");
    }
    Ok(())
}

fn only_root_may_ask(env: &Env) -> Result {
    let instance = env.instance(env.subject())?;
    let uuid = instance.uuid.as_str();
    for name in ALL {
        for file in ["fail_nth", "delay_ms"] {
            let path = debugfs::path(uuid, &format!("faults/{name}/{file}"))?;
            let mode = fs::metadata(&path)?.permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{path}");
        }
    }
    let counts = debugfs::path(uuid, "faults/counts")?;
    assert_eq!(fs::metadata(counts)?.permissions().mode() & 0o777, 0o400);
    Ok(())
}

fn the_limits_of_the_files(env: &Env) -> Result {
    let instance = env.instance(env.subject())?;
    let point = Point::of(instance.uuid.as_str(), "save")?;
    for (file, max, other) in [
        ("fail_nth", u64::from(u32::MAX), "delay_ms"),
        ("delay_ms", 60_000, "fail_nth"),
    ] {
        point.write(file, &max.to_string())?;
        for bad in [&(max + 1).to_string(), &u64::MAX.to_string(), "-1", "x"] {
            assert_errno!(point.write(file, bad), EINVAL, "{bad} to {file}");
        }
        // Neither has changed, and the files do not disturb each other.
        assert_eq!(point.read(file)?, max);
        assert_eq!(point.read(other)?, 0);
        point.write(file, "0x10")?;
        assert_eq!(point.read(file)?, 16);
        point.write(file, "0")?;
    }
    Ok(())
}
