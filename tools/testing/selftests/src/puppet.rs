// SPDX-License-Identifier: GPL-2.0

//! A process that uses a device as it is told, line by line: an ordinary user in a control group, or a second process that
//! shares the first one's device.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::str::FromStr;
use std::thread;

use ::hostile::{admitted, own_node, Cgroup, Stalled, User, Victim};
use mdma::job;
use mdma::regs::{self, Reg};
use rustix::process::{pidfd_getfd, pidfd_open, Pid, PidfdFlags, PidfdGetfdFlags, Resource};
use vfio_client::mdev::{Sysfs, Uuid};
use vfio_client::v1::State;
use vfio_client::{errno_name, pci, Access, Container, Device, Group};

use crate::check::{Errno, PATIENCE, SILENCE};
use crate::fail;
use crate::lab::{Guest, Instance};
use crate::outcome::{Ended, Outcome};
use crate::scene::{device, guest, Scene, VfioQueue, QUEUE};

/// Where the puppet maps the memory that stalls.
const STALLED: u64 = 0x10_0000;

/// The puppet, as its master sees it. Killed when dropped.
pub(crate) struct Puppet {
    pub(crate) user: User,
}

impl Puppet {
    /// Starts one that opens the instance. Its task is in the group and has the limits from the start. The memory is mapped
    /// for the device.
    pub(crate) fn open(
        instance: &Instance,
        cgroup: Option<&Cgroup>,
        limits: &[(Resource, u64)],
        stalled: Option<&mut Stalled>,
    ) -> Outcome<Self> {
        own_node(instance.iommu_group()?)?;
        let spec = stalled
            .as_ref()
            .map_or("-".into(), |stalled| stalled.spec());
        let args = ["--child", "puppet", instance.uuid.as_str(), &spec];
        let mut puppet = Puppet {
            user: User::start(&args, cgroup, limits)?,
        };
        if let Some(stalled) = stalled {
            let announcement = puppet.ask("memory")?;
            stalled.adopt(puppet.user.pid(), &announcement)?;
        }
        Ok(puppet)
    }

    /// Starts a second process that shares the device of the first.
    pub(crate) fn join(&mut self, instance: &Instance) -> Outcome<Self> {
        let files = self.files()?;
        let args = ["--child", "puppet", instance.uuid.as_str(), &files];
        Ok(Puppet {
            user: User::start(&args, None, &[])?,
        })
    }

    /// The puppet's device and container, shared by this process.
    pub(crate) fn share(&mut self, instance: &Instance) -> Outcome<(Device, Container)> {
        shared(instance, &self.files()?)
    }

    fn files(&mut self) -> Outcome<String> {
        Ok(format!("{}:{}", self.user.pid(), self.ask("files")?))
    }

    /// Tells it something, without waiting for the answer.
    pub(crate) fn tell(&mut self, order: &str) -> Outcome {
        Ok(self.user.say(order)?)
    }

    /// Tells it something and waits for the answer.
    pub(crate) fn ask(&mut self, order: &str) -> Outcome<String> {
        self.tell(order)?;
        self.answer(order)
    }

    /// Waits for the answer to what it was told.
    pub(crate) fn answer(&mut self, order: &str) -> Outcome<String> {
        match self.user.hear_within(PATIENCE)? {
            Some(line) if line.is_empty() => fail!("the puppet has ended instead of {order:?}"),
            Some(line) => Ok(line),
            None => fail!(
                "waited {} s for the puppet's answer to {order:?}:\n{}",
                PATIENCE.as_secs(),
                self.user.stacks()
            ),
        }
    }

    /// Tells it something that has to go well.
    #[track_caller]
    pub(crate) fn order(&mut self, order: &str) -> Outcome {
        let answer = self.ask(order)?;
        assert_eq!(answer, "ok", "{order:?}");
        Ok(())
    }

    /// Checks that it does not answer.
    #[track_caller]
    pub(crate) fn expect_silence(&mut self, order: &str) -> Outcome {
        let answer = self.user.hear_within(SILENCE)?;
        assert_eq!(answer, None, "{order:?} does not wait");
        Ok(())
    }

