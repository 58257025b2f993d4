// SPDX-License-Identifier: GPL-2.0

//! The progress of a migration, in debugfs: `DRIVER/UUID/migration`.
//!
//! Each line is a name, a colon and a value, for people and for scripts. The counters of a save are those
//! of the open save, or else of the last one. So are those of a load. While a change of state takes long,
//! the file has one line, `state: busy`.

use crate::{
    device::VfioDevice,
    driver::Driver, //
};
use kernel::{
    page::PAGE_SIZE,
    prelude::*,
    seq_file::{
        seq_print,
        SeqFile, //
    },
    sync::aref::ARef, //
};
use kernel_ext::debugfs::Show;
use migration::{
    save::PhaseStats,
    state::State, //
};

/// The file that shows the migration of a device.
pub(crate) struct Status<T: Driver>(ARef<VfioDevice<T>>);

impl<T: Driver> Status<T> {
    /// Returns the file of `device`.
    pub(crate) fn new(device: ARef<VfioDevice<T>>) -> Self {
        Self(device)
    }
}

/// Writes the counters of one phase of a save.
fn phase(out: &SeqFile, name: &str, stats: &PhaseStats) {
    seq_print!(out, "{}_bytes: {}\n", name, stats.bytes);
    seq_print!(out, "{}_records: {}\n", name, stats.records);
    seq_print!(out, "{}_pages: {}\n", name, stats.pages);
    seq_print!(out, "{}_zero_pages: {}\n", name, stats.zero_pages);
}

impl<T: Driver> Show for Status<T> {
    fn show(&self, out: &SeqFile) -> Result {
        // An administrator must not wait for a page of the user's memory.
        let Some(report) = self.0.report() else {
            seq_print!(out, "state: busy\n");
            return Ok(());
        };

        seq_print!(out, "state: {}\n", report.state.name());
        seq_print!(out, "front_end: {}\n", report.front_end);
        seq_print!(out, "staged_bytes: {}\n", report.staged);
        seq_print!(out, "pending_bytes: {}\n", report.pending);
        phase(out, "pre_copy", &report.saved.pre_copy);
        phase(out, "stop_copy", &report.saved.stop_copy);
        seq_print!(out, "passes: {}\n", report.saved.passes);
        seq_print!(out, "restaged: {}\n", report.saved.restaged);
        seq_print!(out, "load_bytes: {}\n", report.loaded.bytes);
        seq_print!(out, "load_records: {}\n", report.loaded.records);
        seq_print!(out, "load_memory_bytes: {}\n", report.loaded.memory_bytes);
        seq_print!(out, "load_skipped: {}\n", report.loaded.skipped);
        seq_print!(out, "load_repeated: {}\n", report.loaded.repeated);
        seq_print!(out, "load_restarted: {}\n", report.loaded.restarted);
        seq_print!(out, "memory_pages: {}\n", report.memory / PAGE_SIZE as u64);
        seq_print!(
            out,
            "populated_pages: {}\n",
            report.populated / PAGE_SIZE as u64
        );
        seq_print!(out, "dirty_pages: {}\n", report.dirty);
        seq_print!(out, "unmap_looks_max: {}\n", report.unmap_looks_max);
        for state in State::ALL {
            let millis = report.times.millis(state, report.state);
            seq_print!(out, "time_ms_{}: {}\n", state.name(), millis);
        }
        Ok(())
    }
}
