// SPDX-License-Identifier: GPL-2.0

//! Coverage of the modules: addresses reached, and their functions.

use std::collections::{BTreeMap, HashSet};
use std::fs;

use vfio_client::kcov::Kcov;

use crate::samples::Sample;
use crate::worker::Modules;

/// The coverage.
#[derive(Debug, Default)]
pub(crate) struct Coverage {
    pcs: HashSet<u64>,
    /// Functions of the modules by start address, each with its module.
    functions: BTreeMap<u64, (Sample, String)>,
}

/// Returns the address ranges of the modules, if the kernel has kcov.
pub(crate) fn modules() -> Option<Modules> {
    if !Kcov::exists() {
        return None;
    }
    let text = fs::read_to_string("/proc/modules").ok()?;
    Some(Sample::ALL.map(|sample| range(&text, sample.name()).unwrap_or_default()))
}

/// Returns the address range of a module in `/proc/modules`.
fn range(modules: &str, name: &str) -> Option<(u64, u64)> {
    let line = modules
        .lines()
        .find_map(|l| l.strip_prefix(name)?.strip_prefix(' '))?;
    // size, users, names, state, address
    let mut fields = line.split(' ');
    let size: u64 = fields.next()?.parse().ok()?;
    let address = fields.nth(3)?.strip_prefix("0x")?;
    let start = u64::from_str_radix(address, 16).ok()?;
    Some((start, start + size))
}

impl Coverage {
    /// Starts with nothing reached, and the functions in `/proc/kallsyms`.
    pub(crate) fn new() -> Self {
        let symbols = fs::read_to_string("/proc/kallsyms").unwrap_or_default();
        Coverage {
            pcs: HashSet::new(),
            functions: functions(&symbols),
        }
    }

    /// Adds addresses; returns how many are new.
    pub(crate) fn add(&mut self, pcs: &[u64]) -> usize {
        pcs.iter().filter(|pc| self.pcs.insert(**pc)).count()
    }

    /// Returns the number of addresses reached.
    pub(crate) fn len(&self) -> usize {
        self.pcs.len()
    }

    /// Returns each function, with its module and the number of its addresses reached.
    pub(crate) fn table(&self) -> Vec<(Sample, &str, usize)> {
        let mut reached: BTreeMap<u64, usize> = BTreeMap::new();
        for pc in &self.pcs {
            if let Some((start, _)) = self.functions.range(..=pc).next_back() {
                *reached.entry(*start).or_default() += 1;
            }
        }
        let count = |start| reached.get(start).copied().unwrap_or(0);
        let mut table: Vec<_> = self
            .functions
            .iter()
            .map(|(start, (sample, name))| (*sample, name.as_str(), count(start)))
            .collect();
        table.sort_unstable_by_key(|row| (row.0 as usize, row.1, row.2));
        table
    }

    /// Returns what was reached in the module of a device: addresses, functions, and the number of its functions.
    pub(crate) fn of(&self, sample: Sample) -> (usize, usize, usize) {
        let table = self.table();
        let rows = table.iter().filter(|row| row.0 == sample);
        rows.fold((0, 0, 0), |(addresses, reached, all), row| {
            (addresses + row.2, reached + usize::from(row.2 > 0), all + 1)
        })
    }
}

/// Finds the functions of the modules in a list of symbols.
fn functions(symbols: &str) -> BTreeMap<u64, (Sample, String)> {
    let mut functions = BTreeMap::new();
    for line in symbols.lines() {
        let mut fields = line.split_whitespace();
        let (Some(address), Some(kind), Some(name), Some(of)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        // The compiler's prefix of a function, and the parts it splits off, belong to the function.
        let part = name.starts_with("__pfx_") || name.ends_with(".cold");
        let of = of.strip_prefix('[').and_then(|of| of.strip_suffix(']'));
        let Some(sample) = of.and_then(Sample::named) else {
            continue;
        };
        if !matches!(kind, "t" | "T") || part {
            continue;
        }
        if let Ok(address) = u64::from_str_radix(address, 16) {
            let name = format!("{:#}", rustc_demangle::demangle(name));
            functions.insert(address, (sample, name));
        }
    }
    functions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_of_the_modules_alone() {
        let symbols = "ffffffffc0000000 t __pfx_init\t[mdma]\n\
                       ffffffffc0000010 t init\t[mdma]\n\
                       ffffffffc0000100 t _RNvCs1_4mdma4work\t[mdma]\n\
                       ffffffffc0000200 d table\t[mdma]\n\
                       ffffffffc0000300 t other\t[vfio]\n\
                       ffffffffc0001000 t init\t[mnvme]\n\
                       ffffffff81000000 T start_kernel\n";
        let mut coverage = Coverage {
            pcs: HashSet::new(),
            functions: functions(symbols),
        };
        let table = |work| {
            [
                (Sample::Mdma, "init", 0),
                (Sample::Mdma, "mdma::work", work),
                (Sample::Mnvme, "init", 0),
            ]
        };
        assert_eq!(coverage.table(), table(0));
        assert_eq!(coverage.add(&[0xffffffffc0000104, 0xffffffffc0000104]), 1);
        assert_eq!(coverage.add(&[0xffffffffc0000108]), 1);
        assert_eq!(coverage.table(), table(2));
        assert_eq!(coverage.of(Sample::Mdma), (2, 1, 2));
        assert_eq!(coverage.of(Sample::Mnvme), (0, 0, 1));
        assert_eq!(coverage.len(), 2);
    }

    #[test]
    fn the_range_of_a_module() {
        let modules = "mdma_other 4096 0 - Live 0xffffffffc0000000 (O)\n\
                       mdma 8192 0 - Live 0xffffffffc0010000 (O)\n";
        let start = 0xffffffffc0010000;
        assert_eq!(range(modules, "mdma"), Some((start, start + 8192)));
        assert_eq!(range(modules, "mnvme"), None);
    }
}
