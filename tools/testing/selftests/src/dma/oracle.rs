// SPDX-License-Identifier: GPL-2.0

//! Random jobs compared with the oracle: contents, completions, and dirty pages.
//!
//! `--jobs N` sets the number of jobs, `--seed N` the random seed.

use std::collections::{BTreeMap, BTreeSet};

use mdma::desc::{DST_KEY, SRC_KEY};
use mdma::list::ENTRY_SIZE;
use mdma::{job, Descriptor, Entry, Operand, Place};
use vfio_client::DmaBuffer;

use crate::env::Env;
use crate::fixture::memory::{pages_of, Memory};
use crate::fixture::{device, guest, run_jobs, MdmaFixture, VfioQueue, PAGE, QUEUE};
use crate::harness::check::PATIENCE;
use crate::harness::result::Result;
use crate::{note, tests};

tests! { "oracle" needs [Mdma]:
    p30_random_jobs_and_random_tracking ["P30", "P31", "P32", "P34"],
    p30_random_mappings_come_and_go ["P30", "P34", "P35"],
    p30_random_jobs_on_registered_memory ["P30", "P31", "P32"],
    p35_random_mappings_under_registered_memory ["P30", "P31", "P35"],
}

/// The number of bytes of device memory that the jobs use.
const DEVICE: u64 = 1 << 20;

/// The IOVA of the scatter lists. Each job of a batch may have one of [`LIST_SIZE`] for its source and for its
/// destination.
const LISTS: u64 = 0x6_0000_0000;
const LIST_SIZE: u64 = 1024;
const LISTS_SIZE: u64 = 64 * LIST_SIZE;

/// The IOVAs and pages of the mappings, some adjacent, some far apart.
const SLOTS: [(u64, u64); 7] = [
    (0x1000, 1),
    (0x10_0000, 64),
    (0x10_0000 + 64 * PAGE, 3),
    (0x10_0000 + 67 * PAGE, 130),
    (0x8000_0000, 65),
    (0xff_ffff_0000, 17),
    (0x7fff_ffff_f000, 20),
];

/// The state of one run.
struct Run<'a> {
    fixture: &'a MdmaFixture,
    rng: fastrand::Rng,
    memory: Memory,
    /// The memory of the scatter lists. The device only reads it.
    lists: DmaBuffer,
    /// The offset of the next list.
    next_list: u64,
    /// The number of jobs with a list.
    with_lists: usize,
    /// Whether the mappings are registered when they are mapped.
    registers: bool,
    /// The key of each registered mapping, by IOVA.
    keys: BTreeMap<u64, u32>,
    /// The number of jobs that used a key.
    by_key: usize,
    /// Whether the device can log its writes. Then it does while tracking is on.
    logs: bool,
    /// The pages written since the last report of the device's log.
    unreported: BTreeSet<u64>,
    /// Whether tracking is on.
    tracking: bool,
    /// The pages written since the last GET of their range.
    written: BTreeSet<u64>,
    /// The number of pages that type1 reported, and how many of them were not written but registered.
    reported: usize,
    only_registered: usize,
    /// The number of pages that the device's log reported.
    logged: usize,
    gets: usize,
}

impl<'a> Run<'a> {
    fn new(env: &Env, fixture: &'a MdmaFixture, registers: bool) -> Result<Self> {
        let seed = env.limits.seed;
        note!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut memory = Memory::new(fixture, DEVICE as usize);
        memory.fill_device(fixture, &mut rng)?;
        Ok(Run {
            fixture,
            rng,
            memory,
            lists: fixture.buffer(LISTS, LISTS_SIZE as usize)?,
            next_list: 0,
            with_lists: 0,
            registers,
            keys: BTreeMap::new(),
            by_key: 0,
            logs: fixture.device.can_log_dma()?,
            unreported: BTreeSet::new(),
            tracking: false,
            written: BTreeSet::new(),
            reported: 0,
            only_registered: 0,
            logged: 0,
            gets: 0,
        })
    }

