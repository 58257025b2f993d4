// SPDX-License-Identifier: GPL-2.0

//! The process that makes the calls. It reads programs from standard input and writes the results to standard output:
//!
//! ```text
//! in   the length of a program in bytes, on a line; the program
//! out  pc ADDRESS            reached for the first time
//!      bad CLASS TEXT        what is wrong
//!      call NAME ENDED       with --verbose: how a call ended
//!      done MADE EMPTY CUT REUSED
//!                            the end; calls made, and calls that found nothing to make them with; 1 if the budget
//!                            did not suffice; 1 if the program got the instance of the previous one
//! ```
//!
//! Whoever started it starts another one when it dies.

use std::collections::HashSet;
use std::io::{self, BufRead, Read, Write};
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use vfio_client::mdev::{Instance, Sysfs};
use vfio_client::{errno_name, Mapping};

use crate::budget::Budget;
use crate::calls;
use crate::ended::{self, Ended};
use crate::failure::{Class, Failure};
use crate::grammar::Op;
use crate::ground;
use crate::health;
use crate::kept::{self, Kept};
use crate::program::{self, Call, Program};
use crate::removal;
use crate::samples::Sample;
use crate::trace::{trace, Tracer};
use crate::world::{uuid, World};

/// Programs between two checks of machine-wide counts.
const EVERY: u64 = 16;

/// Charges that may remain in the second process's control group: the kernel's, which are released later.
const CHARGED: u64 = 4 << 20;

/// The address range of the module of each device; empty if it is not loaded.
pub(crate) type Modules = [(u64, u64); Sample::COUNT];

/// Settings of the process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Settings {
    /// Report how each call ended.
    pub(crate) verbose: bool,
    /// Fail like this after a device reset, to test that the fuzzer detects it.
    pub(crate) plant: Option<Class>,
    /// Addresses of the modules, if coverage is wanted.
    pub(crate) modules: Option<Modules>,
    /// The time limit of the calls of a program, in milliseconds.
    pub(crate) limit: Option<u64>,
}

/// State that lasts from program to program.
struct Worker {
    settings: Settings,
    ground: Arc<Mapping>,
    tracer: Option<Arc<Tracer>>,
    failures: Mutex<Vec<Failure>>,
    /// Programs that left an instance of each device.
    programs: [AtomicU64; Sample::COUNT],
    made: AtomicU64,
    empty: AtomicU64,
    /// Whether the budget of the program did not suffice.
    cut: AtomicBool,
    /// What the last program has left open.
    kept: Mutex<Option<Kept>>,
    /// Whether the program got that.
    reused: AtomicBool,
}

/// The process's `main`.
pub(crate) fn main(settings: Settings) -> Result<(), String> {
    let Some(modules) = settings.modules else {
        return serve(settings, None);
    };
    let tracer = Tracer::new(&modules).map_err(|e| format!("kcov: {e}"))?;
    let serving = thread::spawn(move || serve(settings, Some(tracer.into())));
    serving.join().unwrap_or_else(|panic| resume_unwind(panic))
}

/// Runs programs as they arrive.
fn serve(settings: Settings, tracer: Option<Arc<Tracer>>) -> Result<(), String> {
    let worker = Worker {
        settings,
        ground: World::ground().map_err(|e| e.to_string())?,
        tracer,
        failures: Mutex::default(),
        programs: Default::default(),
        made: AtomicU64::new(0),
        empty: AtomicU64::new(0),
        cut: AtomicBool::new(false),
        kept: Mutex::default(),
        reused: AtomicBool::new(false),
    };
    let world = worker.world().map_err(|e| e.to_string())?;
    // Left by a previous worker.
    for problem in removal::remove_all(&world.sysfs, None) {
        worker.fail(Class::Leak, problem);
    }
    drop(world);
    let pinned = health::pinned().map_err(|e| e.to_string())?;
    let mut input = io::stdin().lock();
    for number in 1.. {
        let Some(program) = read(&mut input)? else {
            worker.kept.lock().unwrap().take();
            removal::remove_all(&Sysfs::default(), None);
            return Ok(());
        };
        // Now and then everything is closed, and what has leaked shows.
        let all = number % EVERY == 0;
        worker.run(&program, !all).map_err(|e| e.to_string())?;
        if all {
            let now = health::pinned().map_err(|e| e.to_string())?;
            if now != pinned {
                worker.fail(
                    Class::Leak,
                    format!("pinned pages: {pinned:?} at first, {now:?} now"),
                );
            }
        }
        worker.tell().map_err(|e| e.to_string())?;
    }
    unreachable!("numbers do not end")
}

