// SPDX-License-Identifier: GPL-2.0

//! Takes note of what the process's calls reach in the module, for as long as the process lives.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Mutex;

use vfio_client::kcov::{Kcov, RemoteKcov};

/// Addresses that one call may reach, each time it reaches them. Saving a whole device is a call here.
const WORDS: usize = 1 << 22;
/// The same of what the module's workers do at a time.
const REMOTE_WORDS: usize = 1 << 18;

/// What was reached so far, by all threads.
#[derive(Debug)]
pub(crate) struct Tracer {
    /// The first address of the module.
    start: u64,
    /// For each byte of it, whether it was reached.
    seen: Vec<AtomicBool>,
    /// What was reached since [`Tracer::new_addresses`] was asked.
    new: Mutex<Vec<u64>>,
    /// Places for coverage that no thread uses now.
    kcov: Mutex<Vec<Kcov>>,
    /// That of the module's workers.
    remote: Mutex<RemoteKcov>,
}

impl Tracer {
    /// Traces the module at these addresses, in the threads that the calling one will start.
    ///
    /// Some kernels do not trace the calling one.
    pub(crate) fn new((start, end): (u64, u64)) -> io::Result<Self> {
        Ok(Tracer {
            start,
            seen: (start..end).map(|_| AtomicBool::new(false)).collect(),
            new: Mutex::default(),
            kcov: Mutex::default(),
            remote: Mutex::new(RemoteKcov::enable(REMOTE_WORDS)?),
        })
    }

    /// Does something and takes note of what it reaches, and of what workers did meanwhile.
    pub(crate) fn trace<T>(&self, what: impl FnOnce() -> T) -> T {
        let free = self.kcov.lock().unwrap().pop();
        let mut kcov = free.unwrap_or_else(|| Kcov::new(WORDS).expect("kcov"));
        let mut new = Vec::new();
        let mut note = |pc: u64| {
            let at = pc.checked_sub(self.start);
            let seen = at.and_then(|at| self.seen.get(at as usize));
            // Most addresses are reached again and again.
            if seen.is_some_and(|seen| !seen.swap(true, Ordering::Relaxed)) {
                new.push(pc);
            }
        };
        let result = kcov.trace(what, &mut note).expect("kcov");
        self.kcov.lock().unwrap().push(kcov);
        self.remote.lock().unwrap().drain(note);
        if !new.is_empty() {
            self.new.lock().unwrap().append(&mut new);
        }
        result
    }

    /// What was reached for the first time since this was asked last.
    pub(crate) fn new_addresses(&self) -> Vec<u64> {
        std::mem::take(&mut self.new.lock().unwrap())
    }
}

/// Does something, and has the tracer take note if there is one.
pub(crate) fn trace<T>(tracer: Option<&Tracer>, what: impl FnOnce() -> T) -> T {
    match tracer {
        Some(tracer) => tracer.trace(what),
        None => what(),
    }
}