    fn map(&mut self, slot: usize) -> Result {
        let (iova, pages) = SLOTS[slot];
        self.memory
            .map(self.fixture, &mut self.rng, iova, (pages * PAGE) as usize)
    }

    /// Registers the mapping of a slot, if this run does.
    fn register(&mut self, queue: &mut VfioQueue, slot: usize) -> Result {
        if self.registers {
            let (iova, pages) = SLOTS[slot];
            let key = register(queue, iova, pages * PAGE, true)?;
            self.memory.world.keys.insert(key, iova);
            self.keys.insert(iova, key);
        }
        Ok(())
    }

    /// Returns the pages that are registered.
    fn pinned(&self) -> BTreeSet<u64> {
        let slots = SLOTS
            .iter()
            .filter(|(iova, _)| self.keys.contains_key(iova));
        slots
            .flat_map(|&(iova, pages)| pages_of(iova, pages * PAGE))
            .collect()
    }

    /// Returns a range by key, if it is in registered memory and the dice say so.
    fn key(&mut self, place: Place, room: u64) -> (Place, u64) {
        let Place::Guest(iova) = place else {
            return (place, room);
        };
        let slot = SLOTS
            .iter()
            .find(|&&(start, pages)| (start..start + pages * PAGE).contains(&iova));
        let Some(&(start, pages)) = slot else {
            return (place, room);
        };
        match self.keys.get(&start) {
            Some(&key) if self.rng.u8(0..4) != 0 => {
                let offset = iova - start;
                let place = Place::Key { key, offset };
                (place, room.min(pages * PAGE - offset))
            }
            _ => (place, room),
        }
    }

    /// Returns a range of device memory or of mapped guest memory. It may continue in an adjacent mapping.
    fn range(&mut self) -> (Place, u64) {
        if self.memory.buffers.is_empty() || self.rng.u8(0..3) == 0 {
            let at = self.rng.u64(0..DEVICE);
            return (device(at), DEVICE - at);
        }
        let n = self.rng.usize(0..self.memory.buffers.len());
        let buffer = &self.memory.buffers[n];
        let mut end = buffer.iova() + buffer.memory().len() as u64;
        let at = self.rng.u64(buffer.iova()..end);
        while let Some(next) = self.memory.buffers.iter().find(|b| b.iova() == end) {
            end += next.memory().len() as u64;
        }
        (guest(at), end - at)
    }

    fn length(&mut self, room: u64) -> u64 {
        let most = *self
            .rng
            .choice([16, 5000, 70_000, 400_000].iter())
            .expect("some");
        self.rng.u64(1..=room.min(most))
    }

    /// Returns the source or destination of a job, which is a range or a list of ranges, and its maximal length.
    fn side(&mut self) -> (Operand, u64) {
        if self.rng.u8(0..3) != 0 {
            let (place, room) = self.range();
            let (place, room) = self.key(place, room);
            return (place.into(), room);
        }
        let entries: Vec<Entry> = (0..self.rng.u64(1..=LIST_SIZE / ENTRY_SIZE as u64))
            .map(|_| {
                let (place, room) = self.range();
                let most = *self.rng.choice([8, 300, 9000].iter()).expect("some");
                let len = self.rng.u64(1..=room.min(most)) as u32;
                Entry { place, len }
            })
            .collect();
        // The lists of a batch do not overlap. The next batch reuses their memory.
        let at = self.next_list;
        assert!(at < LISTS_SIZE, "a batch has more lists than fit");
        self.next_list += LIST_SIZE;
        let list = self.memory.world.write_list(LISTS + at, &entries);
        for (i, entry) in entries.iter().enumerate() {
            self.lists
                .write(at as usize + i * ENTRY_SIZE, &entry.encode());
        }
        let room = entries.iter().map(|entry| u64::from(entry.len)).sum();
        (list.into(), room)
    }