fn read(input: &mut impl BufRead) -> Result<Option<Program>, String> {
    let mut line = String::new();
    input.read_line(&mut line).map_err(|e| e.to_string())?;
    if line.is_empty() {
        return Ok(None);
    }
    let length: u64 = line
        .trim()
        .parse()
        .map_err(|_| format!("length {line:?}"))?;
    let mut text = String::new();
    let read = input.take(length).read_to_string(&mut text);
    read.map_err(|e| e.to_string())?;
    text.parse().map(Some)
}

impl Worker {
    fn fail(&self, class: Class, text: impl Into<String>) {
        self.failures
            .lock()
            .unwrap()
            .push(Failure::new(class, text));
    }

    fn world(&self) -> io::Result<World> {
        let limit = self.settings.limit.map(Duration::from_millis);
        World::new(self.ground.clone(), Budget::lasting(limit))
    }

    /// Runs a program, closes everything, and checks for leaks. May keep the instance open for the next program.
    fn run(&self, program: &Program, may_keep: bool) -> io::Result<()> {
        ground::clean(&self.ground);
        let world = Arc::new(self.world()?);
        let calls = &program.calls[self.begin(&world, program)..];
        for step in program::steps(calls) {
            let threads: HashSet<_> = step.iter().map(|call| call.thread).collect();
            if threads.len() == 1 {
                self.make_all(&world, step.iter());
                continue;
            }
            let world = &world;
            thread::scope(|scope| {
                for thread in threads {
                    scope.spawn(move || {
                        self.make_all(world, step.iter().filter(|call| call.thread == thread));
                    });
                }
            });
        }
        let world = Arc::into_inner(world).expect("the threads are over");
        let keep = kept::leaves(program).filter(|_| may_keep);
        trace(self.tracer.as_deref(), || self.end(world, keep))
    }

    /// Gives the program what the last one has left open, or closes that. Returns how many calls are made thereby.
    fn begin(&self, world: &World, program: &Program) -> usize {
        let kept = self.kept.lock().unwrap().take();
        let reused = kept.as_ref().is_some_and(|kept| kept.begins(program));
        self.reused.store(reused, Ordering::Relaxed);
        match kept {
            Some(kept) if reused => kept.put(world),
            Some(kept) => {
                drop(kept);
                for problem in removal::remove_all(&world.sysfs, None) {
                    self.fail(Class::Leak, problem);
                }
            }
            None => {}
        }
        match reused {
            true => {
                self.made.fetch_add(kept::CALLS as u64, Ordering::Relaxed);
                kept::CALLS
            }
            false => 0,
        }
    }

