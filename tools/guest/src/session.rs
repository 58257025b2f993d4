// SPDX-License-Identifier: GPL-2.0

//! The main loop: all devices, commands and heartbeat.

use std::io;
use std::time::Duration;

use rustix::event::{poll, PollFd, PollFlags, Timespec};

use crate::binding::Unbound;
use crate::candidate::Candidate;
use crate::console::{Command, Console, Verify};
use crate::event::{Event, Found, Losses, Shown, Totals, Wrong, WrongResult};
use crate::kernel_log::KernelLog;
use crate::options::Options;
use crate::system;
use crate::work::Work;

/// Interval of the heartbeat.
const BEAT: Duration = Duration::from_millis(250);
/// The jobs that a device does before it is held. They write a few hundred pages, so some of them are pages that the
/// host has sent before.
const LAST_JOBS: u64 = 32;
/// Timeout for devices to appear.
const APPEAR: Duration = Duration::from_secs(60);

/// The running program.
pub struct Session {
    console: Console,
    log: KernelLog,
    options: Options,
    devices: Vec<Device>,
    found: Vec<Found>,
    /// The devices without a driver.
    unbound: Vec<Unbound>,
    /// The commands that the host waits for.
    asked: Vec<Verify>,
    /// The host waits for the devices to be held.
    holding: bool,
    beat: Duration,
}

struct Device {
    work: Box<dyn Work>,
    /// The number of jobs after which it is held.
    last: Option<u64>,
}

impl Device {
    /// Returns whether it may do more jobs before it is held.
    fn may_work(&self) -> bool {
        self.last.is_none_or(|last| self.work.totals().jobs < last)
    }
}

/// Why a session ended.
#[derive(Debug)]
pub enum End {
    /// The host asked for it.
    Asked,
    /// Something is wrong.
    Wrong(Box<Wrong>),
}

impl From<Box<Wrong>> for End {
    fn from(wrong: Box<Wrong>) -> Self {
        End::Wrong(wrong)
    }
}

fn failed(what: &str) -> impl Fn(io::Error) -> Box<Wrong> + '_ {
    move |e| Wrong::new(format!("{what}: {e}"))
}

impl Session {
    /// Finds the devices and reports readiness.
    pub fn new(console: Console, options: &Options) -> Result<Self, (Console, Box<Wrong>)> {
        let log = match KernelLog::open() {
            Ok(log) => log,
            Err(e) => return Err((console, failed("/dev/kmsg")(e))),
        };
        let mut session = Session {
            console,
            log,
            options: options.clone(),
            devices: Vec::new(),
            found: Vec::new(),
            unbound: Vec::new(),
            asked: Vec::new(),
            holding: false,
            beat: Duration::ZERO,
        };
        match session.begin() {
            Ok(()) => Ok(session),
            Err(wrong) => Err((session.console, wrong)),
        }
    }

    /// Waits for the devices, begins to work with them, and reports readiness.
    fn begin(&mut self) -> WrongResult {
        let list = Self::wait_for_devices(&mut self.console, &self.options)?;
        self.found.clear();
        for i in 0..list.len() {
            let (work, what) =
                Candidate::begin(&list, i, &self.options).map_err(|wrong| wrong.of(i))?;
            self.found.push(what);
            self.devices.push(Device { work, last: None });
        }
        self.console
            .tell(&Event::Ready {
                ms: system::now().as_millis() as u64,
                devices: self.devices.len(),
                found: &self.found,
                options: &Shown::from(&self.options),
            })
            .map_err(failed("console"))
    }