    fn job(&mut self, cookie: u64) -> Descriptor {
        let (src, src_room) = self.side();
        let (dst, dst_room) = self.side();
        let fill = |run: &mut Self| {
            let value = run.rng.u64(..);
            job::fill(dst, value, run.length(dst_room))
        };
        let job = match self.rng.u8(0..10) {
            0 => job::nop(),
            1..=2 => job::crc32c(src, self.length(src_room)),
            3..=5 => fill(self),
            _ => {
                let copy = job::copy(src, dst, self.length(src_room.min(dst_room)));
                let [reads, writes] = self.memory.world.reads_and_writes(&copy);
                // The result is undefined if lists overlap, or memory that is named in two ways.
                let alike = match (copy.source(), copy.destination()) {
                    (Some(Operand::At(src)), Some(Operand::At(dst))) => alike(src, dst),
                    _ => false,
                };
                if !alike && overlap(&reads, &writes) {
                    fill(self)
                } else {
                    copy
                }
            }
        };
        self.with_lists += usize::from(job.has_list());
        self.by_key += usize::from(job.flags & (SRC_KEY | DST_KEY) != 0);
        let job = job.cookie(cookie);
        if self.rng.bool() {
            job.interrupt()
        } else {
            job
        }
    }

    /// Submits up to `most` random jobs, as far as the ring has room, and checks their completions.
    fn batch(&mut self, queue: &mut VfioQueue, cookie: &mut u64, most: u64) -> Result {
        let count = self.rng.u64(1..=most.min(u64::from(queue.room())).max(1));
        let mut jobs = Vec::new();
        self.next_list = 0;
        for _ in 0..count {
            let job = self.job(*cookie);
            *cookie += 1;
            queue.fill(&job)?;
            jobs.push(job);
        }
        queue.ring_doorbell()?;
        for job in jobs {
            let completion = queue.wait(PATIENCE)?;
            let [_, writes] = self.memory.world.reads_and_writes(&job);
            if let Err(why) = self.memory.world.apply(&job).check(&completion) {
                crate::fail!("{job:?}: {why}");
            }
            for (place, len) in writes {
                if let (true, Place::Guest(iova)) = (self.tracking, place) {
                    self.written.extend(pages_of(iova, len));
                    self.unreported.extend(pages_of(iova, len));
                }
            }
        }
        Ok(())
    }

    /// Starts or stops tracking.
    fn toggle(&mut self) -> Result {
        self.tracking = !self.tracking;
        if self.tracking {
            self.fixture.container.dirty_start()?;
            if self.logs {
                let ranges = SLOTS.map(|(iova, pages)| (iova, pages * PAGE));
                self.fixture.device.dma_logging_start(PAGE, &ranges)?;
            }
        } else {
            self.fixture.container.dirty_stop()?;
            if self.logs {
                self.fixture.device.dma_logging_stop()?;
            }
        }
        self.written.clear();
        self.unreported.clear();
        Ok(())
    }

