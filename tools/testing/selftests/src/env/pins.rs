// SPDX-License-Identifier: GPL-2.0

//! The kernel's counts of pinned guest memory.

use std::fs;

use crate::fail;
use crate::harness::result::Result;

/// The kernel's counts at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pins {
    /// Pages pinned since boot.
    acquired: u64,
    /// Pages unpinned since boot.
    released: u64,
    /// Locked pages of this process. type1 accounts pins here.
    pub(crate) locked: u64,
}

impl Pins {
    /// Reads the counts. No other process may pin pages during a test.
    pub(crate) fn now() -> Result<Self> {
        // Folds the per-CPU counts.
        fs::read("/proc/sys/vm/stat_refresh")?;
        let vmstat = fs::read_to_string("/proc/vmstat")?;
        let status = fs::read_to_string("/proc/self/status")?;
        let (Some(acquired), Some(released), Some(locked)) = (
            field(&vmstat, "nr_foll_pin_acquired"),
            field(&vmstat, "nr_foll_pin_released"),
            field(&status, "VmLck:"),
        ) else {
            fail!("the kernel does not count pinned pages");
        };
        Ok(Pins {
            acquired,
            released,
            // In KiB.
            locked: locked / 4,
        })
    }

    /// Returns the number of pinned pages.
    pub(crate) fn held(&self) -> u64 {
        self.acquired - self.released
    }
}

/// Returns the number after a name.
pub(crate) fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let text = "nr_foll_pin_acquired 12\nnr_foll_pin_released 3\nVmLck:\t      8 kB\n";
        assert_eq!(field(text, "nr_foll_pin_released"), Some(3));
        assert_eq!(field(text, "VmLck:"), Some(8));
        assert_eq!(field(text, "VmPin:"), None);
    }
}
