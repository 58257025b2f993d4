// SPDX-License-Identifier: GPL-2.0

//! The driver of one device: submits jobs, takes completions, and accesses memory as a processor meanwhile.

use std::collections::VecDeque;
use std::time::Duration;

use fastrand::Rng;
use mdma::desc::{Error, Operand, DST_KEY, SRC_KEY};
use mdma::list::ENTRY_SIZE;
use mdma::regs::{Reg, INT_ALL};
use mdma::{
    job, Bar, Buffer, Completion, Descriptor, Entry, Expected, List, Mdma, Op, Place, Queue, World,
};

use crate::event::{Totals, Wrong, WrongResult};
use crate::footprint::{plus, Footprint, Range};
use crate::jobs::{Area, Jobs, Side, MAX_ENTRIES};
use crate::options::Options;
use crate::parts::{Parts, Remap, Window};

/// Order of the ring.
pub const RING_ORDER: u32 = 6;
/// The most jobs submitted at a time.
const BURST: u32 = 16;
/// For this many places in guest memory there is one more in registered memory, and one more in that of another device,
/// if there is one.
const SHARE: usize = 2;
/// One burst in this many is a job that halts the queue.
const HALTS: u8 = 48;
/// The most bytes per access of the processor.
const ACCESS: u64 = 16 << 10;

/// The driver of one device.
pub struct Workload<B, M, W> {
    pub(crate) queue: Queue<B, M>,
    pub(crate) window: W,
    /// Blocks for data and lists, sorted by IOVA.
    pub(crate) blocks: Vec<M>,
    /// The block that holds the scatter lists.
    pub(crate) lists: u64,
    /// Changes the mapping of a block, if blocks are to move.
    pub(crate) remap: Option<Remap<M>>,
    /// The IOVAs of the blocks that do not move.
    pub(crate) stays: Vec<u64>,
    /// The IOVA of the block that is memory of another device, if there is one.
    peer: Option<u64>,
    /// Bytes of device memory that no other device writes.
    pub(crate) own: u64,
    /// The blocks that are yet to be registered.
    pub(crate) unregistered: Vec<(u64, u64)>,
    /// Contents of memory once all jobs in flight are done.
    pub(crate) world: World,
    /// Contents of the registers that software writes.
    pub(crate) scratch: u64,
    pub(crate) throttle: u32,
    /// Bytes of jobs since the device's counter was first read.
    pub(crate) bytes_done: u64,
    pub(crate) jobs_done: u64,
    pub(crate) totals: Totals,
    jobs: Jobs,
    pub(crate) in_flight: VecDeque<InFlight>,
    /// The next job halts the queue.
    naughty: bool,
    /// The queue has halted, and restarts at this time.
    pub(crate) halted: Option<Duration>,
    pub(crate) rng: Rng,
    cookie: u64,
    rate: u64,
    max_throttle: u32,
    patience: Duration,
    /// When the next burst is due.
    due: Duration,
    /// When the last burst was submitted, or the last interrupt came.
    heard: Duration,
}

/// A submitted job whose completion was not seen yet.
pub(crate) struct InFlight {
    pub(crate) job: Descriptor,
    pub(crate) expected: Expected,
    pub(crate) footprint: Footprint,
}