    /// Gets the bitmap of each mapping, or of several mappings with one call, and compares.
    fn get(&mut self, queue: &VfioQueue) -> Result {
        if !self.tracking {
            return Ok(());
        }
        let mut ranges: Vec<(u64, u64)> = SLOTS.iter().map(|(i, p)| (*i, p * PAGE)).collect();
        if self.rng.bool() {
            // One call covers adjacent mappings and the hole before them. Each starts at a word of the bitmap, because
            // type1 is not exact otherwise: see `dirty.p34_no_page_is_lost_to_a_shifted_bitmap`.
            let before = self.rng.u64(0..3) * 64 * PAGE;
            ranges.drain(1..3);
            ranges.push((0x10_0000 - before, 67 * PAGE + before));
        }
        let mut found = BTreeSet::new();
        // The device only reads the lists, so type1 must never report them.
        ranges.push((LISTS, LISTS_SIZE));
        for (iova, size) in ranges {
            found.extend(self.fixture.container.dirty_bitmap(iova, size)?.dirty());
        }
        // type1 reports registered memory at each look.
        let expected = &self.written | &self.pinned();
        compare(&found, &expected);
        if self.logs {
            // The device's log has only what was written.
            let mut logged = BTreeSet::new();
            for (iova, pages) in SLOTS {
                let report = self.fixture.device.dma_logging_report(iova, pages * PAGE)?;
                logged.extend(report.dirty());
            }
            compare(&logged, &self.unreported);
            self.logged += logged.len();
            self.unreported.clear();
        }
        self.reported += found.len();
        self.only_registered += expected.difference(&self.written).count();
        self.gets += 1;
        self.written.clear();
        // The rings are pinned since the first job, so each GET reports them.
        let ring = queue.ring();
        let descriptors = pages_of(ring.base(), ring.descriptors_len() as u64);
        let records = pages_of(ring.completions(), ring.completions_len() as u64);
        let pinned: BTreeSet<u64> = descriptors.chain(records).collect();
        let size = queue.memory().memory().len() as u64;
        let found: BTreeSet<u64> = self
            .fixture
            .container
            .dirty_bitmap(QUEUE, size)?
            .dirty()
            .collect();
        compare(&found, &pinned);
        Ok(())
    }

    fn finish(&self, cookie: u64) -> Result {
        note!(
            "{cookie} jobs, {} with lists, {} by key; {} looks, 0 pages missed",
            self.with_lists,
            self.by_key,
            self.gets,
        );
        note!(
            "type1: {} pages reported, {} of them not written but registered",
            self.reported,
            self.only_registered
        );
        if self.logs {
            note!("the log: {} pages reported, all written", self.logged);
            assert!(self.logged > 0, "the log reported no page in this run");
        }
        assert!(!self.registers || self.by_key > 0, "no job used a key");
        assert!(self.reported > 0, "type1 reported no page in this run");
        self.memory.check(self.fixture, "at the end")
    }
}

/// Registers memory and returns its key.
pub(crate) fn register(queue: &mut VfioQueue, iova: u64, len: u64, write: bool) -> Result<u32> {
    queue.submit(&job::register(iova, len, write))?;
    let completion = queue.wait(PATIENCE)?;
    assert_eq!(
        completion.error, 0,
        "{len:#x} bytes at {iova:#x}: {completion:?}"
    );
    assert_eq!(completion.bytes, len);
    Ok(completion.result)
}

/// Returns whether two places are in the same address space.
fn alike(a: Place, b: Place) -> bool {
    match (a, b) {
        (Place::Guest(_), Place::Guest(_)) | (Place::Device(_), Place::Device(_)) => true,
        (Place::Key { key: a, .. }, Place::Key { key: b, .. }) => a == b,
        _ => false,
    }
}

/// Returns whether two sets of ranges overlap.
fn overlap(a: &[(Place, u64)], b: &[(Place, u64)]) -> bool {
    let one = |&(a, a_len): &(Place, u64), &(b, b_len): &(Place, u64)| match (a, b) {
        (Place::Guest(a), Place::Guest(b)) | (Place::Device(a), Place::Device(b)) => {
            a < b + b_len && b < a + a_len
        }
        _ => false,
    };
    a.iter().any(|a| b.iter().any(|b| one(a, b)))
}

/// Panics if two sets of pages differ.
#[track_caller]
fn compare(found: &BTreeSet<u64>, expected: &BTreeSet<u64>) {
    let missing: Vec<_> = expected.difference(found).take(5).collect();
    let extra: Vec<_> = found.difference(expected).take(5).collect();
    assert!(
        missing.is_empty() && extra.is_empty(),
        "written but not reported: {missing:x?}; reported but not written: {extra:x?}"
    );
}

fn p30_random_jobs_and_random_tracking(env: &Env) -> Result {
    random_jobs(env, env.limits.jobs, false)
}

