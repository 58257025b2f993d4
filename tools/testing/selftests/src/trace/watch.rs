// SPDX-License-Identifier: GPL-2.0

//! Records the trace events of a module in a trace instance.

use std::fs;
use std::path::Path;

use vfio_client::mdev::Uuid;

use crate::fail;
use crate::harness::report::problem;
use crate::harness::result::Result;

/// The file system of the kernel's tracing.
const TRACING: &str = "/sys/kernel/debug/tracing";
/// The name of the trace instance.
const NAME: &str = "vfio_selftests";
/// The size of the buffer of each processor in KiB: a test must lose no event.
const BUFFER: u32 = 8192;

/// All events.
pub(crate) const ALL: [&str; 8] = [
    "vfio_dma_unmap",
    "vfio_mig_load_record",
    "vfio_mig_pass_end",
    "vfio_mig_pass_start",
    "vfio_mig_save_record",
    "vfio_mig_state",
    "vfio_pin_pages",
    "vfio_unpin_pages",
];

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// Its name.
    pub(crate) name: String,
    /// What follows the UUID of the device.
    pub(crate) text: String,
}

impl Event {
    /// Returns the number after `NAME=`.
    pub(crate) fn number(&self, name: &str) -> Result<i64> {
        let value = self.text.split_whitespace().find_map(|field| {
            let (key, value) = field.split_once('=')?;
            (key == name).then_some(value)
        });
        let parsed = value.and_then(|value| match value.strip_prefix("0x") {
            Some(digits) => i64::from_str_radix(digits, 16).ok(),
            None => value.parse().ok(),
        });
        match parsed {
            Some(number) => Ok(number),
            None => fail!("no number {name} in {self:?}"),
        }
    }
}

/// Returns the directories of the events that a module has, by name.
pub(crate) fn events_of(module: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(format!("{TRACING}/events/{module}"))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Returns the number of an event, as `perf` uses it.
pub(crate) fn id_of(module: &str, event: &str) -> Result<u32> {
    let id = fs::read_to_string(format!("{TRACING}/events/{module}/{event}/id"))?;
    match id.trim().parse() {
        Ok(id) => Ok(id),
        Err(_) => fail!("{module}:{event} has the id {id:?}"),
    }
}

/// Returns whether the kernel has no trace system of this name.
pub(crate) fn is_unknown(module: &str) -> bool {
    !Path::new(&format!("{TRACING}/events/{module}")).exists()
}

/// Records the events of a module until it is dropped.
pub(crate) struct Watch;

impl Watch {
    /// Begins to record all events of a module.
    pub(crate) fn module(module: &str) -> Result<Self> {
        fs::create_dir(file(""))?;
        let watch = Watch;
        fs::write(file("buffer_size_kb"), BUFFER.to_string())?;
        fs::write(file(&format!("events/{module}/enable")), "1")?;
        Ok(watch)
    }

    /// Returns the events of a device so far, and forgets them.
    pub(crate) fn take(&self, uuid: &str) -> Result<Vec<Event>> {
        let text = fs::read_to_string(file("trace"))?;
        self.expect_complete()?;
        fs::write(file("trace"), "")?;
        let of = |line: &str| {
            let (before, text) = line.split_once(&format!(": {uuid}: "))?;
            let name = before.rsplit(' ').next()?;
            Some(Event {
                name: name.to_string(),
                text: text.trim_end().to_string(),
            })
        };
        Ok(text.lines().filter_map(of).collect())
    }

    /// Returns the devices whose events were recorded.
    pub(crate) fn devices(&self) -> Result<Vec<String>> {
        let text = fs::read_to_string(file("trace"))?;
        let words = text.split_whitespace();
        let names = words.filter_map(|word| word.strip_suffix(':'));
        let mut uuids: Vec<_> = names
            .filter(|name| Uuid::parse(name).is_ok())
            .map(str::to_string)
            .collect();
        uuids.sort();
        uuids.dedup();
        Ok(uuids)
    }

    /// Checks that the buffers were large enough.
    fn expect_complete(&self) -> Result {
        for cpu in fs::read_dir(file("per_cpu"))? {
            let stats = fs::read_to_string(cpu?.path().join("stats"))?;
            for name in ["overrun: ", "commit overrun: ", "dropped events: "] {
                let count = stats.lines().find_map(|line| line.strip_prefix(name));
                if count != Some("0") {
                    fail!("events were lost: {stats}");
                }
            }
        }
        Ok(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir(file("")) {
            problem(format!("cannot remove the trace instance: {e}"));
        }
    }
}

/// Returns the path of a file of the instance.
fn file(name: &str) -> String {
    format!("{TRACING}/instances/{NAME}/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        let event = Event {
            name: "vfio_pin_pages".into(),
            text: "iova=0x1000 npages=3 ret=-12".into(),
        };
        assert_eq!(event.number("iova").ok(), Some(0x1000));
        assert_eq!(event.number("ret").ok(), Some(-12));
        assert!(event.number("pages").is_err());
    }
}
