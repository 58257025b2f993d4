// SPDX-License-Identifier: GPL-2.0

//! Checks after a program has closed everything: the device works, and nothing is left.

use std::fs;
use std::io;

use mdma::regs::{self, Reg};
use mdma::{job, Mdma, Place, Queue};
use vfio_client::mdev::Instance;
use vfio_client::{v1, v2, Container, Device, DmaBuffer};

use crate::patience::PATIENCE;

/// Bytes that the checking job moves.
const BYTES: u64 = 8192;

/// Opens and resets an instance and runs jobs on it; the error says what is wrong.
pub(crate) fn usable(instance: &Instance) -> Result<(), String> {
    check(instance).map_err(|e| format!("{}: {e}", instance.uuid))
}

fn check(instance: &Instance) -> Result<(), String> {
    let text = |e: vfio_client::Error| e.to_string();
    let container = Container::open().map_err(text)?;
    let device = instance.open(&container).map_err(text)?;
    works(&container, &device)
}

/// Resets a device and runs jobs on it, with memory at unused IOVAs; the error says what is wrong.
pub(crate) fn works(container: &Container, device: &Device) -> Result<(), String> {
    let text = |e: vfio_client::Error| e.to_string();
    let of = |e: mdma::Error| e.to_string();
    device.reset().map_err(text)?;
    device.config().map_err(text)?.enable().map_err(text)?;

    let v1 = device.migration_v1().map_err(text)?.ok_or("no v1")?;
    let v2 = device.migration_v2().map_err(text)?.ok_or("no v2")?;
    let state = (v1.state().map_err(text)?, v2.state().map_err(text)?);
    if state != (v1::State::RUNNING, v2::State::RUNNING) {
        return Err(format!("after a reset it is in {state:?}"));
    }

    let mdma = Mdma::open(device).map_err(of)?;
    let found = mdma.get(Reg::Id).map_err(of)?;
    if found != u64::from(regs::ID) {
        return Err(format!("its ID is {found:#x}"));
    }
    let memory = mdma.memory().map_err(of)?;
    let mut at_first = [1; 16];
    memory.read(0, &mut at_first).map_err(text)?;
    if at_first != [0; 16] {
        return Err("after a reset its memory does not read 0".into());
    }

    let buffer = DmaBuffer::new(container, 0x10_0000, BYTES as usize).map_err(text)?;
    let size = Queue::<vfio_client::Region, DmaBuffer>::size(2);
    let ring = DmaBuffer::new(container, 0x20_0000, size).map_err(text)?;
    let mut queue = Queue::new(mdma, ring, 2).map_err(of)?;
    for job in [
        job::fill(Place::Device(0), 0x0102_0304_0506_0708, BYTES),
        job::copy(Place::Device(0), Place::Guest(0x10_0000), BYTES),
    ] {
        queue.submit(&job).map_err(of)?;
        let completion = queue.wait(PATIENCE).map_err(of)?;
        if completion.error != 0 {
            return Err(format!("a job ended with error {}", completion.error));
        }
    }
    let expected = 0x0102_0304_0506_0708u64.to_le_bytes().repeat(1024);
    if buffer.to_vec(0, BYTES as usize) != expected {
        return Err("a copy differs from its source".into());
    }
    Ok(())
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
