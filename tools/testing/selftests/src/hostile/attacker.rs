// SPDX-License-Identifier: GPL-2.0

//! The child process of `attack.rs`: an ordinary user who makes random calls on a device.
//!
//! It reads rounds, `SEED CALLS AT`, from standard input. In each it opens the device again and makes CALLS calls. It
//! prints `at` just before call number AT, and `done` after the last.

use std::io::{BufRead, Write};
use std::sync::Arc;

use ::hostile::admitted;
use mdma::regs::{self, Reg};
use mdma::{job, Descriptor, Mdma};
use vfio_client::mdev::{Instance, Sysfs, Uuid};
use vfio_client::v2::{self, DataFd};
use vfio_client::{v1, Access, Container, Device, EventFd, Mapping, Region};

use crate::fixture::{device, guest, PAGE, QUEUE};
use crate::harness::result::Result;
use crate::skip;

/// The number, distance and size of the user's mappings.
const SLOTS: u64 = 4;
const SLOT: u64 = 0x100_0000;
const SLOT_SIZE: usize = 1 << 20;
/// The number of entries of the queue.
const RING: u32 = 16;
/// The number of data files that stay open.
const FILES: usize = 4;

/// The process's `main`.
pub(crate) fn main(args: &[String]) -> Result {
    admitted()?;
    let [uuid] = args else {
        skip!("attack takes a UUID");
    };
    let instance = Sysfs::default().instance(&Uuid::parse(uuid)?)?;
    for line in std::io::stdin().lock().lines() {
        let numbers: Vec<u64> = line?.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        let [seed, calls, at] = numbers[..] else {
            skip!("a round is SEED CALLS AT");
        };
        let mut attacker = Attacker::open(&instance, seed)?;
        for call in 0..calls {
            if call == at {
                say("at")?;
            }
            // Any result is fine. The parent checks only what the user leaves behind.
            let _ = attacker.call();
        }
        drop(attacker);
        say("done")?;
    }
    Ok(())
}

