// SPDX-License-Identifier: GPL-2.0

//! Coverage of the module: addresses reached, and their functions.

use std::collections::{BTreeMap, HashSet};
use std::fs;

use vfio_client::kcov::Kcov;

/// The module to measure.
const MODULE: &str = "mdma";

/// The coverage.
#[derive(Debug, Default)]
pub(crate) struct Coverage {
    pcs: HashSet<u64>,
    /// Functions of the module by start address.
    functions: BTreeMap<u64, String>,
}

/// Returns the address range of the module, if the kernel has kcov.
pub(crate) fn module() -> Option<(u64, u64)> {
    if !Kcov::exists() {
        return None;
    }
    let modules = fs::read_to_string("/proc/modules").ok()?;
    let line = modules
        .lines()
        .find_map(|l| l.strip_prefix(MODULE)?.strip_prefix(' '))?;
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

    /// Returns each function by name, with the number of its addresses reached.
    pub(crate) fn table(&self) -> Vec<(&str, usize)> {
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
            .map(|(start, name)| (name.as_str(), count(start)))
            .collect();
        table.sort_unstable();
        table
    }

    /// Returns the number of functions reached, and of all.
    pub(crate) fn functions(&self) -> (usize, usize) {
        let table = self.table();
        (table.iter().filter(|row| row.1 > 0).count(), table.len())
    }
}

/// Finds the functions of the module in a list of symbols.
fn functions(symbols: &str) -> BTreeMap<u64, String> {
    let module = format!("[{MODULE}]");
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
        if of != module || !matches!(kind, "t" | "T") || part {
            continue;
        }
        if let Ok(address) = u64::from_str_radix(address, 16) {
            functions.insert(address, format!("{:#}", rustc_demangle::demangle(name)));
        }
    }
    functions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_of_the_module_alone() {
        let symbols = "ffffffffc0000000 t __pfx_init\t[mdma]\n\
                       ffffffffc0000010 t init\t[mdma]\n\
                       ffffffffc0000100 t _RNvCs1_4mdma4work\t[mdma]\n\
                       ffffffffc0000200 d table\t[mdma]\n\
                       ffffffffc0000300 t other\t[vfio]\n\
                       ffffffff81000000 T start_kernel\n";
        let mut coverage = Coverage {
            pcs: HashSet::new(),
            functions: functions(symbols),
        };
        assert_eq!(coverage.table(), [("init", 0), ("mdma::work", 0)]);
        assert_eq!(coverage.add(&[0xffffffffc0000104, 0xffffffffc0000104]), 1);
        assert_eq!(coverage.add(&[0xffffffffc0000108]), 1);
        assert_eq!(coverage.table(), [("init", 0), ("mdma::work", 2)]);
        assert_eq!((coverage.functions(), coverage.len()), ((1, 2), 2));
    }
}
