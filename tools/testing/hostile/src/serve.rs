// SPDX-License-Identifier: GPL-2.0

//! The thread that takes page faults and answers them on request.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use vfio_client::EventFd;

/// A waiting fault.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    /// The backend's name for it.
    pub(crate) token: u64,
    /// Offset in the memory.
    pub(crate) offset: u64,
    /// Bytes requested.
    pub(crate) len: usize,
}

/// A source of faults.
pub(crate) trait Backend: Send + 'static {
    /// Returns a descriptor that is readable when there is a fault.
    fn fd(&self) -> BorrowedFd<'_>;
    /// Takes the next fault; `None` if there is none. An error ends the service.
    fn take(&mut self) -> io::Result<Option<Fault>>;
    /// Answers a fault.
    fn answer(&mut self, fault: &Fault) -> io::Result<()>;
}

/// When to answer faults.
#[derive(Clone, Copy, Debug)]
enum Mode {
    /// The first ones at once, up to this number; the others never.
    HoldAfter(u64),
    /// Each after this delay.
    After(Duration),
}

struct State {
    mode: Mode,
    stop: bool,
    /// Numbers and arrival times of unanswered faults.
    waiting: Vec<(u64, Fault, Instant)>,
    /// Number of faults so far.
    arrived: u64,
    problem: Option<String>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    wake: EventFd,
}

/// A thread that serves a backend. Drop answers every fault and ends the thread.
pub(crate) struct Server {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(backend: impl Backend) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                mode: Mode::HoldAfter(0),
                stop: false,
                waiting: Vec::new(),
                arrived: 0,
                problem: None,
            }),
            changed: Condvar::new(),
            wake: EventFd::new()?,
        });
        let served = shared.clone();
        let thread = thread::Builder::new()
            .name("faults".into())
            .spawn(move || serve(backend, &served))?;
        Ok(Server {
            shared,
            thread: Some(thread),
        })
    }

    /// Returns the number of faults so far.
    pub(crate) fn arrived(&self) -> u64 {
        self.shared.state.lock().unwrap().arrived
    }

    /// Waits until there were `count` faults; returns the offset of the last waiting one.
    pub(crate) fn wait(&self, count: u64, limit: Duration) -> io::Result<u64> {
        let state = self.shared.state.lock().unwrap();
        let pending = |state: &mut State| state.arrived < count && state.problem.is_none();
        let (state, _) = self
            .shared
            .changed
            .wait_timeout_while(state, limit, pending)
            .unwrap();
        if state.arrived >= count {
            return Ok(state.waiting.last().map_or(0, |(_, fault, _)| fault.offset));
        }
        let why = state.problem.clone().unwrap_or_else(|| {
            let (arrived, seconds) = (state.arrived, limit.as_secs());
            format!("waited {seconds} s for {count} page faults, {arrived} have come")
        });
        Err(io::Error::other(why))
    }

    /// Returns the number of waiting faults.
    pub(crate) fn waiting(&self) -> usize {
        self.shared.state.lock().unwrap().waiting.len()
    }

    /// Answers every fault after this delay, including the waiting ones.
    pub(crate) fn answer_after(&self, delay: Duration) {
        self.shared.state.lock().unwrap().mode = Mode::After(delay);
        let _ = self.shared.wake.signal();
    }

    /// Answers the first `count` faults at once, and holds later ones.
    pub(crate) fn hold_after(&self, count: u64) {
        self.shared.state.lock().unwrap().mode = Mode::HoldAfter(count);
        let _ = self.shared.wake.signal();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        {
            let mut state = self.shared.state.lock().unwrap();
            state.mode = Mode::After(Duration::ZERO);
            state.stop = true;
        }
        let _ = self.shared.wake.signal();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl State {
    /// Returns the faults to answer now, and the time until the next one.
    fn due(&mut self) -> (Vec<Fault>, Option<Duration>) {
        let mode = self.mode;
        let is_due = |number: u64, since: &Instant| match mode {
            Mode::HoldAfter(count) => number < count,
            Mode::After(delay) => since.elapsed() >= delay,
        };
        let (due, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(number, _, since)| is_due(*number, since));
        self.waiting = rest;
        let next = match mode {
            Mode::HoldAfter(_) => None,
            Mode::After(delay) => {
                let left = |since: &Instant| delay.saturating_sub(since.elapsed());
                self.waiting.iter().map(|(_, _, since)| left(since)).min()
            }
        };
        (due.into_iter().map(|(_, fault, _)| fault).collect(), next)
    }
}

fn serve(mut backend: impl Backend, shared: &Shared) {
    let ended = run(&mut backend, shared);
    let mut state = shared.state.lock().unwrap();
    state.problem = Some(match ended {
        Ok(()) => "the memory is not served any more".into(),
        Err(e) => format!("serving page faults: {e}"),
    });
    // Closing the backend releases all waiters.
    state.waiting.clear();
    shared.changed.notify_all();
}

fn run(backend: &mut impl Backend, shared: &Shared) -> io::Result<()> {
    loop {
        let (due, next, stop) = {
            let mut state = shared.state.lock().unwrap();
            let (due, next) = state.due();
            (due, next, state.stop)
        };
        for fault in &due {
            backend.answer(fault)?;
        }
        if stop && due.is_empty() {
            return Ok(());
        }
        if due.is_empty() {
            wait(backend, shared, next)?;
        }
        while let Some(fault) = backend.take()? {
            let mut state = shared.state.lock().unwrap();
            let number = state.arrived;
            state.arrived += 1;
            state.waiting.push((number, fault, Instant::now()));
            shared.changed.notify_all();
        }
    }
}

/// Waits for a fault, a command, or the timeout.
fn wait(backend: &impl Backend, shared: &Shared, limit: Option<Duration>) -> io::Result<()> {
    let limit = limit.map(|limit| Timespec {
        tv_sec: limit.as_secs() as i64,
        tv_nsec: limit.subsec_nanos().into(),
    });
    let mut fds = [
        PollFd::from_borrowed_fd(backend.fd(), PollFlags::IN),
        PollFd::from_borrowed_fd(shared.wake.as_fd(), PollFlags::IN),
    ];
    match poll(&mut fds, limit.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(e) => return Err(e.into()),
    }
    if fds[1].revents().contains(PollFlags::IN) {
        shared.wake.take()?;
    }
    Ok(())
}