impl<B: Bar, M: Buffer, W: Window> Workload<B, M, W> {
    /// Enables the device. Reads its memory and the blocks once; the model is exact from then on.
    pub fn new(parts: Parts<B, M, W>, options: &Options, device: usize) -> WrongResult<Self> {
        let mdma = Mdma::new(parts.registers)?;
        let size = mdma.memory_size();
        mdma.set_interrupts(INT_ALL)?;
        let mut blocks = parts.blocks;
        if blocks.len() < 3 {
            return Err(Wrong::new("too little memory for DMA"));
        }
        let queue = Queue::new(mdma, blocks.remove(0), RING_ORDER)?;
        let lists = blocks[0].iova();
        if blocks[0].size() < (2 * MAX_ENTRIES * ENTRY_SIZE) << RING_ORDER {
            return Err(Wrong::new("a block is too small for the scatter lists"));
        }
        let place = |block: &M| (block.iova(), block.size() as u64);
        let data = blocks.iter().filter(|block| block.iova() != lists);
        let data: Vec<_> = data.map(place).collect();
        let own = size.saturating_sub(parts.lent);
        let peer = parts.peer.as_ref().map(place);
        let size_of_block = data[0].1;
        let count = |bytes: u64| (bytes.div_ceil(size_of_block) as usize).min(data.len());
        let written = &data[..count(options.written)];
        // Spread over all of it.
        let registered = count(options.registered);
        let unregistered: Vec<_> = (0..registered)
            .map(|i| data[i * data.len() / registered])
            .collect();
        // Each makes up a part of the places, although there may be few among many blocks.
        let share = written.len().div_ceil(SHARE);
        let by_key = unregistered.iter().filter(|block| written.contains(block));
        let by_key = by_key.cycle().take(share);
        let peers = std::iter::repeat_n(&peer, share).flatten();
        let guest = Area::guest(written.iter().chain(by_key).chain(peers).copied());
        blocks.extend(parts.peer);
        blocks.sort_by_key(Buffer::iova);
        let mut workload = Workload {
            scratch: queue.mdma().get(Reg::Scratch)?,
            throttle: queue.mdma().get(Reg::Throttle)? as u32,
            bytes_done: queue.mdma().get(Reg::BytesDone)?,
            jobs_done: queue.mdma().get(Reg::JobsDone)?,
            queue,
            window: parts.window,
            lists,
            remap: parts.remap,
            stays: (written.iter().chain(&unregistered).chain(&peer))
                .map(|&(iova, _)| iova)
                .chain([lists])
                .collect(),
            peer: peer.map(|(iova, _)| iova),
            own,
            unregistered,
            blocks,
            world: World::new(size),
            totals: Totals::default(),
            jobs: Jobs {
                guest,
                device: Area::device(own, options.device),
            },
            in_flight: VecDeque::new(),
            naughty: false,
            halted: None,
            rng: Rng::with_seed(options.seed ^ ((device as u64) << 32)),
            cookie: (device as u64) << 56,
            rate: options.rate,
            max_throttle: options.throttle,
            patience: Duration::from_secs(options.patience),
            due: Duration::ZERO,
            heard: Duration::ZERO,
        };
        workload.prepare(data);
        Ok(workload)
    }

    /// Fills all memory in use as the processor, also the blocks that no job writes, so that a loss shows from the start.
    fn prepare(&mut self, blocks: Vec<(u64, u64)>) {
        let blocks = Area::guest(blocks.into_iter());
        let areas = [&blocks, &self.jobs.guest, &self.jobs.device];
        let ranges: Vec<Range> = areas.iter().flat_map(|a| a.ranges()).copied().collect();
        for range in ranges {
            for at in (0..range.len).step_by(ACCESS as usize) {
                let len = ACCESS.min(range.len - at);
                self.store(&Range::new(plus(range.place, at), len));
            }
        }
        self.totals = Totals::default();
    }

    /// Returns the work done.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Returns whether no job is in flight and the queue is not halted.
    pub fn idle(&self) -> bool {
        self.in_flight.is_empty() && self.halted.is_none()
    }

    /// Returns the size of device memory in bytes.
    pub fn memory_size(&self) -> u64 {
        self.world.memory_size
    }

    /// Returns when the next work is due if nothing interrupts before, as time since the guest's start.
    pub fn due(&self) -> Option<Duration> {
        match self.halted {
            Some(until) => Some(until),
            None => (self.queue.room() > 0 && (!self.naughty || self.in_flight.is_empty()))
                .then_some(self.due),
        }
    }

    /// Submits jobs if they are due, and accesses memory while the device works.
    pub fn step(&mut self, now: Duration, wanted: bool) -> WrongResult {
        if let Some(until) = self.halted {
            return if now >= until { self.restart() } else { Ok(()) };
        }
        if !wanted || now < self.due || self.queue.room() == 0 {
            return Ok(());
        }
        if !self.naughty {
            self.naughty = self.rng.u8(..HALTS) == 0;
            return self.burst(now);
        }
        // No other job may be in flight.
        if self.in_flight.is_empty() {
            self.naughty = false;
            self.heard = now;
            return self.misbehave();
        }
        Ok(())
    }

