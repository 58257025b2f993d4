// SPDX-License-Identifier: GPL-2.0

//! The target of programs: a worker process and the kernel log.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use hostile::Cgroup;
use kernel_utils::{filter::without_shortages, Kmsg};

use crate::calls::DIED;
use crate::failure::{Class, Failure};
use crate::program::Program;
use crate::worker::Settings;

/// The result of a program.
#[derive(Debug, Default)]
pub(crate) struct Trial {
    /// Calls made, and calls with an empty slot.
    pub(crate) made: u64,
    pub(crate) empty: u64,
    /// Whether its budget did not suffice.
    pub(crate) cut: bool,
    /// Whether it got the instance of the previous program.
    pub(crate) reused: bool,
    /// Addresses reached for the first time by this worker.
    pub(crate) pcs: Vec<u64>,
    /// What is wrong.
    pub(crate) failures: Vec<Failure>,
}

/// A running worker.
struct Process {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

/// The target.
pub(crate) struct Target {
    settings: Settings,
    /// Seconds, each with work, without output after which a program counts as hung.
    limit: u64,
    kmsg: Kmsg,
    process: Option<Process>,
}

impl Target {
    pub(crate) fn new(settings: Settings, limit: u64) -> io::Result<Self> {
        Ok(Target {
            settings,
            limit,
            kmsg: Kmsg::open()?,
            process: None,
        })
    }

    fn start(&self) -> io::Result<Process> {
        let mut command = Command::new("/proc/self/exe");
        command.arg("--worker");
        if self.settings.verbose {
            command.arg("--verbose");
        }
        if let Some(limit) = self.settings.limit {
            command.arg(format!("--budget={limit}"));
        }
        if let Some(class) = self.settings.plant {
            command.args(["--plant", &class.to_string()]);
        }
        if let Some(modules) = self.settings.modules {
            let ranges = modules.map(|(start, end)| format!("{start:x}-{end:x}"));
            command.arg(format!("--module-text={}", ranges.join(",")));
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take().expect("it was asked for");
        let output = child.stdout.take().expect("it was asked for");
        let (send, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Process {
            child,
            input,
            lines,
        })
    }

    /// Runs a program.
    pub(crate) fn run(&mut self, program: &Program) -> io::Result<Trial> {
        let mark = self.kmsg.mark();
        let mut trial = Trial::default();
        let mut process = match self.process.take() {
            Some(process) => process,
            None => self.start()?,
        };
        let text = program.to_string();
        let sent =
            write!(process.input, "{}\n{text}", text.len()).and_then(|()| process.input.flush());
        let alive = match sent {
            Ok(()) => self.follow(&mut process, &mut trial)?,
            Err(_) => {
                let status = process.child.wait()?;
                trial.failures.push(Failure::new(
                    Class::Killed,
                    format!("before it began: {status}"),
                ));
                false
            }
        };
        if alive {
            self.process = Some(process);
        } else {
            // Its second process may be frozen with open devices.
            Cgroup::left_by(process.child.id())?.clear();
        }
        // The second process may run out of memory.
        let lines = without_shortages(self.kmsg.since(mark));
        if let Some(line) = lines.iter().find(|line| line.is_trouble()) {
            trial
                .failures
                .insert(0, Failure::new(Class::Report, line.text.clone()));
        }
        Ok(trial)
    }

    /// Returns the next line of a worker.
    ///
    /// A VM that gets no time from its host must not count as hung, although its clock continues. So each second
    /// includes some work, of which the worker could have done as much.
    fn next_line(&self, process: &Process) -> Result<String, RecvTimeoutError> {
        const WORK: usize = 16 << 20;
        let mut work = Vec::new();
        for _ in 0..self.limit {
            match process.lines.recv_timeout(Duration::from_secs(1)) {
                Err(RecvTimeoutError::Timeout) => {
                    work.resize(WORK, 0);
                    std::hint::black_box(records::crc(&work));
                }
                line => return line,
            }
        }
        Err(RecvTimeoutError::Timeout)
    }

    /// Reads the worker's lines about a program; returns whether the worker can take another one.
    fn follow(&self, process: &mut Process, trial: &mut Trial) -> io::Result<bool> {
        loop {
            let line = match self.next_line(process) {
                Ok(line) => line,
                Err(RecvTimeoutError::Disconnected) => {
                    let status = process.child.wait()?;
                    if status.code() != Some(DIED) {
                        let text = format!("the worker ended: {status}");
                        trial.failures.push(Failure::new(Class::Killed, text));
                    }
                    return Ok(false);
                }
                Err(RecvTimeoutError::Timeout) => {
                    let text = format!(
                        "nothing came back in {} seconds with work; {}",
                        self.limit,
                        whereabouts(process.child.id())
                    );
                    trial.failures.push(Failure::new(Class::Hang, text));
                    // A worker that hangs in the kernel cannot be waited for.
                    let _ = process.child.kill();
                    return Ok(false);
                }
            };
            let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
            match word {
                "pc" => trial.pcs.extend(u64::from_str_radix(rest, 16)),
                "bad" => {
                    let (class, text) = rest.split_once(' ').unwrap_or((rest, ""));
                    let class = Class::named(class).unwrap_or(Class::Killed);
                    trial.failures.push(Failure::new(class, text));
                }
                "done" => {
                    let mut counts = rest.split(' ').map(|n| n.parse().unwrap_or(0));
                    trial.made = counts.next().unwrap_or(0);
                    trial.empty = counts.next().unwrap_or(0);
                    trial.cut = counts.next() == Some(1);
                    trial.reused = counts.next() == Some(1);
                    return Ok(true);
                }
                _ => println!("{line}"),
            }
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(Process {
            mut child, input, ..
        }) = self.process.take()
        {
            drop(input);
            let _ = child.wait();
        }
    }
}

/// Describes where the threads of a process are in the kernel.
fn whereabouts(pid: u32) -> String {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return "its threads cannot be seen".into();
    };
    let mut out = Vec::new();
    for task in tasks.flatten() {
        let of = |name| fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let stack: Vec<_> = of("stack")
            .lines()
            .filter_map(|line| line.split_whitespace().nth(1).map(str::to_string))
            .take(12)
            .collect();
        out.push(format!("[{} {}]", of("wchan"), stack.join(" < ")));
    }
    out.join(" ")
}
