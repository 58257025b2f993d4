// SPDX-License-Identifier: GPL-2.0

//! How much memory the kernel uses, and for what.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::Duration;

use crate::outcome::Outcome;

/// Amounts by name, at one time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meminfo {
    /// `/proc/meminfo`, in KiB.
    kib: BTreeMap<String, i64>,
    /// `/proc/vmstat`, counts.
    vmstat: BTreeMap<String, i64>,
    /// Objects in use of each slab cache.
    objects: BTreeMap<String, i64>,
    /// Areas of vmalloc by who asked for them.
    areas: BTreeMap<String, i64>,
}

/// The lines of a file as a name and a number.
fn table(path: &str, column: usize) -> Outcome<BTreeMap<String, i64>> {
    let text = fs::read_to_string(path)?;
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.next()?.trim_end_matches(':').to_string();
        Some((name, words.nth(column)?.parse().ok()?))
    };
    Ok(text.lines().filter_map(row).collect())
}

impl Meminfo {
    /// The amounts once caches are dropped and what is freed late is freed.
    pub(crate) fn settled() -> Outcome<Self> {
        for _ in 0..3 {
            rustix::fs::sync();
            fs::write("/proc/sys/vm/drop_caches", "3")?;
            // Caches keep free objects for each processor; asked to shrink, they give them back.
            for cache in fs::read_dir("/sys/kernel/slab")
                .into_iter()
                .flatten()
                .flatten()
            {
                let _ = fs::write(cache.path().join("shrink"), "1");
            }
            // And so do the page lists of each processor.
            let _ = fs::write("/proc/sys/vm/compact_memory", "1");
            // Grace periods and workers.
            thread::sleep(Duration::from_millis(150));
        }
        Self::now()
    }

    /// The amounts as they are.
    pub(crate) fn now() -> Outcome<Self> {
        let mut areas = BTreeMap::new();
        for line in fs::read_to_string("/proc/vmallocinfo")?.lines() {
            // Address range, size, caller.
            if let Some(caller) = line.split_whitespace().nth(2) {
                *areas.entry(caller.to_string()).or_default() += 1;
            }
        }
        Ok(Meminfo {
            kib: table("/proc/meminfo", 0)?,
            vmstat: table("/proc/vmstat", 0)?,
            objects: table("/proc/slabinfo", 0)?,
            areas,
        })
    }

    /// Free memory, in KiB.
    pub(crate) fn free_kib(&self) -> i64 {
        self.kib("MemFree")
    }

    /// A line of `/proc/meminfo`, in KiB.
    pub(crate) fn kib(&self, name: &str) -> i64 {
        *self
            .kib
            .get(name)
            .unwrap_or_else(|| panic!("no {name} in /proc/meminfo"))
    }

    /// Pages pinned by drivers and not unpinned.
    pub(crate) fn pinned(&self) -> i64 {
        let get = |name| {
            self.vmstat
                .get(name)
                .copied()
                .unwrap_or_else(|| panic!("no {name}"))
        };
        get("nr_foll_pin_acquired") - get("nr_foll_pin_released")
    }

    /// Slab caches whose number of objects has grown since `before` by at least `by`.
    pub(crate) fn grown_caches(&self, before: &Meminfo, by: i64) -> Vec<(String, i64)> {
        grown(&self.objects, &before.objects, by)
    }

    /// Callers whose number of vmalloc areas has grown since `before`.
    pub(crate) fn grown_areas(&self, before: &Meminfo) -> Vec<(String, i64)> {
        grown(&self.areas, &before.areas, 1)
    }
}

fn grown(
    now: &BTreeMap<String, i64>,
    before: &BTreeMap<String, i64>,
    by: i64,
) -> Vec<(String, i64)> {
    let growth = |(name, n): (&String, &i64)| (name.clone(), n - before.get(name).unwrap_or(&0));
    now.iter().map(growth).filter(|(_, n)| *n >= by).collect()
}
