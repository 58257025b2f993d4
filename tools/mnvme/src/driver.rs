// SPDX-License-Identifier: GPL-2.0

//! The controller: registers, queues, commands. Completions are polled.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use mnvme_model::regs::{self, Reg, DOORBELLS, REGISTERS};
use mnvme_model::{IO_QUEUES, QUEUES};
use vfio_client::{Device, DmaBuffer, Region};

use crate::command::{Command, Completion, CREATE_CQ, CREATE_SQ};
use crate::error::{Error, Result};

/// Entries of each queue.
pub const ENTRIES: u16 = 128;

/// IOVA of the driver's memory.
pub const MEMORY: u64 = 0x10_0000;
/// IOVA of memory for data.
pub const DATA: u64 = 0x20_0000;
/// Bytes of it.
pub const DATA_SIZE: usize = 0x10_0000;

/// The longest time to wait for the controller.
const PATIENCE: Duration = Duration::from_secs(300);

/// A queue pair, as the driver sees it.
#[derive(Clone, Copy, Debug)]
struct Queue {
    tail: u16,
    head: u16,
    phase: bool,
    cid: u16,
}

const EMPTY: Queue = Queue {
    tail: 0,
    head: 0,
    phase: true,
    cid: 0,
};

/// A driver of one controller.
#[derive(Debug)]
pub struct Driver {
    bar: Region,
    memory: DmaBuffer,
    queues: [Queue; QUEUES],
}

/// Offset in the driver's memory of a submission queue, which has two pages.
fn submission(queue: usize) -> usize {
    queue * 0x3000
}

/// Offset in the driver's memory of a completion queue, which has a page.
fn completion(queue: usize) -> usize {
    submission(queue) + 0x2000
}

impl Driver {
    /// Takes over an open device: maps memory, and enables memory decoding and DMA. Does not touch the controller.
    pub fn new(device: &Device) -> Result<Self> {
        let config = device.config()?;
        let (vendor, id) = config.ids()?;
        if (vendor, id) != (regs::PCI_VENDOR, regs::PCI_DEVICE) {
            return Err(Error::Foreign { vendor, device: id });
        }
        config.enable()?;
        Ok(Driver {
            bar: device.region(regs::BAR_REGISTERS)?,
            memory: DmaBuffer::new(
                device.container(),
                MEMORY,
                (DATA - MEMORY) as usize + DATA_SIZE,
            )?,
            queues: [EMPTY; QUEUES],
        })
    }

    /// Continues with the queues of a driver of the same device, or of the one that it was migrated from.
    pub fn take_over(&mut self, other: &Driver) {
        let len = self.memory.len();
        self.memory.write(0, &other.memory.to_vec(0, len));
        self.queues = other.queues;
    }

    /// Returns the region of the registers.
    pub fn bar(&self) -> &Region {
        &self.bar
    }

    /// Returns the driver's memory, from [`MEMORY`] on.
    pub fn memory(&self) -> &DmaBuffer {
        &self.memory
    }

    /// Reads a register.
    pub fn read(&self, reg: Reg) -> Result<u64> {
        let row = row(reg);
        Ok(match row.width {
            4 => u32::from_le(self.bar.read_u32(row.offset)?).into(),
            _ => u64::from_le(self.bar.read_u64(row.offset)?),
        })
    }

    /// Writes a register.
    pub fn write(&self, reg: Reg, value: u64) -> Result {
        let row = row(reg);
        match row.width {
            4 => self.bar.write_u32(row.offset, (value as u32).to_le())?,
            _ => self.bar.write_u64(row.offset, value.to_le())?,
        }
        Ok(())
    }

    /// Writes a doorbell: that of the submission queue, or of the completion queue.
    pub fn ring(&self, queue: usize, completion: bool, value: u16) -> Result {
        let number = 2 * queue as u64 + u64::from(completion);
        Ok(self
            .bar
            .write_u32(DOORBELLS + 4 * number, u32::from(value).to_le())?)
    }

    /// Resets the controller.
    pub fn disable(&self) -> Result {
        self.write(Reg::Cc, 0)?;
        wait("CSTS.RDY to become 0", || {
            Ok((self.read(Reg::Csts)? & 1 == 0).then_some(()))
        })
    }