    fn burst(&mut self, now: Duration) -> WrongResult {
        if self.in_flight.is_empty() {
            self.heard = now;
        }
        self.register()?;
        self.remap()?;
        let count = self.rng.u32(1..=BURST).min(self.queue.room());
        if self.rng.u8(..4) == 0 {
            self.write_registers()?;
        }
        for i in 0..count {
            let plan = self.jobs.random(&mut self.rng);
            let (src, dst) = (self.operand(&plan.src, 0), self.operand(&plan.dst, 1));
            // Both or none, because they may overlap.
            let by_key = self.rng.bool();
            let [src, dst] = [src, dst].map(|side| match side {
                Some(operand) if by_key => Some(self.keyed(operand)),
                side => side,
            });
            let value = self.rng.u64(..);
            let job = match (plan.op, src, dst) {
                (Op::Copy, Some(src), Some(dst)) => job::copy(src, dst, plan.len),
                (Op::Fill, _, Some(dst)) => job::fill(dst, value, plan.len),
                (Op::Crc32c, Some(src), _) => job::crc32c(src, plan.len),
                _ => job::nop(),
            };
            // The last job must wake the program.
            let wake = i + 1 == count || self.rng.bool();
            self.submit(if wake { job.interrupt() } else { job }, plan.footprint())?;
            // With one doorbell each, or one for several.
            if i + 1 == count || self.rng.u8(..4) == 0 {
                self.queue.ring_doorbell()?;
            }
        }
        for _ in 0..count {
            self.access()?;
        }
        // Lost time is not made up for: a guest that was stopped for long would flood its device.
        let pause = (1_000_000 * u64::from(count))
            .checked_div(self.rate)
            .unwrap_or(0);
        self.due = now.max(self.due + Duration::from_micros(pause));
        Ok(())
    }

    /// Puts a job into the ring. Compares what it is about to overwrite, because nobody can do that later: a page that a
    /// migration lost shows, unless a job that was in flight has written it again.
    pub(crate) fn submit(&mut self, job: Descriptor, footprint: Footprint) -> WrongResult {
        let earlier = || {
            self.in_flight
                .iter()
                .flat_map(|other| &other.footprint.writes)
        };
        for range in &footprint.writes {
            for left in range.without_all(earlier()) {
                self.compare(&left, "before a job overwrites it")?;
            }
        }
        let job = job.cookie(self.next_cookie());
        self.queue.fill(&job)?;
        let expected = self.world.apply(&job);
        self.in_flight.push_back(InFlight {
            job,
            expected,
            footprint,
        });
        self.totals.jobs += 1;
        Ok(())
    }

    /// Returns a cookie that no other job has.
    pub(crate) fn next_cookie(&mut self) -> u64 {
        self.cookie = self.cookie.wrapping_add(1);
        self.cookie
    }

    /// Returns the descriptor's fields for one side of a job. Each place in the ring has room for two scatter lists.
    fn operand(&mut self, side: &Side, which: u64) -> Option<Operand> {
        let first = side.ranges.first()?;
        if !side.list {
            return Some(first.place.into());
        }
        let entries: Vec<Entry> = side.ranges.iter().map(Range::entry).collect();
        let at = (u64::from(self.queue.tail()) * 2 + which) * (MAX_ENTRIES * ENTRY_SIZE) as u64;
        let iova = self.lists + at;
        for (entry, at) in entries.iter().zip((iova..).step_by(ENTRY_SIZE)) {
            self.write_lists(at, &entry.encode());
        }
        let (base, entries) = (iova, entries.len() as u32);
        Some(List { base, entries }.into())
    }

    /// Writes to the scatter list memory.
    pub(crate) fn write_lists(&mut self, iova: u64, data: &[u8]) {
        let (block, offset) = self.block(iova);
        block.write(offset, data);
        self.world.write(Place::Guest(iova), data);
    }