    /// Kills it, and returns when it is gone.
    pub(crate) fn kill(&mut self, doing: &str) -> Outcome {
        self.user.kill()?;
        if self.user.wait(PATIENCE)?.is_none() {
            fail!(
                "{doing}: waited {} s for the end of a process that was killed:\n{}",
                PATIENCE.as_secs(),
                self.user.stacks()
            );
        }
        Ok(())
    }
}

/// Opens the device that another process has open.
fn shared(instance: &Instance, files: &str) -> Outcome<(Device, Container)> {
    let numbers: Vec<i32> = files.split(':').filter_map(|n| n.parse().ok()).collect();
    let [pid, container, group] = numbers[..] else {
        fail!("{files:?} says no files");
    };
    let Some(pid) = Pid::from_raw(pid) else {
        fail!("{files:?} says no process");
    };
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let file =
        |fd| -> Outcome<OwnedFd> { Ok(pidfd_getfd(&process, fd, PidfdGetfdFlags::empty())?) };
    let container = Container::from_fd(file(container)?);
    let group = Group::from_fd(file(group)?, instance.iommu_group()?, &container);
    Ok((group.device(instance.uuid.as_str())?, container))
}

/// What the puppet has.
struct Stage {
    // Dropped in this order.
    queue: Option<VfioQueue>,
    scene: Option<Scene>,
    guest: Option<Guest>,
    victim: Option<Victim>,
    /// Where it maps its rings. Processes that share a container need different places.
    rings: u64,
}