    fn wait_for_devices(console: &mut Console, options: &Options) -> WrongResult<Vec<Candidate>> {
        let start = system::now();
        let mut told = false;
        loop {
            let list = Candidate::find(options.kind).map_err(failed("sysfs"))?;
            if list.len() >= options.devices {
                return Ok(list);
            }
            if !told {
                told = true;
                console
                    .tell(&Event::Waiting {
                        ms: start.as_millis() as u64,
                        devices: list.len(),
                    })
                    .map_err(failed("console"))?;
            }
            if system::now() - start > APPEAR {
                return Err(Wrong::values(
                    "number of devices",
                    options.devices,
                    list.len(),
                ));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Works until the host ends the session or something is wrong.
    pub fn run(&mut self) -> End {
        loop {
            match self.round() {
                Ok(()) => (),
                Err(end) => return end,
            }
        }
    }

    /// Returns the line to the host.
    pub fn into_console(self) -> Console {
        self.console
    }

    fn round(&mut self) -> Result<(), End> {
        let now = system::now();
        for (i, device) in self.devices.iter_mut().enumerate() {
            // A pending check waits for the jobs in flight only.
            let wanted = self.asked.is_empty() && device.may_work();
            device.work.step(now, wanted).map_err(|wrong| wrong.of(i))?;
            device.work.overdue(now).map_err(|wrong| wrong.of(i))?;
        }
        if !self.asked.is_empty() && self.devices.iter().all(|device| device.work.idle()) {
            self.answer()?;
        }
        let held = |device: &Device| !device.may_work() && device.work.idle();
        if self.holding && self.devices.iter().all(held) {
            self.holding = false;
            self.console
                .tell(&Event::Held(self.totals()))
                .map_err(failed("console"))
                .map_err(End::from)?;
        }
        if now >= self.beat {
            self.beat(now)?;
        }
        self.wait()
    }

    fn totals(&self) -> Totals {
        let totals = self.devices.iter().map(|device| device.work.totals());
        Totals {
            ms: system::now().as_millis() as u64,
            ..totals.fold(Totals::default(), Totals::plus)
        }
    }

    fn beat(&mut self, now: Duration) -> WrongResult {
        self.beat = now + BEAT;
        if let Some(trouble) = self.log.trouble().map_err(failed("/dev/kmsg"))? {
            return Err(Wrong::new(format!("kernel log: {trouble}")));
        }
        let totals = self.totals();
        self.console
            .tell(&Event::Beat(totals))
            .map_err(failed("console"))
    }

    /// Lets each device do its last jobs.
    fn hold(&mut self) {
        self.holding = true;
        for device in &mut self.devices {
            device.last = Some(device.work.totals().jobs + LAST_JOBS);
        }
    }

    /// Carries out the host's commands.
    fn answer(&mut self) -> Result<(), End> {
        for verify in std::mem::take(&mut self.asked) {
            let mut losses = Losses::default();
            for (i, device) in self.devices.iter_mut().enumerate() {
                device.last = None;
                let checked = match verify {
                    Verify::Mend => device.work.mend(&mut losses),
                    _ => device.work.check(),
                };
                checked.map_err(|wrong| wrong.of(i))?;
            }
            let totals = self.totals();
            let told = match verify {
                Verify::Check => self.console.tell(&Event::Checked(totals)),
                Verify::Mend => self.console.tell(&Event::Mended(&losses)),
                Verify::Unbind => {
                    self.unbind()?;
                    self.console.tell(&Event::Unbound(totals))
                }
                Verify::End => {
                    let trouble = self.log.trouble().map_err(failed("/dev/kmsg"))?;
                    let kernel_log = trouble.unwrap_or("clean");
                    self.console.tell(&Event::Ended { totals, kernel_log })
                }
            };
            told.map_err(failed("console"))?;
            if verify == Verify::End {
                return Err(End::Asked);
            }
        }
        Ok(())
    }

    /// Ends the work with all devices, and unbinds them from their driver.
    fn unbind(&mut self) -> WrongResult {
        self.devices.clear();
        for found in &self.found {
            let unbound = Unbound::of(&found.pci).map_err(failed("unbind"))?;
            self.unbound.push(unbound);
        }
        Ok(())
    }

    /// Binds the driver to the devices that have none, and starts over with them.
    fn bind(&mut self) -> WrongResult {
        for unbound in std::mem::take(&mut self.unbound) {
            unbound.bind().map_err(failed("bind"))?;
        }
        self.begin()
    }

    /// Sleeps until a device interrupts, the host sends something, or work is due.
    fn wait(&mut self) -> Result<(), End> {
        let working =
            |device: &&Device| !device.work.idle() || (self.asked.is_empty() && device.may_work());
        let devices = self.devices.iter().filter(working);
        let due = devices.filter_map(|device| device.work.due());
        let until = due
            .fold(self.beat, Duration::min)
            .saturating_sub(system::now());
        let timeout = Timespec {
            tv_sec: until.as_secs() as i64,
            tv_nsec: until.subsec_nanos().into(),
        };
        let mut fds = vec![PollFd::new(&self.console, PollFlags::IN)];
        let works = self.devices.iter().map(|device| &device.work);
        fds.extend(works.map(|work| PollFd::new(work, PollFlags::IN)));
        poll(&mut fds, Some(&timeout)).map_err(|e| failed("poll")(e.into()))?;
        let ready: Vec<bool> = fds
            .iter()
            .map(|fd| fd.revents().contains(PollFlags::IN))
            .collect();

        let now = system::now();
        for (i, device) in self.devices.iter_mut().enumerate() {
            if ready[i + 1] {
                device.work.ready(now).map_err(|wrong| wrong.of(i))?;
            }
        }
        if ready[0] {
            for command in self.console.commands().map_err(failed("console"))? {
                match command {
                    Ok(Command::Hold) => self.hold(),
                    Ok(Command::Verify(verify)) => self.asked.push(verify),
                    Ok(Command::Bind) => self.bind()?,
                    Ok(Command::Suspend) => system::suspend().map_err(failed("suspend"))?,
                    Ok(Command::Panic) => {
                        self.console
                            .tell(&Event::Panics)
                            .map_err(failed("console"))?;
                        return Err(failed("panic")(system::panic()).into());
                    }
                    Err(line) => {
                        return Err(Wrong::new(format!("{line:?} is not a command")).into())
                    }
                }
            }
        }
        Ok(())
    }
}