    /// Writes registers that do not affect results.
    fn write_registers(&mut self) -> WrongResult {
        let mdma = self.queue.mdma();
        self.scratch = self.rng.u64(..);
        mdma.set(Reg::Scratch, self.scratch)?;
        self.throttle = self.rng.u32(..=self.max_throttle);
        mdma.set_throttle(self.throttle)?;
        Ok(())
    }

    /// Reads or writes, as the processor, some memory that no job in flight uses.
    fn access(&mut self) -> WrongResult {
        let len = self.rng.u64(1..=ACCESS);
        let range = self.jobs.place(&mut self.rng, len);
        let mut others = self.in_flight.iter().map(|other| &other.footprint);
        if self.rng.bool() {
            if !others.any(|footprint| footprint.blocks_write(&range)) {
                self.compare(&range, "before the processor overwrites it")?;
                self.store(&range);
            }
        } else if !others.any(|footprint| footprint.blocks_read(&range)) {
            if matches!(range.place, Place::Device(_)) {
                self.totals.memory_reads += range.len;
            }
            self.compare(&range, "memory that nobody was writing")?;
        }
        Ok(())
    }

    /// Writes as the processor.
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
            Place::Key { .. } => unreachable!("footprints have IOVAs"),
        }
        self.world.write(range.place, &data);
    }

    /// Returns the block that holds an address.
    pub(crate) fn block(&self, iova: u64) -> (&M, usize) {
        let after = self.blocks.partition_point(|block| block.iova() <= iova);
        let block = &self.blocks[after - 1];
        (block, (iova - block.iova()) as usize)
    }

    /// Returns whether a range is memory of another device.
    fn is_peer(&self, range: &Range) -> bool {
        match range.place {
            Place::Guest(iova) => self.peer == Some(self.block(iova).0.iova()),
            _ => false,
        }
    }

    /// Takes completions, after an interrupt has announced some.
    pub fn interrupted(&mut self, count: u64, now: Duration) -> WrongResult {
        self.totals.interrupts += count;
        self.heard = now;
        while let Some(completion) = self.queue.poll() {
            let Some(done) = self.in_flight.pop_front() else {
                let found = format!("{completion:x?}");
                return Err(Wrong::values("a completion too many", "none", found));
            };
            self.completed(&done, &completion)
                .map_err(|wrong| wrong.with(&done.job))?;
            if done.expected.error != Error::None {
                return self.expect_halt(done.expected.error, now);
            }
        }
        Ok(())
    }

    /// Compares the result of a job.
    fn completed(&mut self, done: &InFlight, completion: &Completion) -> WrongResult {
        if done.job.op == Op::Register {
            self.registered(done, completion)?;
        } else if done.expected.check(completion).is_err() {
            let (expected, found) = (format!("{:x?}", done.expected), format!("{completion:x?}"));
            return Err(Wrong::values("completion record", expected, found));
        }
        self.jobs_done = self.jobs_done.wrapping_add(1);
        if done.job.op != Op::Register {
            self.bytes_done = self.bytes_done.wrapping_add(completion.bytes);
        }
        if done.job.flags & (SRC_KEY | DST_KEY) != 0 {
            self.totals.by_key += 1;
        }
        let ranges = done.footprint.reads.iter().chain(&done.footprint.writes);
        if ranges.copied().any(|range| self.is_peer(&range)) {
            self.totals.peer += 1;
        }
        if completion.sequence != self.jobs_done {
            let what = "sequence of the completion record";
            return Err(Wrong::values(what, self.jobs_done, completion.sequence));
        }
        // Later jobs may have written already.
        let later = || {
            self.in_flight
                .iter()
                .flat_map(|other| &other.footprint.writes)
        };
        for range in &done.footprint.writes {
            for left in range.without_all(later()) {
                self.compare(&left, "result of a job")?;
            }
        }
        self.totals.verified += 1;
        self.totals.bytes += completion.bytes;
        Ok(())
    }

    /// Checks whether jobs have been in flight so long that something must be lost.
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
                "lost interrupt: a job is done, but no interrupt came for {seconds} s"
            ))
        } else if let Err(halted) = self.queue.mdma().check_halted() {
            Wrong::new(format!("{halted}, but no interrupt came for {seconds} s"))
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
