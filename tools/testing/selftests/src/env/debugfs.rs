// SPDX-License-Identifier: GPL-2.0

//! What debugfs counts for an instance.

use std::fs;

use crate::fail;
use crate::harness::check::wait_for;
use crate::harness::result::Result;

/// A number in a file of an instance's directory: a line `NAME: VALUE`.
fn number(uuid: &str, file: &str, name: &str) -> Result<u64> {
    let path = format!("/sys/kernel/debug/mdma/{uuid}/{file}");
    let mut text = String::new();
    // The file does not wait for a change of the state or a buffer that is being loaded.
    wait_for("the device not to be busy", || {
        text = fs::read_to_string(&path)?;
        Ok(text != "state: busy\n")
    })?;
    let value = text.lines().find_map(|line| {
        let (key, value) = line.split_once(": ")?;
        (key == name).then(|| value.trim().parse().ok())?
    });
    match value {
        Some(value) => Ok(value),
        None => fail!("debugfs does not count {name}"),
    }
}

/// What is counted of its migrations and its memory.
pub(crate) fn migration(uuid: &str, name: &str) -> Result<u64> {
    number(uuid, "migration", name)
}

/// What is counted of its use.
pub(crate) fn counters(uuid: &str, name: &str) -> Result<u64> {
    number(uuid, "counters", name)
}