/// The same with memory that is registered once. type1 reports all of it each time, and the device's log only what was
/// written.
fn p30_random_jobs_on_registered_memory(env: &Env) -> Result {
    random_jobs(env, env.limits.jobs, true)
}

pub(crate) fn random_jobs(env: &Env, jobs: u64, registers: bool) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let mut run = Run::new(env, &fixture, registers)?;
    for slot in 0..SLOTS.len() {
        run.map(slot)?;
    }
    let mut queue = fixture.queue(7)?;
    let mut cookie = 0;
    // The first job pins the rings.
    run.batch(&mut queue, &mut cookie, 1)?;
    for slot in 0..SLOTS.len() {
        run.register(&mut queue, slot)?;
    }
    while cookie < jobs {
        match run.rng.u8(0..40) {
            0 => run.toggle()?,
            1..=9 => run.get(&queue)?,
            _ => run.batch(&mut queue, &mut cookie, 30)?,
        }
        if run.rng.u8(0..100) == 0 {
            run.memory
                .check(&fixture, &format!("after {cookie} jobs"))?;
        }
    }
    if !run.tracking {
        run.toggle()?;
    }
    run.batch(&mut queue, &mut cookie, 30)?;
    run.get(&queue)?;
    run.finish(cookie)
}

fn p30_random_mappings_come_and_go(env: &Env) -> Result {
    random_mappings(env, env.limits.jobs / 5, false)
}

/// The same with mappings that are registered. An unmap reports all of the mapping for the last time, and its key cannot
/// be used any more.
fn p35_random_mappings_under_registered_memory(env: &Env) -> Result {
    random_mappings(env, env.limits.jobs / 5, true)
}

fn random_mappings(env: &Env, jobs: u64, registers: bool) -> Result {
    let fixture = MdmaFixture::new(env)?;
    let mut run = Run::new(env, &fixture, registers)?;
    let mut queue = fixture.queue(5)?;
    let mut cookie = 0;
    run.batch(&mut queue, &mut cookie, 1)?;
    run.toggle()?;
    while cookie < jobs {
        let slot = run.rng.usize(0..SLOTS.len());
        let mapped = run
            .memory
            .buffers
            .iter()
            .position(|b| b.iova() == SLOTS[slot].0);
        match (run.rng.u8(0..12), mapped) {
            (0..=1, None) => {
                run.map(slot)?;
                run.register(&mut queue, slot)?;
            }
            (0, Some(n)) => {
                // Unmap with a bitmap, which reports the mapping for the last time.
                let (iova, size) = (SLOTS[slot].0, SLOTS[slot].1 * PAGE);
                let (unmapped, bitmap) = fixture.container.unmap_dirty(iova, size)?;
                assert_eq!(unmapped, size);
                let (of_it, rest): (BTreeSet<u64>, _) = run
                    .written
                    .iter()
                    .partition(|page| (iova..iova + size).contains(page));
                let mut expected = of_it.clone();
                let key = run.keys.remove(&iova);
                if key.is_some() {
                    expected.extend(pages_of(iova, size));
                }
                compare(&bitmap.dirty().collect(), &expected);
                run.only_registered += expected.difference(&of_it).count();
                run.reported += expected.len();
                run.written = rest;
                let buffer = run.memory.buffers.swap_remove(n);
                let found = buffer.to_vec(0, size as usize);
                let expected = run.memory.world.read(guest(iova), found.len());
                crate::fixture::bytes::same(&found, &expected, guest(iova), "when it was unmapped");
                if let Some(key) = key {
                    run.memory.world.keys.remove(&key);
                    run_jobs(&mut queue, &[job::deregister(key)])?;
                }
            }
            (2..=3, _) => run.get(&queue)?,
            _ => run.batch(&mut queue, &mut cookie, 15)?,
        }
    }
    run.get(&queue)?;
    run.finish(cookie)
}
