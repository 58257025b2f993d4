// SPDX-License-Identifier: GPL-2.0

//! The NVMe controller of `samples/mnvme`, in a module of its own next to the module under test.

pub(crate) mod commands;
pub(crate) mod hostile;
pub(crate) mod image;
pub(crate) mod interrupts;
pub(crate) mod migration;
pub(crate) mod storage;

use std::fs;
use std::path::PathBuf;

use kernel_utils::module;
use mnvme::command::{Command, Completion, READ, WRITE};
use mnvme::{Driver, DATA, DATA_SIZE, MEMORY};
use vfio_client::v2::State;

use crate::env::{Env, Guest, Instance};
use crate::harness::check::wait_for;
use crate::harness::report::problem;
use crate::harness::result::Result;
use crate::{fail, skip};

/// The module's name.
const NAME: &str = "mnvme";
/// The smallest type: 64 MiB.
const TYPE: &str = "mnvme-64M";
/// Bytes of a block.
const BLOCK: usize = 512;
/// Blocks of the namespace.
const BLOCKS: u64 = (64 << 20) / BLOCK as u64;
/// Bytes of a page.
const PAGE: u64 = 4096;

/// The loaded module; unloaded on drop.
struct Loaded;

impl Loaded {
    fn new(env: &Env) -> Result<Self> {
        let path: PathBuf = env.module.path()?.with_file_name("mnvme.ko");
        if !path.exists() {
            skip!("there is no {}", path.display());
        }
        module::load(&path, "")?;
        Ok(Loaded)
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        if let Err(e) = module::unload(NAME) {
            problem(format!("cannot unload {NAME}: {e}"));
        }
    }
}

/// An open device with its driver. Drop everything made from it first.
struct Nvme {
    // Dropped in this order.
    driver: Driver,
    guest: Guest,
}

impl Nvme {
    /// Opens a new instance whose controller is not enabled.
    fn new(env: &Env) -> Result<Self> {
        Self::of(env.open(TYPE)?)
    }

    /// Opens a new instance and enables its controller with some I/O queue pairs.
    fn enabled(env: &Env, queues: usize) -> Result<Self> {
        let mut nvme = Self::new(env)?;
        nvme.driver.enable(queues)?;
        Ok(nvme)
    }

    fn of(guest: Guest) -> Result<Self> {
        Ok(Nvme {
            driver: Driver::new(&guest.device)?,
            guest,
        })
    }

    /// Closes the device. The instance stays.
    fn close(self) -> Instance {
        let Nvme { driver, guest } = self;
        drop(driver);
        guest.close()
    }

    fn poke(&self, offset: usize, data: &[u8]) {
        assert!(offset + data.len() <= DATA_SIZE);
        let at = (DATA - MEMORY) as usize + offset;
        self.driver.memory().write(at, data);
    }

    fn peek(&self, offset: usize, len: usize) -> Vec<u8> {
        let at = (DATA - MEMORY) as usize + offset;
        self.driver.memory().to_vec(at, len)
    }

    /// Writes up to a page by queue 1.
    fn write(&mut self, slba: u64, data: &[u8]) -> Result {
        self.poke(0, data);
        let blocks = (data.len() / BLOCK) as u32;
        let command = Command::blocks(WRITE, slba, blocks, DATA, 0);
        self.driver.succeed("write", 1, &command)?;
        Ok(())
    }

    /// Reads up to a page by queue 1.
    fn read(&mut self, slba: u64, len: usize) -> Result<Vec<u8>> {
        let command = Command::blocks(READ, slba, (len / BLOCK) as u32, DATA, 0);
        self.driver.succeed("read", 1, &command)?;
        Ok(self.peek(0, len))
    }

    /// Writes a byte to whole pages.
    fn fill(&mut self, pages: impl IntoIterator<Item = u64>, value: u8) -> Result {
        for page in pages {
            self.write(page * 8, &[value; PAGE as usize])?;
        }
        Ok(())
    }

    /// Takes `count` completions of a queue. All must be successes.
    fn take(&mut self, queue: usize, count: usize) -> Result<Vec<u16>> {
        let mut cids = Vec::new();
        for _ in 0..count {
            match self.driver.next(queue)? {
                Completion { status: 0, cid, .. } => cids.push(cid),
                done => fail!("{done:?}"),
            }
        }
        Ok(cids)
    }

    /// Returns a number of the instance's file `migration` in debugfs.
    fn debug(&self, name: &str) -> Result<u64> {
        let path = format!("/sys/kernel/debug/{NAME}/{}/migration", self.guest.uuid());
        let mut text = String::new();
        wait_for("the device to become idle", || {
            text = fs::read_to_string(&path)?;
            Ok(text != "state: busy\n")
        })?;
        let found = text
            .lines()
            .find_map(|line| line.split_once(": ").filter(|(key, _)| *key == name));
        match found {
            Some((_, value)) => Ok(value.trim().parse()?),
            None => fail!("{path} has no line {name}"),
        }
    }

    /// Saves the device by v2, and leaves it stopped.
    fn save(&self) -> Result<Vec<u8>> {
        let stream = self.guest.save()?;
        self.guest.v2()?.set_state(State::STOP)?;
        Ok(stream)
    }

    /// Loads a device by v2, and leaves it stopped.
    fn load(&self, stream: &[u8]) -> Result {
        self.guest.load(stream, State::STOP)
    }
}
