// SPDX-License-Identifier: GPL-2.0

//! The driver of one device: hands out jobs, takes completions, and does what a processor does meanwhile.

use std::collections::VecDeque;
use std::time::Duration;

use fastrand::Rng;
use mdma::regs::{Reg, INT_ALL};
use mdma::{Bar, Buffer, Descriptor, Expected, Mdma, Place, Queue, World};

use crate::event::{Totals, Wrong, WrongResult};
use crate::footprint::{plus, Footprint, Range};
use crate::jobs::{Area, Jobs};
use crate::options::Options;
use crate::parts::{Parts, Window};

/// Order of the ring.
pub const RING_ORDER: u32 = 6;
/// The most jobs handed over at a time.
const BURST: u32 = 16;
/// The most bytes that the processor accesses at a time.
const ACCESS: u64 = 16 << 10;

/// The driver of one device.
pub struct Workload<B, M, W> {
    pub(crate) queue: Queue<B, M>,
    pub(crate) window: W,
    /// Blocks for data, sorted by IOVA.
    pub(crate) blocks: Vec<M>,
    /// What memory holds once all jobs in flight are done.
    pub(crate) world: World,
    /// What the registers hold that software writes.
    pub(crate) scratch: u64,
    pub(crate) throttle: u32,
    /// Bytes of jobs since the device's counter was looked at first.
    pub(crate) bytes_done: u64,
    pub(crate) jobs_done: u64,
    pub(crate) totals: Totals,
    jobs: Jobs,
    in_flight: VecDeque<InFlight>,
    rng: Rng,
    cookie: u64,
    rate: u64,
    max_throttle: u32,
    patience: Duration,
    /// When the next burst is due.
    due: Duration,
    /// When the last burst was handed over, or the last interrupt came.
    heard: Duration,
}

/// A job that was handed over and not seen to complete.
struct InFlight {
    job: Descriptor,
    expected: Expected,
    footprint: Footprint,
}

impl<B: Bar, M: Buffer, W: Window> Workload<B, M, W> {
    /// Enables the device. What its memory and the blocks hold is read once, and known from then on.
    pub fn new(parts: Parts<B, M, W>, options: &Options, device: usize) -> WrongResult<Self> {
        let mdma = Mdma::new(parts.registers)?;
        let size = mdma.memory_size();
        mdma.set_interrupts(INT_ALL)?;
        let mut blocks = parts.blocks;
        if blocks.len() < 2 {
            return Err(Wrong::new("too little memory for DMA"));
        }
        let queue = Queue::new(mdma, blocks.remove(0), RING_ORDER)?;
        blocks.sort_by_key(Buffer::iova);
        let guest = Area::guest(
            blocks
                .iter()
                .map(|block| (block.iova(), block.size() as u64)),
        );
        let mut workload = Workload {
            scratch: queue.mdma().get(Reg::Scratch)?,
            throttle: queue.mdma().get(Reg::Throttle)? as u32,
            bytes_done: queue.mdma().get(Reg::BytesDone)?,
            jobs_done: queue.mdma().get(Reg::JobsDone)?,
            queue,
            window: parts.window,
            blocks,
            world: World::new(size),
            totals: Totals::default(),
            jobs: Jobs {
                guest,
                device: Area::device(size, options.device),
            },
            in_flight: VecDeque::new(),
            rng: Rng::with_seed(options.seed ^ ((device as u64) << 32)),
            cookie: (device as u64) << 56,
            rate: options.rate,
            max_throttle: options.throttle,
            patience: Duration::from_secs(options.patience),
            due: Duration::ZERO,
            heard: Duration::ZERO,
        };
        workload.prepare();
        Ok(workload)
    }

    /// Fills all memory that is used by the processor, so that there is something to lose from the start.
    fn prepare(&mut self) {
        let ranges = [&self.jobs.guest, &self.jobs.device];
        let ranges: Vec<Range> = ranges.iter().flat_map(|a| a.ranges()).copied().collect();
        for range in ranges {
            for at in (0..range.len).step_by(ACCESS as usize) {
                let len = ACCESS.min(range.len - at);
                self.store(&Range::new(plus(range.place, at), len));
            }
        }
        self.totals = Totals::default();
    }

