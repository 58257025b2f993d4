// SPDX-License-Identifier: GPL-2.0

//! What a migration does, in debugfs: `DRIVER/UUID/migration`.
//!
//! Lines of a name, a colon and a value, for people and for scripts. The counters of a save are those
//! of the save that is open, or was last; so are those of a load.

use super::session::Session;
use crate::handle::Uuid;
use kernel::{
    debugfs::{
        Dir,
        File,
        Writer, //
    },
    fmt,
    page::PAGE_SIZE,
    prelude::*,
    str::CString,
    sync::Arc,
    time::{
        Instant,
        Monotonic, //
    },
};
use migration::{
    save::PhaseStats,
    state::State, //
};

/// How long a device was in each state.
#[derive(Clone, Copy)]
pub(super) struct Times {
    since: Instant<Monotonic>,
    /// By the states' v2 numbers, in nanoseconds.
    spent: [i64; State::ALL.len()],
}

impl Times {
    /// Times of a device that enters its first state now.
    pub(super) fn new() -> Self {
        Self {
            since: Instant::now(),
            spent: [0; State::ALL.len()],
        }
    }

    /// Takes down that `state` is left now.
    pub(super) fn leave(&mut self, state: State) {
        if let Some(spent) = self.spent.get_mut(state.to_v2() as usize) {
            *spent = spent.saturating_add(self.since.elapsed().as_nanos());
        }
        self.since = Instant::now();
    }

    /// Milliseconds spent in `state` when the present state is `present`.
    fn millis(&self, state: State, present: State) -> i64 {
        let spent = self.spent.get(state.to_v2() as usize).copied().unwrap_or(0);
        let more = if state == present {
            self.since.elapsed().as_nanos()
        } else {
            0
        };
        spent.saturating_add(more) / 1_000_000
    }
}

/// The file, which shows a session.
pub(super) struct Status(Arc<Session>);

impl Status {
    /// Creates the file for the instance `uuid`, under the driver's directory.
    pub(super) fn create(
        driver: &Dir,
        uuid: &Uuid,
        session: Arc<Session>,
    ) -> Result<Pin<KBox<File<Self>>>> {
        let name = CString::try_from_fmt(format_args!("{uuid}"))?;
        let dir = driver.subdir(&name);
        // Debugfs that is not there is no failure: the file is empty then. It keeps its directory.
        let file = dir.read_only_file(c"migration", Self(session));
        KBox::pin_init(file, GFP_KERNEL)
    }
}

/// Writes the counters of one phase of a save.
fn phase(f: &mut fmt::Formatter<'_>, name: &str, stats: &PhaseStats) -> fmt::Result {
    writeln!(f, "{}_bytes: {}", name, stats.bytes)?;
    writeln!(f, "{}_records: {}", name, stats.records)?;
    writeln!(f, "{}_pages: {}", name, stats.pages)?;
    writeln!(f, "{}_zero_pages: {}", name, stats.zero_pages)
}

impl Writer for Status {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.0.report();

        writeln!(f, "state: {}", report.state.name())?;
        writeln!(f, "front_end: {}", report.front_end)?;
        writeln!(f, "staged_bytes: {}", report.staged)?;
        writeln!(f, "pending_bytes: {}", report.pending)?;
        phase(f, "pre_copy", &report.saved.pre_copy)?;
        phase(f, "stop_copy", &report.saved.stop_copy)?;
        writeln!(f, "passes: {}", report.saved.passes)?;
        writeln!(f, "restaged: {}", report.saved.restaged)?;
        writeln!(f, "load_bytes: {}", report.loaded.bytes)?;
        writeln!(f, "load_records: {}", report.loaded.records)?;
        writeln!(f, "load_memory_bytes: {}", report.loaded.memory_bytes)?;
        writeln!(f, "load_skipped: {}", report.loaded.skipped)?;
        writeln!(f, "load_repeated: {}", report.loaded.repeated)?;
        writeln!(f, "memory_pages: {}", report.memory / PAGE_SIZE as u64)?;
        writeln!(
            f,
            "populated_pages: {}",
            report.populated / PAGE_SIZE as u64
        )?;
        writeln!(f, "dirty_pages: {}", report.dirty)?;
        for state in State::ALL {
            let millis = report.times.millis(state, report.state);
            writeln!(f, "time_ms_{}: {}", state.name(), millis)?;
        }
        Ok(())
    }
}
