// SPDX-License-Identifier: GPL-2.0

//! The kernel's memory use by purpose.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::Duration;

use crate::harness::result::Result;

/// A snapshot of amounts and counts by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Meminfo {
    /// `/proc/meminfo`, in KiB.
    kib: BTreeMap<String, i64>,
    /// Free pages on per-CPU lists, in KiB; `MemFree` does not include them.
    kept_kib: i64,
    /// `/proc/vmstat`, counts.
    vmstat: BTreeMap<String, i64>,
    /// Objects in use of each slab cache.
    objects: BTreeMap<String, i64>,
    /// vmalloc areas by caller.
    areas: BTreeMap<String, i64>,
}

/// Parses the lines of a file into names and numbers.
fn table(path: &str, column: usize) -> Result<BTreeMap<String, i64>> {
    let text = fs::read_to_string(path)?;
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.next()?.trim_end_matches(':').to_string();
        Some((name, words.nth(column)?.parse().ok()?))
    };
    Ok(text.lines().filter_map(row).collect())
}

impl Meminfo {
    /// Takes a snapshot after dropping caches and waiting for deferred frees.
    pub(crate) fn settled() -> Result<Self> {
        for _ in 0..3 {
            rustix::fs::sync();
            fs::write("/proc/sys/vm/drop_caches", "3")?;
            // Slab caches keep free objects per CPU and release them when shrunk.
            for cache in fs::read_dir("/sys/kernel/slab")
                .into_iter()
                .flatten()
                .flatten()
            {
                let _ = fs::write(cache.path().join("shrink"), "1");
            }
            // Wait for grace periods and workers.
            thread::sleep(Duration::from_millis(150));
        }
        Self::now()
    }

    /// Takes a snapshot now.
    pub(crate) fn now() -> Result<Self> {
        // Folds the per-CPU counts.
        fs::read_to_string("/proc/sys/vm/stat_refresh")?;
        let mut areas = BTreeMap::new();
        for line in fs::read_to_string("/proc/vmallocinfo")?.lines() {
            // Address range, size, caller.
            if let Some(caller) = line.split_whitespace().nth(2) {
                *areas.entry(caller.to_string()).or_default() += 1;
            }
        }
        let kept = |line: &str| {
            line.trim()
                .strip_prefix("count:")?
                .trim()
                .parse::<i64>()
                .ok()
        };
        let zones = fs::read_to_string("/proc/zoneinfo")?;
        Ok(Meminfo {
            kib: table("/proc/meminfo", 0)?,
            kept_kib: 4 * zones.lines().filter_map(kept).sum::<i64>(),
            vmstat: table("/proc/vmstat", 0)?,
            objects: table("/proc/slabinfo", 0)?,
            areas,
        })
    }

    /// Returns free memory in KiB.
    pub(crate) fn free_kib(&self) -> i64 {
        self.kib("MemFree") + self.kept_kib
    }

    /// Returns the memory in KiB that belongs to no process, cache or slab, such as pages that a driver has allocated.
    pub(crate) fn nameless_kib(&self) -> i64 {
        const NAMED: [&str; 9] = [
            "Buffers",
            "Cached",
            "SwapCached",
            "AnonPages",
            "SReclaimable",
            "SUnreclaim",
            "KernelStack",
            "PageTables",
            "Percpu",
        ];
        let named: i64 = NAMED.iter().map(|name| self.kib(name)).sum();
        self.kib("MemTotal") - self.free_kib() - named
    }

    /// Returns a line of `/proc/meminfo` in KiB.
    pub(crate) fn kib(&self, name: &str) -> i64 {
        *self
            .kib
            .get(name)
            .unwrap_or_else(|| panic!("no {name} in /proc/meminfo"))
    }

    /// Returns the number of pages that drivers have pinned and not unpinned.
    pub(crate) fn pinned(&self) -> i64 {
        let get = |name| {
            self.vmstat
                .get(name)
                .copied()
                .unwrap_or_else(|| panic!("no {name}"))
        };
        get("nr_foll_pin_acquired") - get("nr_foll_pin_released")
    }

    /// Returns the growth of the kernel's memory in KiB.
    pub(crate) fn total_growth(first: &Meminfo, last: &Meminfo) -> Vec<(&'static str, i64)> {
        let mut growth: Vec<_> = AMOUNTS.map(|n| (n, last.kib(n) - first.kib(n))).into();
        growth.push((
            "pages without a name",
            last.nameless_kib() - first.nameless_kib(),
        ));
        growth
    }

    /// Returns the names that grew from each snapshot to the next: slab objects by at least `by`, amounts by `by`
    /// pages, vmalloc areas by one.
    pub(crate) fn steady_growth(looks: &[Meminfo], by: i64) -> Vec<String> {
        let mut steady = steady(looks, by, |look| &look.objects, "objects of slab cache");
        steady.extend(steady_areas(looks));
        for name in AMOUNTS {
            let least = looks
                .windows(2)
                .map(|w| w[1].kib(name) - w[0].kib(name))
                .min();
            if let Some(least) = least.filter(|l| *l >= 4 * by) {
                steady.push(format!("{name}: at least {least} KiB per snapshot"));
            }
        }
        steady
    }
}

/// Amounts of `/proc/meminfo` that must not grow.
const AMOUNTS: [&str; 6] = [
    "SUnreclaim",
    "Percpu",
    "VmallocUsed",
    "KernelStack",
    "PageTables",
    "Mlocked",
];

fn steady_areas(looks: &[Meminfo]) -> Vec<String> {
    steady(looks, 1, |look| &look.areas, "areas of vmalloc by")
}

/// Returns the names whose count grew from each snapshot to the next by at least `by`.
fn steady(
    looks: &[Meminfo],
    by: i64,
    table: impl Fn(&Meminfo) -> &BTreeMap<String, i64>,
    what: &str,
) -> Vec<String> {
    let last = looks.last().map(&table).into_iter().flatten();
    let least = |name: &String| {
        let count = |look| table(look).get(name).copied().unwrap_or(0);
        looks.windows(2).map(|w| count(&w[1]) - count(&w[0])).min()
    };
    let growth = last.filter_map(|(name, _)| Some((name, least(name)?)));
    growth
        .filter(|(_, least)| *least >= by)
        .map(|(name, least)| format!("{what} {name}: {least} or more per snapshot"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(leak: i64, noise: i64) -> Meminfo {
        let amounts = AMOUNTS.into_iter().chain([
            "MemFree",
            "MemTotal",
            "Buffers",
            "Cached",
            "SwapCached",
            "AnonPages",
            "SReclaimable",
        ]);
        Meminfo {
            kib: amounts
                .map(|name| (name.to_string(), 1000 + noise))
                .collect(),
            kept_kib: noise,
            vmstat: BTreeMap::new(),
            objects: [("leak".into(), leak), ("cache".into(), noise)].into(),
            areas: [("leaker".into(), leak), ("other".into(), 1)].into(),
        }
    }

    #[test]
    fn steady_growth_is_told_from_noise() {
        let noise = [0, 500, 200, 700, 300];
        let looks: Vec<_> = (0..5).map(|n| look(12 * n, noise[n as usize])).collect();
        let found = Meminfo::steady_growth(&looks, 12);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("cache leak: 12"), "{found:?}");
        assert!(found[1].contains("by leaker: 12"), "{found:?}");
        assert!(Meminfo::steady_growth(&looks, 13).len() == 1);
    }
}
