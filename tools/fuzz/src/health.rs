// SPDX-License-Identifier: GPL-2.0

//! Checks after a program has closed everything: the device works, and nothing is left.

use std::fs;
use std::io;

use vfio_client::mdev::Instance;
use vfio_client::{v1, v2, Container, Device};

use crate::samples::Sample;

/// Opens and resets an instance and uses it; the error says what is wrong.
pub(crate) fn usable(instance: &Instance) -> Result<(), String> {
    check(instance).map_err(|e| format!("{}: {e}", instance.uuid))
}

fn check(instance: &Instance) -> Result<(), String> {
    let text = |e: vfio_client::Error| e.to_string();
    let container = Container::open().map_err(text)?;
    let device = instance.open(&container).map_err(text)?;
    works(sample(instance)?, &container, &device)
}

/// Returns which device an instance is.
pub(crate) fn sample(instance: &Instance) -> Result<Sample, String> {
    let id = instance.type_id().map_err(|e| e.to_string())?;
    Sample::of_type(&id).ok_or_else(|| format!("an instance of type {id}"))
}

/// Resets a device and uses it, with memory at unused IOVAs; the error says what is wrong.
pub(crate) fn works(sample: Sample, container: &Container, device: &Device) -> Result<(), String> {
    let text = |e: vfio_client::Error| e.to_string();
    device.reset().map_err(text)?;
    device.config().map_err(text)?.enable().map_err(text)?;

    let v1 = device.migration_v1().map_err(text)?.ok_or("no v1")?;
    let v2 = device.migration_v2().map_err(text)?.ok_or("no v2")?;
    let state = (v1.state().map_err(text)?, v2.state().map_err(text)?);
    if state != (v1::State::RUNNING, v2::State::RUNNING) {
        return Err(format!("after a reset it is in {state:?}"));
    }

    sample.works(container, device)
}

/// Saves an instance and loads it into itself; the error says what is wrong.
pub(crate) fn migrates(instance: &Instance) -> Result<(), String> {
    let text = |e: vfio_client::Error| format!("{}: {e}", instance.uuid);
    let device = instance.open_alone().map_err(text)?;
    let migration = device.migration_v1().map_err(text)?.ok_or("no v1")?;
    let mut stream = Vec::new();
    migration
        .set_state(v1::State::STOP_AND_COPY)
        .map_err(text)?;
    migration
        .save_all(&mut |buffer| {
            stream.push(buffer.to_vec());
            Ok(())
        })
        .map_err(text)?;
    migration.set_state(v1::State::STOP).map_err(text)?;
    migration.set_state(v1::State::RESUMING).map_err(text)?;
    for buffer in stream {
        migration.load_buffer(&buffer).map_err(text)?;
    }
    migration.set_state(v1::State::RUNNING).map_err(text)
}

/// Returns the pages that this process has locked, which include pinned ones.
pub(crate) fn locked() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    Ok(field(&status, "VmLck:").unwrap_or(0) / 4)
}

/// Returns the pages pinned on this machine; `None` if the kernel does not count them.
pub(crate) fn pinned() -> io::Result<Option<i64>> {
    // The counts are per CPU and merged now and then. This merges them now.
    fs::read("/proc/sys/vm/stat_refresh")?;
    let vmstat = fs::read_to_string("/proc/vmstat")?;
    let count = |name| field(&vmstat, name);
    Ok(count("nr_foll_pin_acquired")
        .zip(count("nr_foll_pin_released"))
        .map(|(acquired, released)| acquired.wrapping_sub(released) as i64))
}

/// Returns the number after a name.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}
