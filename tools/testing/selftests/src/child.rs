// SPDX-License-Identifier: GPL-2.0

//! Users of a device that are killed: this program run again, with `--child ROLE UUID`, or with `--child PROGRAM ARG...`.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::Ordering;
use std::thread;

use mdma::regs::{self, Reg};
use vfio_client::mdev::{Sysfs, Uuid};
use vfio_client::v1::State;
use vfio_client::{Container, EventFd};

use crate::lab::{Guest, Instance};
use crate::outcome::Outcome;
use crate::scene::{self, Scene};
use crate::{fail, skip};

/// What a child does until it is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// DMA under way, memory mapped and written to, interrupts enabled.
    Dma,
    /// In pre-copy, with a buffer staged and mapped.
    Saving,
    /// In the middle of a stream that is loaded.
    Resuming,
}

/// All of them, with their names.
const ROLES: [(&str, Role); 3] = [
    ("dma", Role::Dma),
    ("saving", Role::Saving),
    ("resuming", Role::Resuming),
];

/// What else this program does when it is run again, by the word after `--child`: each is in the file of its tests.
const PROGRAMS: &[(&str, Program)] = &[
    ("attack", crate::attacker::main),
    ("puppet", crate::puppet::main),
    ("block", crate::blocking_calls::main),
    ("touch", crate::hostile::touch),
    ("ring", crate::rings::child),
    ("use", crate::passed::main),
    ("flood", crate::zeroing::flood),
    ("wait", crate::puppet::wait),
];

/// It is handed the rest of the arguments.
type Program = fn(&[String]) -> Outcome;

/// A child that runs; killed when dropped.
pub(crate) struct Child(std::process::Child);

impl Child {
    /// Starts one on an instance, and returns when it is in the middle of what it does.
    pub(crate) fn start(role: Role, instance: &Instance) -> Outcome<Self> {
        let (name, _) = ROLES
            .iter()
            .find(|(_, r)| *r == role)
            .expect("in the table");
        let mut process = Command::new("/proc/self/exe")
            .args(["--child", name, instance.uuid.as_str()])
            .stdout(Stdio::piped())
            .spawn()?;
        let out = process.stdout.take().expect("it was asked for");
        let child = Child(process);
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        if line != READY {
            fail!("the child {name} says {line:?}");
        }
        Ok(child)
    }

    /// Kills it, and returns when it is gone.
    pub(crate) fn kill(mut self) -> Outcome {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a child says when it has begun.
pub(crate) const READY: &str = "ready\n";

/// The child's `main`.
pub(crate) fn main(args: &[String]) -> ExitCode {
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            println!("{e}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Outcome {
    if let [name, args @ ..] = args {
        if let Some((_, program)) = PROGRAMS.iter().find(|(n, _)| n == name) {
            return program(args);
        }
    }
    let [name, uuid] = args else {
        skip!("--child takes a role and a uuid");
    };
    let Some((_, role)) = ROLES.iter().find(|(n, _)| n == name) else {
        skip!("there is no role {name}");
    };
    let instance = Sysfs::default().instance(&Uuid::parse(uuid)?)?;
    let container = Container::open()?;
    let scene = Scene::of(Guest {
        device: instance.open(&container)?,
        container,
        instance: Instance::from(instance),
    })?;
    match role {
        Role::Dma => dma(&scene),
        Role::Saving => saving(&scene),
        Role::Resuming => resuming(&scene),
    }
}

/// Tells the parent, and waits for the end.
pub(crate) fn ready() -> Outcome {
    let mut out = std::io::stdout();
    out.write_all(READY.as_bytes())?;
    out.flush()?;
    Ok(())
}

fn dma(scene: &Scene) -> Outcome {
    const BYTES: usize = 8 << 20;
    let events = [EventFd::new()?, EventFd::new()?];
    let msix = scene.device.irq(crate::irq::MSIX)?;
    msix.set_eventfds(0, &[Some(&events[0]), Some(&events[1])])?;
    scene.mdma.set_interrupts(regs::INT_ALL)?;
    scene.mdma.set(Reg::Scratch, 0x0123_4567_89ab_cdef)?;
    let buffer = scene.buffer(0x10_0000, BYTES)?;
    let memory = scene.mdma.map_memory()?;
    let mut queue = scene.queue(6)?;
    scene.mdma.set_throttle(300)?;
    scene.container.dirty_start()?;
    thread::scope(|scope| -> Outcome {
        scope.spawn(|| loop {
            for at in (0..memory.len()).step_by(4096) {
                memory.store_u64(at, at as u64, Ordering::Relaxed);
            }
        });
        let mut told = false;
        loop {
            while queue.room() > 0 {
                let (from, to) = (scene::guest(0x10_0000), scene::device(0));
                let job = match queue.room() % 3 {
                    0 => mdma::job::copy(from, to, BYTES as u64),
                    1 => mdma::job::copy(to, from, BYTES as u64),
                    _ => mdma::job::fill(from, 0x5a5a, BYTES as u64),
                };
                queue.submit(&job.interrupt())?;
            }
            queue.poll();
            if !told && scene.mdma.get(Reg::BytesDone)? > 0 {
                ready()?;
                told = true;
            }
            buffer.fill(0, 4096, 1);
        }
    })
}

fn saving(scene: &Scene) -> Outcome {
    let memory = scene.mdma.map_memory()?;
    memory.fill(0, memory.len(), 7);
    scene.go(&[State::PRE_COPY])?;
    let mut buffer = Vec::new();
    let mut told = false;
    loop {
        scene.migration.pending_bytes()?;
        buffer.clear();
        scene.migration.save_buffer(&mut buffer)?;
        memory.fill(0, memory.len(), 8);
        if !told {
            ready()?;
            told = true;
        }
    }
}

fn resuming(scene: &Scene) -> Outcome {
    scene.write_memory(0, &[9; 1 << 20])?;
    let stream = scene.save()?;
    scene.go(&[State::RESUMING])?;
    scene.feed(&stream[..stream.len() / 2], scene.section())?;
    ready()?;
    loop {
        thread::park();
    }
}
