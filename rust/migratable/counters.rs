// SPDX-License-Identifier: GPL-2.0

//! The counters of a device: `DRIVER/UUID/counters` of debugfs.

kernel_ext::counters! {
    /// The counters of one device.
    pub struct Counters {
        /// Accesses to a BAR that did nothing: reads that returned all ones and writes that were
        /// dropped.
        refused,
    }
}