    /// Enables the controller, and creates `count` I/O queue pairs. The vector of each has its number.
    pub fn enable(&mut self, count: usize) -> Result {
        assert!(count <= IO_QUEUES);
        self.disable()?;
        self.queues = [EMPTY; QUEUES];
        self.memory.fill(0, submission(QUEUES), 0);
        let size = u64::from(ENTRIES - 1);
        self.write(Reg::Aqa, size | (size << 16))?;
        self.write(Reg::Asq, MEMORY + submission(0) as u64)?;
        self.write(Reg::Acq, MEMORY + completion(0) as u64)?;
        self.write(Reg::Cc, 1 | u64::from(regs::CC_ENTRY_SIZES_LEGAL))?;
        wait("CSTS.RDY to become 1", || {
            Ok((self.read(Reg::Csts)? & 1 == 1).then_some(()))
        })?;
        for queue in 1..=count {
            let id = queue as u32 | (u32::from(ENTRIES - 1) << 16);
            let number = (queue as u32) << 16;
            for (opcode, flags, at) in [
                (CREATE_CQ, 3, completion(queue)),
                (CREATE_SQ, 1, submission(queue)),
            ] {
                let command = Command::admin(opcode, id, flags | number, MEMORY + at as u64);
                self.succeed("create a queue", 0, &command)?;
            }
        }
        Ok(())
    }

    /// Puts a command into a submission queue, without ringing the doorbell. Returns its identifier.
    pub fn put(&mut self, queue: usize, command: &Command) -> u16 {
        let state = &mut self.queues[queue];
        let at = submission(queue) + usize::from(state.tail) * 64;
        state.cid = state.cid.wrapping_add(1);
        state.tail = (state.tail + 1) % ENTRIES;
        self.memory.write(at, &command.encode(state.cid));
        state.cid
    }

    /// Rings the doorbell of a submission queue for all commands that were put into it.
    pub fn ring_tail(&self, queue: usize) -> Result {
        self.ring(queue, false, self.queues[queue].tail)
    }

    /// Submits a command. Returns its identifier.
    pub fn submit(&mut self, queue: usize, command: &Command) -> Result<u16> {
        let cid = self.put(queue, command);
        self.ring_tail(queue)?;
        Ok(cid)
    }

    /// Returns whether there is a completion in a queue that was not taken.
    pub fn has_completion(&self, queue: usize) -> bool {
        let state = self.queues[queue];
        let at = completion(queue) + usize::from(state.head) * 16;
        let mut bytes = [0; 16];
        self.memory.read(at, &mut bytes);
        Completion::decode(&bytes, state.phase).is_some()
    }

    /// Takes the next completion of a queue, if there is one.
    pub fn take(&mut self, queue: usize) -> Result<Option<Completion>> {
        let state = self.queues[queue];
        let at = completion(queue) + usize::from(state.head) * 16;
        // Orders the reads of the entry after that of its phase tag.
        self.memory.load_u64(at + 8, Ordering::Acquire);
        let mut bytes = [0; 16];
        self.memory.read(at, &mut bytes);
        let Some(done) = Completion::decode(&bytes, state.phase) else {
            return Ok(None);
        };
        // The entry may have changed between the two.
        self.memory.read(at, &mut bytes);
        let done = Completion::decode(&bytes, state.phase).unwrap_or(done);
        let state = &mut self.queues[queue];
        state.head = (state.head + 1) % ENTRIES;
        if state.head == 0 {
            state.phase = !state.phase;
        }
        let head = state.head;
        self.ring(queue, true, head)?;
        Ok(Some(done))
    }

    /// Waits for the next completion of a queue.
    pub fn next(&mut self, queue: usize) -> Result<Completion> {
        let what = format!("a completion in queue {queue}");
        wait(&what, || self.take(queue))
    }

    /// Does a command to its end.
    pub fn execute(&mut self, queue: usize, command: &Command) -> Result<Completion> {
        let cid = self.submit(queue, command)?;
        let done = self.next(queue)?;
        assert_eq!(done.cid, cid, "one command at a time");
        Ok(done)
    }

    /// Does a command that must succeed. Returns dword 0 of the completion.
    pub fn succeed(&mut self, what: &'static str, queue: usize, command: &Command) -> Result<u32> {
        match self.execute(queue, command)? {
            Completion {
                status: 0, result, ..
            } => Ok(result),
            Completion { status, .. } => Err(Error::Status { what, status }),
        }
    }
}

/// Returns the row of a register.
fn row(reg: Reg) -> &'static regs::Register {
    static ROWS: [regs::Register; REGISTERS.len()] = REGISTERS;
    ROWS.iter().find(|row| row.reg == reg).expect("a register")
}

/// Waits until `look` finds something.
fn wait<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() > end {
            return Err(Error::Expired(what.into()));
        }
        thread::sleep(Duration::from_micros(50));
    }
}