/// The puppet's `main`.
pub(crate) fn main(args: &[String]) -> Outcome {
    admitted()?;
    let [uuid, from] = args else {
        fail!("puppet takes a uuid and a memory or files");
    };
    let instance = Instance::from(Sysfs::default().instance(&Uuid::parse(uuid)?)?);
    let mut stage = Stage {
        queue: None,
        scene: None,
        guest: None,
        victim: None,
        rings: QUEUE,
    };
    let numbers = from.split(':').filter(|n| u32::from_str(n).is_ok()).count();
    if numbers == 3 {
        let (device, container) = shared(&instance, from)?;
        stage.rings = QUEUE + (u64::from(std::process::id()) << 32);
        stage.guest = Some(Guest {
            device,
            container,
            instance,
        });
    } else {
        let container = Container::open()?;
        stage.guest = Some(Guest {
            device: instance.open(&container)?,
            container: container.clone(),
            instance,
        });
        if from != "-" {
            let victim = Victim::new(from)?;
            container.map(STALLED, victim.memory(), Access::ReadWrite)?;
            stage.victim = Some(victim);
        }
    }
    loop {
        let order = line()?;
        let answer = match stage.obey(&order) {
            Ok(answer) if answer.is_empty() => "ok".into(),
            Ok(answer) => answer,
            Err(e) => e.to_string().replace('\n', " "),
        };
        let mut out = io::stdout();
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
}

/// An order.
fn line() -> Outcome<String> {
    let mut line = String::new();
    if io::stdin().read_line(&mut line)? == 0 {
        // Nobody listens any more.
        std::process::exit(0);
    }
    Ok(line.trim_end().to_string())
}

/// The errno of a call as its name, or `ok`.
fn errno<T, E: Errno>(result: Result<T, E>) -> String {
    match result {
        Ok(_) => "ok".into(),
        Err(e) => match e.errno() {
            Some(errno) => errno_name(errno).map_or_else(|| errno.to_string(), str::to_string),
            None => format!("{e:?}"),
        },
    }
}

impl Stage {
    fn guest(&self) -> &Guest {
        match &self.scene {
            Some(scene) => &scene.guest,
            None => self.guest.as_ref().expect("in the one or in the other"),
        }
    }

    /// The device with its registers, bus master.
    fn scene(&mut self) -> Outcome<&Scene> {
        if let Some(guest) = self.guest.take() {
            self.scene = Some(Scene::of(guest)?);
        }
        self.scene
            .as_ref()
            .ok_or_else(|| Ended::failed("the device could not be taken over"))
    }

    fn queue(&mut self) -> Outcome<&mut VfioQueue> {
        if self.queue.is_none() {
            let rings = self.rings;
            let scene = self.scene()?;
            // A reset turns bus mastering off.
            scene.device.config()?.enable()?;
            self.queue = Some(scene.queue_at(rings, 6)?);
        }
        Ok(self.queue.as_mut().expect("made just now"))
    }

    /// Does what it is told; nothing to say is `ok`.
    fn obey(&mut self, order: &str) -> Outcome<String> {
        let (verb, rest) = order.split_once(' ').unwrap_or((order, ""));
        let number = || rest.parse::<u64>().map_err(Ended::from);
        Ok(match verb {
            "memory" => self.victim.as_ref().expect("memory").announcement(),
            "files" => {
                let group = self.guest().device.group().clone();
                let (container, group) =
                    (self.guest().container.as_fd(), group.as_fd().as_raw_fd());
                format!("{}:{group}", container.as_raw_fd())
            }
            "enable" => errno(self.guest().device.config()?.enable()),
            "disable" => errno(self.guest().device.config()?.set_bus_master(false)),
            "toggle" => {
                let config = self.guest().device.config()?;
                for _ in 0..number()? {
                    config.set_bus_master(false)?;
                    config.set_bus_master(true)?;
                }
                String::new()
            }
            "master" => {
                let command = self.guest().device.config()?.command()?;
                (command & pci::COMMAND_MASTER).to_string()
            }
            "reset" => {
                self.queue = None;
                errno(self.guest().device.reset())
            }
            "stop" => {
                let migration = self.guest().device.migration_v1()?.expect("a region");
                errno(migration.write_state(State::STOP))
            }
            "state" => {
                let migration = self.guest().device.migration_v1()?.expect("a region");
                format!("{}", migration.state()?)
            }
            "throttle" => {
                let throttle = number()? as u32;
                self.scene()?.mdma.set_throttle(throttle)?;
                String::new()
            }
            // The job reads the memory that stalls.
            "stall" => {
                let len = self.victim.as_ref().expect("memory").memory().len() as u64;
                self.queue()?
                    .submit(&job::copy(guest(STALLED), device(0), len))?;
                String::new()
            }
            // The job writes so much of the device's memory.
            "fill" => {
                let len = number()?;
                self.queue()?.submit(&job::fill(device(0), !0, len))?;
                String::new()
            }
            // So many jobs that read all of the device's memory.
            "work" => {
                let jobs = number()?;
                let size = self.scene()?.mdma.memory_size();
                let queue = self.queue()?;
                for _ in 0..jobs {
                    queue.fill(&job::crc32c(device(0), size))?;
                }
                queue.ring_doorbell()?;
                String::new()
            }
            // How a job ends: the error in its record, or in the register if there is none.
            "end" => {
                let mut end = String::new();
                let queue = self.queue()?;
                crate::check::wait_for("a job to end", || {
                    if let Some(completion) = queue.poll() {
                        write!(end, "{}", completion.error)?;
                    } else if queue.mdma().get(Reg::Status)? & u64::from(regs::STATUS_HALTED) != 0 {
                        write!(end, "{}", queue.mdma().get(Reg::Error)?)?;
                    }
                    Ok(!end.is_empty())
                })?;
                end
            }
            // The threads that have the driver's name.
            "tasks" => tasks()?,
            "exec" => {
                let e = Command::new("/proc/self/exe")
                    .args(["--child", "wait"])
                    .exec();
                e.to_string()
            }
            _ => fail!("unknown order {order:?}"),
        })
    }
}

/// The numbers of this process's threads that have the driver's name.
fn tasks() -> Outcome<String> {
    let mut tasks = Vec::new();
    for task in fs::read_dir("/proc/self/task")? {
        let task = task?;
        if fs::read_to_string(task.path().join("comm"))?.trim_end() == "mdma" {
            tasks.push(task.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(format!("[{}]", tasks.join(" ")))
}

/// What a puppet becomes that executes another program.
pub(crate) fn wait(_: &[String]) -> Outcome {
    let mut out = io::stdout();
    writeln!(out, "waiting")?;
    out.flush()?;
    loop {
        thread::park();
    }
}