    /// How much was done.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Whether no job is in flight.
    pub fn idle(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// The size of the device memory in bytes.
    pub fn memory_size(&self) -> u64 {
        self.world.memory_size
    }

    /// When there will be something to do, if nothing interrupts before. Times are since the guest's start.
    pub fn due(&self) -> Option<Duration> {
        (self.queue.room() > 0).then_some(self.due)
    }

    /// Hands over jobs if they are due, and accesses memory while the device works.
    pub fn step(&mut self, now: Duration) -> WrongResult {
        if now >= self.due && self.queue.room() > 0 {
            self.burst(now)?;
        }
        Ok(())
    }

    fn burst(&mut self, now: Duration) -> WrongResult {
        let count = self.rng.u32(1..=BURST).min(self.queue.room());
        if self.rng.u8(..4) == 0 {
            self.write_registers()?;
        }
        if self.in_flight.is_empty() {
            self.heard = now;
        }
        for i in 0..count {
            let (job, footprint) = self.jobs.random(&mut self.rng);
            self.cookie = self.cookie.wrapping_add(1);
            let mut job = job.cookie(self.cookie);
            // Somebody has to be woken after the last one.
            if i + 1 == count || self.rng.bool() {
                job = job.interrupt();
            }
            self.queue.fill(&job)?;
            let expected = self.world.apply(&job);
            self.in_flight.push_back(InFlight {
                job,
                expected,
                footprint,
            });
            // One by one, or several with one doorbell.
            if i + 1 == count || self.rng.u8(..4) == 0 {
                self.queue.ring_doorbell()?;
            }
        }
        self.totals.jobs += u64::from(count);
        for _ in 0..count {
            self.access()?;
        }
        // Time lost is not made up for: a guest that was stopped for long would then flood its device.
        let pause = (1_000_000 * u64::from(count))
            .checked_div(self.rate)
            .unwrap_or(0);
        self.due = now.max(self.due + Duration::from_micros(pause));
        Ok(())
    }

    /// Writes registers that have no influence on results.
    fn write_registers(&mut self) -> WrongResult {
        let mdma = self.queue.mdma();
        self.scratch = self.rng.u64(..);
        mdma.set(Reg::Scratch, self.scratch)?;
        self.throttle = self.rng.u32(..=self.max_throttle);
        mdma.set_throttle(self.throttle)?;
        Ok(())
    }

    /// The processor reads or writes some memory that no job in flight uses.
    fn access(&mut self) -> WrongResult {
        let len = self.rng.u64(1..=ACCESS);
        let range = self.jobs.place(&mut self.rng, len);
        if self.rng.bool() {
            if !self
                .in_flight
                .iter()
                .any(|other| other.footprint.blocks_write(&range))
            {
                self.store(&range);
            }
        } else if !self
            .in_flight
            .iter()
            .any(|other| other.footprint.blocks_read(&range))
        {
            if matches!(range.place, Place::Device(_)) {
                self.totals.memory_reads += range.len;
            }
            self.compare(&range, "memory that nobody was writing")?;
        }
        Ok(())
    }

    /// The processor writes.
    fn store(&mut self, range: &Range) {
        let mut data = vec![0; range.len as usize];
        self.rng.fill(&mut data);
        match range.place {
            Place::Guest(iova) => {
                let (block, offset) = self.block(iova);
                block.write(offset, &data);
                self.totals.ram_writes += range.len;
            }
            Place::Device(offset) => {
                self.window.write(offset, &data);
                self.totals.memory_writes += range.len;
            }
        }
        self.world.write(range.place, &data);
    }

    /// The block of an address that is in one.
    pub(crate) fn block(&self, iova: u64) -> (&M, usize) {
        let after = self.blocks.partition_point(|block| block.iova() <= iova);
        let block = &self.blocks[after - 1];
        (block, (iova - block.iova()) as usize)
    }

    /// Takes completions, after an interrupt has said that there may be some.
    pub fn interrupted(&mut self, count: u64, now: Duration) -> WrongResult {
        self.totals.interrupts += count;
        self.heard = now;
        while let Some(completion) = self.queue.poll() {
            let Some(done) = self.in_flight.pop_front() else {
                return Err(Wrong::new(format!(
                    "a completion without a job: {completion:x?}"
                )));
            };
            done.expected.check(&completion).map_err(|_| {
                let (expected, found) =
                    (format!("{:x?}", done.expected), format!("{completion:x?}"));
                Wrong::values("completion record", expected, found).with(&done.job)
            })?;
            self.jobs_done = self.jobs_done.wrapping_add(1);
            self.bytes_done = self.bytes_done.wrapping_add(completion.bytes);
            if completion.sequence != self.jobs_done {
                let what = "sequence of the completion record";
                return Err(
                    Wrong::values(what, self.jobs_done, completion.sequence).with(&done.job)
                );
            }
            // What later jobs write may be written already.
            for range in &done.footprint.writes {
                let later = self
                    .in_flight
                    .iter()
                    .flat_map(|other| &other.footprint.writes);
                for left in range.without_all(later) {
                    self.compare(&left, "result of a job")
                        .map_err(|wrong| wrong.with(&done.job))?;
                }
            }
            self.totals.verified += 1;
            self.totals.bytes += completion.bytes;
        }
        Ok(())
    }

    /// Whether jobs have been in flight for so long that something must be lost.
    pub fn overdue(&mut self, now: Duration) -> WrongResult {
        let Some(first) = self.in_flight.front() else {
            return Ok(());
        };
        let waited = now.saturating_sub(self.heard);
        if waited < self.patience {
            return Ok(());
        }
        let job = first.job;
        let seconds = waited.as_secs();
        let wrong = if self.queue.poll().is_some() {
            Wrong::new(format!(
                "lost interrupt: a job is done, and for {seconds} s nobody said so"
            ))
        } else if let Err(halted) = self.queue.mdma().check_halted() {
            Wrong::new(format!("{halted}, and for {seconds} s nobody said so"))
        } else {
            let mdma = self.queue.mdma();
            let registers =
                [Reg::Status, Reg::Head, Reg::Tail, Reg::JobsDone].map(|reg| (reg, mdma.get(reg)));
            Wrong::values(
                format!("no job has completed for {seconds} s"),
                format!("{} jobs, after {}", self.in_flight.len(), self.jobs_done),
                format!("{registers:x?}"),
            )
        };
        Err(wrong.with(&job))
    }
}
