// SPDX-License-Identifier: GPL-2.0

//! How much guest memory is pinned, as the kernel counts it.

use std::fs;

use crate::fail;
use crate::harness::result::Result;

/// The kernel's counts at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pins {
    /// Pages ever pinned on this machine.
    acquired: u64,
    /// Pages ever unpinned.
    released: u64,
    /// Pages accounted to this process as locked, which is what type1 does with pins.
    pub(crate) locked: u64,
}

impl Pins {
    /// Reads them. Nobody else on the machine should be pinning.
    pub(crate) fn now() -> Result<Self> {
        // The counts are kept by processor and brought together now and then; this does it now.
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

    /// Pages that are pinned.
    pub(crate) fn held(&self) -> u64 {
        self.acquired - self.released
    }
}

/// The number that follows a name.
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
