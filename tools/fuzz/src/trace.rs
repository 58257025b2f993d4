// SPDX-License-Identifier: GPL-2.0

//! Records what the process's calls reach in the modules, for the lifetime of the process.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Mutex;

use vfio_client::kcov::{Kcov, RemoteKcov};

/// Addresses, with repetitions, that one call may reach; the others are lost. Each buffer is mapped when a worker
/// starts, which takes time by its size.
const WORDS: usize = 1 << 17;
/// The same for one run of the modules' workers.
const REMOTE_WORDS: usize = 1 << 16;

/// Coverage of all threads.
#[derive(Debug)]
pub(crate) struct Tracer {
    /// The modules.
    modules: Vec<Module>,
    /// Addresses reached since the last call of [`Tracer::new_addresses`].
    new: Mutex<Vec<u64>>,
    /// Coverage buffers that no thread uses now.
    kcov: Mutex<Vec<Kcov>>,
    /// The buffer of the modules' workers.
    remote: Mutex<RemoteKcov>,
}

/// A module.
#[derive(Debug)]
struct Module {
    start: u64,
    /// Whether each byte of it was reached.
    seen: Vec<AtomicBool>,
}

impl Module {
    /// Returns whether an address in it is reached for the first time.
    fn is_new(&self, pc: u64) -> bool {
        let at = pc.checked_sub(self.start);
        let seen = at.and_then(|at| self.seen.get(at as usize));
        // Most addresses are reached again and again.
        seen.is_some_and(|seen| !seen.swap(true, Ordering::Relaxed))
    }
}

impl Tracer {
    /// Traces the modules at these addresses, in the threads that the calling thread will start.
    ///
    /// Some kernels do not trace the calling thread itself.
    pub(crate) fn new(ranges: &[(u64, u64)]) -> io::Result<Self> {
        let module = |&(start, end): &(u64, u64)| Module {
            start,
            seen: (start..end).map(|_| AtomicBool::new(false)).collect(),
        };
        Ok(Tracer {
            modules: ranges.iter().map(module).collect(),
            new: Mutex::default(),
            kcov: Mutex::default(),
            remote: Mutex::new(RemoteKcov::enable(REMOTE_WORDS)?),
        })
    }

    /// Runs a function and records what it, and workers meanwhile, reached.
    pub(crate) fn trace<T>(&self, what: impl FnOnce() -> T) -> T {
        let free = self.kcov.lock().unwrap().pop();
        let mut kcov = free.unwrap_or_else(|| Kcov::new(WORDS).expect("kcov"));
        let mut new = Vec::new();
        let mut note = |pc: u64| {
            if self.modules.iter().any(|module| module.is_new(pc)) {
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

    /// Returns the addresses reached for the first time since the last call.
    pub(crate) fn new_addresses(&self) -> Vec<u64> {
        std::mem::take(&mut self.new.lock().unwrap())
    }
}

/// Runs a function, with the tracer if there is one.
pub(crate) fn trace<T>(tracer: Option<&Tracer>, what: impl FnOnce() -> T) -> T {
    match tracer {
        Some(tracer) => tracer.trace(what),
        None => what(),
    }
}