    /// Makes some calls in order.
    fn make_all<'a>(&self, world: &Arc<World>, calls: impl Iterator<Item = &'a Call>) {
        for call in calls {
            if !world.budget.pay(0) {
                self.cut.store(true, Ordering::Relaxed);
                break;
            }
            let ended = trace(self.tracer.as_deref(), || calls::make_in(world, call));
            match ended {
                Err(Ended::Empty) => self.empty.fetch_add(1, Ordering::Relaxed),
                _ => self.made.fetch_add(1, Ordering::Relaxed),
            };
            self.judge(call, ended);
            if self.settings.verbose {
                self.say(&format!("call {call}: {}", answer(ended)));
            }
            if let (Op::Reset, Ok(_), Some(class)) = (call.op, ended, self.settings.plant) {
                self.plant(class);
            }
        }
    }

    /// Closes what a program has opened. Checks that the devices still work and that nothing is left.
    fn end(&self, world: World, keep: Option<Sample>) -> io::Result<()> {
        let sysfs = world.sysfs.clone();
        let kept = keep.and_then(|sample| Kept::take(sample, &world));
        let (second, cgroup) = world.close();
        if second == Err(Ended::Stuck) {
            self.fail(Class::Hang, "the second process does not end");
        }
        // If it does not work, see whether it does when it is opened again.
        let kept = kept.filter(|kept| kept.renew().is_ok());
        if kept.is_none() {
            self.check(&sysfs.instances().map_err(|e| e.source)?);
        }
        let first = uuid(0);
        for problem in removal::remove_all(&sysfs, kept.as_ref().map(|_| &first)) {
            self.fail(Class::Leak, problem);
        }
        let left = sysfs.instances().map_err(|e| e.source)?;
        if left.len() != usize::from(kept.is_some()) {
            self.fail(Class::Leak, format!("{} instances are left", left.len()));
        }
        *self.kept.lock().unwrap() = kept;
        if let Some(cgroup) = cgroup {
            let left = cgroup.settled_memory()?;
            if left > CHARGED {
                self.fail(
                    Class::Leak,
                    format!("{left} bytes of the second process's are left"),
                );
            }
        }
        let locked = health::locked()?;
        if locked > 0 {
            self.fail(Class::Leak, format!("{locked} pages are locked"));
        }
        Ok(())
    }

    /// Checks one instance of each device.
    fn check(&self, instances: &[Instance]) {
        let mut checked = HashSet::new();
        for instance in instances {
            let result = health::sample(instance).and_then(|sample| {
                if !checked.insert(sample) {
                    return Ok(());
                }
                health::usable(instance)?;
                let checks = self.programs[sample as usize].fetch_add(1, Ordering::Relaxed);
                match checks % EVERY {
                    0 => health::migrates(instance),
                    _ => Ok(()),
                }
            });
            if let Err(text) = result {
                self.fail(Class::Unusable, text);
            }
        }
    }

    /// Checks whether a call may end like this.
    fn judge(&self, call: &Call, ended: ended::Result) {
        /// The highest errno for users.
        const LAST: i32 = 133;
        let errno = match ended {
            Err(Ended::Errno(errno)) => errno,
            Err(Ended::Stuck) => return self.fail(Class::Hang, format!("{call}: it does not end")),
            _ => return,
        };
        let wrong = match errno {
            libc::EFAULT => !calls::may_fault(call),
            // The descriptors are open. One inside an argument may be invalid, and a stream has one direction only.
            libc::EBADF => !calls::may_be_bad(call.op),
            libc::ENOSYS => true,
            _ => errno > LAST,
        };
        if wrong {
            self.fail(Class::Errno, format!("{call}: {}", answer(ended)));
        }
    }

    /// Fails on purpose.
    fn plant(&self, class: Class) {
        match class {
            Class::Report => {
                let line = "<4>WARNING: planted by the fuzzer to see it found\n";
                std::fs::write("/dev/kmsg", line).expect("the log can be written");
            }
            Class::Hang => loop {
                thread::sleep(Duration::from_secs(1000));
            },
            Class::Killed => std::process::abort(),
            Class::Errno | Class::Unusable | Class::Leak => self.fail(class, "planted"),
        }
    }

    fn say(&self, line: &str) {
        let mut out = io::stdout().lock();
        // Nobody listens any more; the next read ends the process.
        let _ = writeln!(out, "{line}");
    }

    /// Reports the result of a program.
    fn tell(&self) -> io::Result<()> {
        let mut out = io::stdout().lock();
        for pc in self.tracer.iter().flat_map(|t| t.new_addresses()) {
            writeln!(out, "pc {pc:x}")?;
        }
        for failure in self.failures.lock().unwrap().drain(..) {
            let text = failure.text.replace('\n', " ");
            writeln!(out, "bad {} {text}", failure.class)?;
        }
        let made = self.made.swap(0, Ordering::Relaxed);
        let empty = self.empty.swap(0, Ordering::Relaxed);
        let cut = u8::from(self.cut.swap(false, Ordering::Relaxed));
        let reused = u8::from(self.reused.load(Ordering::Relaxed));
        writeln!(out, "done {made} {empty} {cut} {reused}")?;
        out.flush()
    }
}

/// Describes how a call ended.
fn answer(ended: ended::Result) -> String {
    match ended {
        Ok(value) => format!("{value:#x}"),
        Err(Ended::Empty) => "nothing there".into(),
        Err(Ended::Stuck) => "it does not end".into(),
        Err(Ended::Errno(errno)) => match errno_name(errno) {
            Some(name) => name.into(),
            None => format!("errno {errno}"),
        },
    }
}
