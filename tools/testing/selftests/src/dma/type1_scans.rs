// SPDX-License-Identifier: GPL-2.0

//! Counts how often type1 scans a mapping that it is unmapping.
//!
//! If a scan finds pinned pages, type1 takes the lock of its device list to notify the devices. The twelfth scan in a
//! row panics the host. A kernel trace counts how often type1 takes that lock. This also works for modules without a
//! counter in debugfs, and includes scans that find pages that were pinned again.

use std::fs;
use std::io::Write;

use crate::fail;
use crate::harness::result::Result;

const TRACING: &str = "/sys/kernel/debug/tracing";
/// The name of the trace instance and of its event group.
const NAME: &str = "mdma_looks";
/// The maximal size of a `struct vfio_iommu`.
const IOMMU: u64 = 4096;

/// Counts the scans of a container's mappings until it is dropped.
pub(crate) struct Looks;

impl Looks {
    /// Starts counting. `open` opens a device in the container, and its trace contains the address of the lock.
    pub(crate) fn of<T>(open: impl FnOnce() -> Result<T>) -> Result<(Self, T)> {
        let symbols = fs::read_to_string("/proc/kallsyms")?;
        let mutex_lock = ["mutex_lock", "mutex_lock_nested"]
            .into_iter()
            .find(|name| symbols.contains(&format!(" T {name}\n")));
        let Some(mutex_lock) = mutex_lock else {
            fail!("the kernel has no function that locks a mutex");
        };
        let looks = Looks;
        define(&format!(
            "p:{NAME}/device vfio_iommu_type1:vfio_iommu_type1_register_device iommu=$arg1"
        ))?;
        define(&format!("p:{NAME}/lock {mutex_lock} lock=$arg1"))?;
        fs::create_dir(instance(""))?;
        let thread = fs::read_link("/proc/thread-self")?;
        let thread = thread.file_name().and_then(|name| name.to_str());
        let thread = thread.expect("the number of a thread");
        fs::write(event("lock", "filter"), format!("common_pid == {thread}"))?;
        fs::write(event("device", "enable"), "1")?;
        fs::write(event("lock", "enable"), "1")?;
        let opened = open()?;
        fs::write(event("lock", "enable"), "0")?;
        fs::write(event("device", "enable"), "0")?;
        let lock = list_lock(&fs::read_to_string(instance("trace"))?)?;
        fs::write(event("lock", "filter"), format!("lock == {lock:#x}"))?;
        fs::write(instance("trace"), "")?;
        fs::write(event("lock", "enable"), "1")?;
        Ok((looks, opened))
    }

    /// Returns the count. It includes devices opened since the start.
    pub(crate) fn so_far(&self) -> Result<u64> {
        let mut looks = 0;
        for cpu in fs::read_dir(instance("per_cpu"))? {
            let stats = fs::read_to_string(cpu?.path().join("stats"))?;
            let entries = stats
                .lines()
                .find_map(|line| line.strip_prefix("entries: "));
            let Some(Ok(entries)) = entries.map(str::parse::<u64>) else {
                fail!("no number of entries in {stats:?}");
            };
            looks += entries;
        }
        Ok(looks)
    }
}

impl Drop for Looks {
    fn drop(&mut self) {
        let _ = fs::remove_dir(instance(""));
        let _ = define(&format!("-:{NAME}/lock"));
        let _ = define(&format!("-:{NAME}/device"));
    }
}

/// Returns the address of `device_list_lock`, the second lock that the registration of a device takes in the IOMMU.
fn list_lock(trace: &str) -> Result<u64> {
    let value = |line: &str, name: &str| {
        let (_, value) = line.split_once(name)?;
        u64::from_str_radix(value.trim(), 16).ok()
    };
    let mut lines = trace.lines();
    let iommu = lines.find_map(|line| value(line, " iommu=0x"));
    let Some(iommu) = iommu else {
        fail!("the trace shows no registered device:\n{trace}");
    };
    let mut locks = lines
        .filter_map(|line| value(line, " lock=0x"))
        .filter(|lock| (iommu..iommu + IOMMU).contains(lock));
    let outer = locks.next();
    match locks.find(|&lock| Some(lock) != outer) {
        Some(lock) => Ok(lock),
        None => fail!("the trace shows no lock of a device list:\n{trace}"),
    }
}

fn instance(file: &str) -> String {
    format!("{TRACING}/instances/{NAME}/{file}")
}

fn event(event: &str, file: &str) -> String {
    instance(&format!("events/{NAME}/{event}/{file}"))
}

fn define(line: &str) -> std::io::Result<()> {
    let path = format!("{TRACING}/kprobe_events");
    let mut file = fs::OpenOptions::new().append(true).open(path)?;
    writeln!(file, "{line}")
}