fn say(line: &str) -> Result {
    let mut out = std::io::stdout();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

struct Attacker {
    // Dropped in this order.
    streams: Vec<DataFd>,
    window: Option<Mapping>,
    v1: v1::Migration,
    v2: v2::Migration,
    mdma: Mdma<Region>,
    device: Device,
    container: Container,
    ring: Arc<Mapping>,
    memory: Arc<Mapping>,
    events: [EventFd; 2],
    /// A saved stream, to load again.
    saved: Vec<u8>,
    tail: u32,
    rng: fastrand::Rng,
}

impl Attacker {
    fn open(instance: &Instance, seed: u64) -> Result<Self> {
        let container = Container::open()?;
        let device = instance.open(&container)?;
        let (Some(v1), Some(v2)) = (device.migration_v1()?, device.migration_v2()?) else {
            skip!("the device does not support migration");
        };
        let attacker = Attacker {
            streams: Vec::new(),
            window: None,
            v1,
            v2,
            mdma: Mdma::open(&device)?,
            device,
            container,
            ring: Arc::new(Mapping::anonymous(2 * PAGE as usize)?),
            memory: Arc::new(Mapping::anonymous(SLOTS as usize * SLOT_SIZE)?),
            events: [EventFd::new()?, EventFd::new()?],
            saved: Vec::new(),
            tail: 0,
            rng: fastrand::Rng::with_seed(seed),
        };
        attacker
            .container
            .map(QUEUE, &attacker.ring, Access::ReadWrite)?;
        Ok(attacker)
    }

    /// Makes one call, or a few related ones.
    fn call(&mut self) -> Result {
        match self.rng.u8(0..24) {
            0..=3 => self.submit(),
            4..=5 => self.enable_queue(),
            6 => Ok(self.mdma.set(Reg::Control, 0)?),
            7..=8 => self.map(),
            9 => self.unmap(),
            10 => self.dirty(),
            11 => self.touch_window(),
            12 => self.access_memory(),
            13..=14 => self.interrupts(),
            15 => self.registers(),
            16 => self.v1_state(),
            17 => {
                self.saved.clear();
                Ok(self.v1.save_buffer(&mut self.saved)?)
            }
            18 => self.load_v1(),
            19 => self.v2_state(),
            20..=21 => self.stream(),
            22 => Ok(self.device.reset()?),
            _ => Ok(self
                .device
                .config()?
                .set_bus_master(self.rng.u8(0..4) > 0)?),
        }
    }

    fn enable_queue(&mut self) -> Result {
        self.mdma.set(Reg::Control, 0)?;
        self.mdma.set(Reg::RingBase, QUEUE)?;
        self.mdma.set(Reg::RingOrder, RING.ilog2().into())?;
        self.mdma.set(Reg::CompletionBase, QUEUE + PAGE)?;
        self.tail = 0;
        Ok(self.mdma.set(Reg::Control, regs::CONTROL_ENABLE.into())?)
    }

    /// Writes some jobs to the ring and rings the doorbell.
    fn submit(&mut self) -> Result {
        for _ in 0..self.rng.u8(1..6) {
            let job = self.job();
            self.ring.write(self.tail as usize * 64, &job.encode());
            self.tail = (self.tail + 1) % RING;
        }
        Ok(self.mdma.set(Reg::Tail, self.tail.into())?)
    }

    fn job(&mut self) -> Descriptor {
        let rng = &mut self.rng;
        // The IOVA is often not mapped, or the range crosses the end of a mapping.
        let near = guest(SLOT * rng.u64(1..=SLOTS) + PAGE * rng.u64(0..4));
        let far = guest(SLOT * rng.u64(1..=SLOTS) + rng.u64(0..4));
        let inside = device(PAGE * rng.u64(0..4000));
        let order = rng.u32(1..23);
        let len = rng.u64(1..=1 << order);
        let job = match rng.u8(0..7) {
            0 => job::nop(),
            1 => job::copy(near, inside, len),
            2 => job::copy(inside, near, len),
            3 => job::copy(near, far, len),
            4 => job::fill(near, len, len),
            5 => job::fill(inside, len, len),
            _ => job::crc32c(near, len),
        };
        match rng.bool() {
            true => job.interrupt(),
            false => job,
        }
    }

    fn map(&mut self) -> Result {
        let slot = self.rng.u64(0..SLOTS);
        let size = [PAGE as usize, 16 * PAGE as usize, SLOT_SIZE][self.rng.usize(0..3)];
        let access = [Access::ReadWrite, Access::ReadWrite, Access::Read][self.rng.usize(0..3)];
        if self.rng.u8(0..4) == 0 {
            let _ = self.container.map(QUEUE, &self.ring, Access::ReadWrite);
        }
        let at = slot as usize * SLOT_SIZE;
        let iova = SLOT * (slot + 1);
        Ok(self
            .container
            .map_range(iova, &self.memory, at, size, access)?)
    }

    fn unmap(&mut self) -> Result {
        let iova = SLOT * self.rng.u64(1..=SLOTS);
        match self.rng.u8(0..8) {
            0 => self.container.unmap_all().map(drop)?,
            1 => self.container.unmap(QUEUE, 2 * PAGE).map(drop)?,
            2 => self.container.unmap_dirty(iova, SLOT).map(drop)?,
            _ => self.container.unmap(iova, SLOT).map(drop)?,
        }
        Ok(())
    }

    fn dirty(&mut self) -> Result {
        match self.rng.u8(0..4) {
            0 => self.container.dirty_stop()?,
            1 => self.container.dirty_start()?,
            _ => drop(self.container.dirty_bitmap(SLOT, SLOT * SLOTS)?),
        }
        Ok(())
    }

    fn touch_window(&mut self) -> Result {
        if self.window.is_none() || self.rng.u8(0..8) == 0 {
            self.window = Some(self.mdma.map_memory()?);
        }
        let window = self.window.as_ref().expect("just mapped");
        for _ in 0..32 {
            let at = self.rng.usize(0..window.len() / 8) * 8;
            window.store_u64(at, 1, std::sync::atomic::Ordering::Relaxed);
        }
        Ok(())
    }

    fn access_memory(&mut self) -> Result {
        let mut bytes = vec![7; 1 << self.rng.u32(0..17)];
        let memory = self.mdma.memory()?;
        let at = self.rng.u64(0..memory.info().size - bytes.len() as u64);
        match self.rng.bool() {
            true => memory.write(at, &bytes)?,
            false => memory.read(at, &mut bytes)?,
        }
        Ok(())
    }

    fn interrupts(&mut self) -> Result {
        let irq = self.device.irq([0, 0, 1, 2][self.rng.usize(0..4)])?;
        let [first, second] = &self.events;
        match self.rng.u8(0..6) {
            0 => irq.disable()?,
            1 => irq.set_eventfds(0, &[Some(first)])?,
            2 => irq.set_eventfds(0, &[Some(first), Some(second)])?,
            3 => irq.set_unmask_eventfd(0, Some(second))?,
            4 => second.signal()?,
            _ => self.mdma.set_interrupts(self.rng.u32(0..4))?,
        }
        Ok(())
    }

    fn registers(&mut self) -> Result {
        match self.rng.bool() {
            true => _ = self.mdma.snapshot()?,
            false => self.mdma.set_throttle(self.rng.u32(0..200))?,
        }
        Ok(())
    }

    fn v1_state(&mut self) -> Result {
        let states = [
            v1::State::RUNNING,
            v1::State::RUNNING,
            v1::State::STOP,
            v1::State::PRE_COPY,
            v1::State::STOP_AND_COPY,
            v1::State::RESUMING,
        ];
        Ok(self
            .v1
            .write_state(states[self.rng.usize(0..states.len())])?)
    }

    fn v2_state(&mut self) -> Result {
        let state = v2::State(self.rng.u32(1..8));
        if let Some(stream) = self.v2.set_state(state)? {
            self.streams.truncate(FILES);
            self.streams.insert(0, stream);
        }
        Ok(())
    }

    fn load_v1(&mut self) -> Result {
        let cut = self.rng.usize(0..=self.saved.len());
        Ok(self.v1.load_buffer(&self.saved[..cut])?)
    }

    fn stream(&mut self) -> Result {
        let Some(stream) = self.streams.first() else {
            return Ok(());
        };
        let mut bytes = vec![0; 1 << 16];
        match stream.read(&mut bytes) {
            Ok(len) => self.saved.extend_from_slice(&bytes[..len]),
            Err(_) => drop(stream.write(&self.saved)?),
        }
        self.saved.truncate(1 << 22);
        Ok(())
    }
}
