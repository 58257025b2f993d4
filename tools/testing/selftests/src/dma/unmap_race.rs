// SPDX-License-Identifier: GPL-2.0

//! Repeatedly unmaps memory while the device uses it (P35).
//!
//! A driver that leaks a pin here panics the host. One that leaks the accounting leaves memory locked. `--iterations N` sets
//! the number of rounds.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ::hostile::{Kind, Stalled};
use mdma::desc::Error;
use mdma::job;
use mdma::regs::{self, Reg};
use vfio_client::{Access, BitmapRequest, Container, Mapping};

use crate::dma::type1_scans::Looks;
use crate::env::pins::Pins;
use crate::env::Env;
use crate::fixture::{guest, run_jobs, MdmaFixture, PAGE, QUEUE};
use crate::harness::check::{wait_for, PATIENCE};
use crate::harness::result::Result;
use crate::{fail, note, tests};

tests! { "unmap_race" needs [Mdma]:
    p35_unmapping_rings_under_running_dma ["P35"],
    p35_unmapping_targets_under_running_dma ["P35"],
    p35_unmapping_from_two_threads ["P35"],
    p35_an_unmap_starved_of_the_lock ["P35"] needs [Kprobes],
    p30_nothing_written_is_lost_to_a_page_that_goes ["P30"],
}

const BASE: u64 = 0x100_0000;
const SIZE: usize = 64 * PAGE as usize;

/// Keeps the queue of a device busy: enables it again after each halt, and rings the doorbell. Descriptors are at
/// `ring`, records in the next page.
fn drive(fixture: &MdmaFixture, ring: u64, over: &AtomicBool, jobs: &AtomicU64) -> Result {
    let mdma = &fixture.mdma;
    let mut tail = 0;
    while !over.load(Ordering::SeqCst) {
        if mdma.check_halted().is_err() || mdma.get(Reg::Control)? == 0 {
            mdma.disable()?;
            mdma.set(Reg::RingBase, ring)?;
            mdma.set(Reg::RingOrder, 4)?;
            mdma.set(Reg::CompletionBase, ring + PAGE)?;
            // The last unit of the previous run may still be in flight.
            match mdma.set(Reg::Control, regs::CONTROL_ENABLE.into()) {
                Err(e) if e.errno() == Some(libc::EBUSY) => continue,
                done => done?,
            }
            tail = 0;
        }
        let next = (tail + 1) % 16;
        // The doorbell may fail if the ring is full or the queue has halted in between.
        if mdma.get(Reg::Head)? != next && mdma.set(Reg::Tail, next).is_ok() {
            tail = next;
        }
        jobs.store(mdma.get(Reg::JobsDone)?, Ordering::SeqCst);
    }
    Ok(())
}

/// Runs `unmapper` in `unmappers` threads while another thread drives the queue, and compares the pins before and
/// after.
fn race(
    env: &Env,
    unmappers: usize,
    unmapper: impl Fn(&MdmaFixture, &Mappings, usize) -> Result + Sync,
) -> Result {
    let before = Pins::now()?;
    let fixture = MdmaFixture::new(env)?;
    let mappings = Mappings::new(&fixture)?;
    let over = AtomicBool::new(false);
    let jobs = AtomicU64::new(0);
    thread::scope(|threads| -> Result {
        let driver = threads.spawn(|| drive(&fixture, QUEUE, &over, &jobs));
        // The device must be working when the unmaps start.
        let working = wait_for("the device to run jobs", || {
            Ok(jobs.load(Ordering::SeqCst) > 0)
        });
        if working.is_err() {
            over.store(true, Ordering::SeqCst);
            driver.join().expect("the driver")?;
            return working;
        }
        let (fixture, mappings, unmapper) = (&fixture, &mappings, &unmapper);
        let running: Vec<_> = (0..unmappers)
            .map(|n| threads.spawn(move || unmapper(fixture, mappings, n)))
            .collect();
        let ends: Vec<_> = running.into_iter().map(|s| s.join()).collect();
        over.store(true, Ordering::SeqCst);
        driver.join().expect("the driver")?;
        for end in ends {
            end.expect("an unmapper")?;
        }
        Ok(())
    })?;
    note!("{} jobs", jobs.into_inner());
    let looks = unmap_looks_max(&fixture)?;
    assert!(
        looks <= 9,
        "type1 scanned the same pinned pages {looks} times; it panics at the twelfth scan"
    );
    // After all memory is mapped again, the device works.
    mappings.remap_all(&fixture);
    fixture.mdma.disable()?;
    let mut queue = fixture.queue_at(2 * QUEUE, 4)?;
    run_jobs(&mut queue, &[job::fill(guest(BASE), 1, SIZE as u64)])?;
    drop(queue);
    fixture.container.unmap_all()?;
    let after = Pins::now()?;
    assert_eq!(after.held(), before.held(), "pages stay pinned");
    assert_eq!(
        after.locked, before.locked,
        "pages stay accounted as locked"
    );
    drop(fixture);
    let closed = Pins::now()?;
    assert_eq!(
        (closed.held(), closed.locked),
        (before.held(), before.locked)
    );
    Ok(())
}

/// Returns the maximal number of type1 scans that found the same pages pinned, since the module was loaded.
pub(crate) fn unmap_looks_max(fixture: &MdmaFixture) -> Result<u32> {
    let path = format!("/sys/kernel/debug/mdma/{}/migration", fixture.uuid());
    let text = std::fs::read_to_string(&path)?;
    let looks = text
        .lines()
        .find_map(|line| line.strip_prefix("unmap_looks_max: "))
        .and_then(|looks| looks.parse().ok());
    let Some(looks) = looks else {
        crate::fail!("{path} has no unmap_looks_max");
    };
    Ok(looks)
}

/// The memory of the race: descriptors, records and target, each in a separate mapping.
struct Mappings {
    all: [(u64, Arc<Mapping>); 3],
}

impl Mappings {
    const RING: usize = 0;
    const RECORDS: usize = 1;
    const TARGET: usize = 2;

    fn new(fixture: &MdmaFixture) -> Result<Self> {
        let page = PAGE as usize;
        let mappings = Mappings {
            all: [
                (QUEUE, Arc::new(Mapping::anonymous(page)?)),
                (QUEUE + PAGE, Arc::new(Mapping::anonymous(page)?)),
                (BASE, Arc::new(Mapping::anonymous(SIZE)?)),
            ],
        };
        let half = SIZE as u64 / 2;
        for n in 0..16u64 {
            let job = match n % 3 {
                0 => job::fill(guest(BASE), n, half),
                1 => job::copy(guest(BASE), guest(BASE + half), half),
                _ => job::crc32c(guest(BASE), 2 * half),
            };
            mappings.all[Self::RING]
                .1
                .write(n as usize * 64, &job.encode());
        }
        mappings.remap_all(fixture);
        Ok(mappings)
    }

    fn map(&self, fixture: &MdmaFixture, which: usize) -> vfio_client::Result<()> {
        let (iova, memory) = &self.all[which];
        fixture.container.map(*iova, memory, Access::ReadWrite)
    }

    fn unmap(&self, fixture: &MdmaFixture, which: usize) -> vfio_client::Result<u64> {
        let (iova, memory) = &self.all[which];
        fixture.container.unmap(*iova, memory.len() as u64)
    }

    /// Maps all memory that is not mapped.
    fn remap_all(&self, fixture: &MdmaFixture) {
        for which in 0..self.all.len() {
            // EEXIST: it is already mapped.
            let _ = self.map(fixture, which);
        }
    }
}

/// A ring that stays pinned after an unmap is counted at the end. Each unmap meets a queue that was enabled since the one
/// before, so a hundred unmaps of ring and records each find it at every point of a job.
fn p35_unmapping_rings_under_running_dma(env: &Env) -> Result {
    race(env, 1, |fixture, mappings, _| {
        for n in 0..env.limits.fewer(5) {
            let which = [Mappings::RING, Mappings::RECORDS][n as usize % 2];
            let size = mappings.unmap(fixture, which)?;
            assert_eq!(size, PAGE);
            mappings.map(fixture, which)?;
        }
        Ok(())
    })
}

fn p35_unmapping_targets_under_running_dma(env: &Env) -> Result {
    race(env, 1, |fixture, mappings, _| {
        for n in 0..env.limits.iterations {
            let memory = &mappings.all[Mappings::TARGET].1;
            assert_eq!(mappings.unmap(fixture, Mappings::TARGET)?, SIZE as u64);
            // The device must not write unmapped memory.
            if n % 16 == 0 {
                let at_once = memory.to_vec(0, SIZE);
                thread::yield_now();
                assert!(
                    memory.to_vec(0, SIZE) == at_once,
                    "the device wrote memory after the unmap"
                );
            }
            mappings.map(fixture, Mappings::TARGET)?;
        }
        Ok(())
    })
}

/// A pin that one unmap misses, because the other holds the lock, stays in the counts that are compared at the end. Each
/// round unmaps something in half of the cases, so a hundred unmaps of each thread meet those of the other.
fn p35_unmapping_from_two_threads(env: &Env) -> Result {
    race(env, 2, |fixture, mappings, thread| {
        let mut rng = fastrand::Rng::with_seed(env.limits.seed + thread as u64);
        for _ in 0..env.limits.fewer(4) {
            // These calls may fail, because the other thread maps and unmaps the same ranges.
            if rng.bool() {
                let _ = mappings.unmap(fixture, rng.usize(0..3));
            } else {
                let _ = mappings.map(fixture, rng.usize(0..3));
            }
            if rng.u8(0..8) == 0 {
                let _ = fixture.container.unmap(QUEUE, 2 * PAGE);
            }
            if rng.u8(0..64) == 0 {
                fixture.container.dirty_start()?;
                let _ = fixture.container.unmap_dirty(QUEUE, 2 * PAGE);
                fixture.container.dirty_stop()?;
            }
        }
        Ok(())
    })
}

/// The number of devices with rings in the unmapped memory.
const DEVICES: u64 = 16;

/// The scan at which the test stops, two before the last one that the host survives.
const LAST_LOOK: u64 = 9;

/// The rings of many devices are in one mapping, and each is enabled again as soon as it halts. During the unmap,
/// `GET_BITMAP` holds type1's lock, because the faults on its bitmap are answered late. Earlier, the driver refused
/// pins only for a limited time, and the callback waited longer for the lock. Each scan of type1 found rings that were
/// pinned again, and the twelfth scan panics.
///
/// The test answers each fault after 200 µs times `--iterations`.
fn p35_an_unmap_starved_of_the_lock(env: &Env) -> Result {
    const ROUNDS: usize = 3;
    const BITMAPS: usize = 4000;
    let delay = Duration::from_micros(200) * env.limits.iterations as u32;
    let before = Pins::now()?;
    let container = Container::open()?;
    let (counter, first) = Looks::of(|| MdmaFixture::within(env, &container))?;
    let mut fixtures = vec![first];
    for _ in 1..DEVICES {
        fixtures.push(MdmaFixture::within(env, &container)?);
    }
    let rings = Arc::new(Mapping::anonymous((DEVICES * 2 * PAGE) as usize)?);
    let size = rings.len() as u64;
    for device in 0..DEVICES {
        for n in 0..16 {
            rings.write((device * 2 * PAGE) as usize + n * 64, &job::nop().encode());
        }
    }
    let other = fixtures[0].buffer(BASE, PAGE as usize)?;
    let stalled = Stalled::new(Kind::Userfault, vec![0; BITMAPS * PAGE as usize])?;
    stalled.answer_after(delay);
    container.map(QUEUE, &rings, Access::ReadWrite)?;
    container.dirty_start()?;
    let over = AtomicBool::new(false);
    let holding = AtomicBool::new(false);
    let next = AtomicU64::new(0);
    let jobs: Vec<AtomicU64> = fixtures.iter().map(|_| AtomicU64::new(0)).collect();
    let mut most = 0;
    thread::scope(|threads| -> Result {
        let mut workers = Vec::new();
        for (n, (fixture, jobs)) in fixtures.iter().zip(&jobs).enumerate() {
            let ring = QUEUE + n as u64 * 2 * PAGE;
            let over = &over;
            workers.push(threads.spawn(move || drive(fixture, ring, over, jobs)));
        }
        for _ in 0..2 {
            workers.push(threads.spawn(|| -> Result {
                while !over.load(Ordering::SeqCst) {
                    if !holding.load(Ordering::SeqCst) {
                        thread::yield_now();
                        continue;
                    }
                    let page = next.fetch_add(1, Ordering::SeqCst) as usize;
                    assert!(page < BITMAPS, "all bitmaps are used");
                    let request = BitmapRequest::get(other.iova(), PAGE, PAGE);
                    let at = page * PAGE as usize;
                    container.dirty_bitmap_into(&request, stalled.memory(), at)?;
                }
                Ok(())
            }));
        }
        let result = (|| -> Result {
            for round in 0..ROUNDS {
                for (n, jobs) in jobs.iter().enumerate() {
                    let seen = jobs.load(Ordering::SeqCst);
                    let what = format!("device {n} to run a job in round {round}");
                    wait_for(&what, || Ok(jobs.load(Ordering::SeqCst) != seen))?;
                }
                let first = counter.so_far()?;
                let seen = next.load(Ordering::SeqCst);
                holding.store(true, Ordering::SeqCst);
                wait_for("a GET_BITMAP to begin", || {
                    Ok(next.load(Ordering::SeqCst) > seen)
                })?;
                let unmapper = threads.spawn(|| container.unmap(QUEUE, size));
                let looks = loop {
                    let looks = counter.so_far()? - first;
                    if unmapper.is_finished() || looks >= LAST_LOOK {
                        break looks;
                    }
                    thread::sleep(Duration::from_millis(5));
                };
                // Release the lock in any case.
                holding.store(false, Ordering::SeqCst);
                if looks >= LAST_LOOK {
                    over.store(true, Ordering::SeqCst);
                    stalled.release();
                }
                let unmapped = unmapper.join().expect("the unmapper")?;
                if looks >= LAST_LOOK {
                    fail!("type1 scanned {looks} times in one unmap");
                }
                if unmapped != size {
                    fail!("unmapped {unmapped:#x} bytes, not {size:#x}");
                }
                most = most.max(looks);
                container.map(QUEUE, &rings, Access::ReadWrite)?;
            }
            Ok(())
        })();
        over.store(true, Ordering::SeqCst);
        stalled.release();
        for worker in workers {
            worker.join().expect("a thread")?;
        }
        result
    })?;
    let bitmaps = next.into_inner();
    note!("at most {most} scans, {bitmaps} bitmaps, each answered after {delay:?}");
    assert!(unmap_looks_max(&fixtures[0])? <= LAST_LOOK as u32);
    drop((counter, other, fixtures, container));
    assert_eq!(Pins::now()?.held(), before.held(), "pages stay pinned");
    Ok(())
}

/// The last page of a job is read-only, and the first page changes between writable and read-only. The job fails after
/// it has written the pages in between. type1 marks no page of a failed copy. Earlier, the framework's second attempt
/// ended at the first page that it could not write, and the pages after it were written but never reported.
///
/// The first page itself may be written but not reported, if it is read-only when type1 would mark it. Only the process
/// that owns the memory can cause this.
fn p30_nothing_written_is_lost_to_a_page_that_goes(env: &Env) -> Result {
    const PAGES: usize = 16;
    const SIZE: usize = PAGES * PAGE as usize;
    // Fewer rounds, because each waits for the other thread's lock.
    let rounds = env.limits.iterations.div_ceil(20);
    let fixture = MdmaFixture::new(env)?;
    let buffer = fixture.buffer(BASE, SIZE)?;
    let memory = buffer.memory();
    memory.protect(SIZE - PAGE as usize, PAGE as usize, false)?;
    let mut queue = fixture.queue(4)?;
    fixture.container.dirty_start()?;
    let over = AtomicBool::new(false);
    let mut wrote = 0;
    thread::scope(|threads| -> Result {
        let other = threads.spawn(|| -> Result {
            while !over.load(Ordering::SeqCst) {
                memory.protect(0, PAGE as usize, false)?;
                memory.protect(0, PAGE as usize, true)?;
            }
            Ok(())
        });
        let result = (|| -> Result {
            let start = Instant::now();
            let mut value = 0;
            // More rounds if the other thread makes all of them fail at the first page.
            while value < rounds || wrote == 0 {
                if start.elapsed() > PATIENCE {
                    fail!("no job of {value} wrote memory in {PATIENCE:?}");
                }
                value += 1;
                queue.fill(&job::fill(guest(BASE), value, SIZE as u64))?;
                queue.ring_doorbell()?;
                let done = queue.wait(PATIENCE)?;
                if done.error != Error::DstFault as u32 {
                    fail!("job {value} ended with {done:?}");
                }
                let written: BTreeSet<u64> = (1..PAGES as u64)
                    .map(|page| page * PAGE)
                    .filter(|&at| memory.to_vec(at as usize, 8) == value.to_le_bytes())
                    .map(|at| BASE + at)
                    .collect();
                let bitmap = fixture.container.dirty_bitmap(BASE, SIZE as u64)?;
                let reported: BTreeSet<u64> = bitmap.dirty().collect();
                let lost: Vec<_> = written.difference(&reported).collect();
                if !lost.is_empty() {
                    fail!("job {value}: written but not reported: {lost:x?}");
                }
                wrote += usize::from(!written.is_empty());
                queue.restart(4)?;
            }
            Ok(())
        })();
        over.store(true, Ordering::SeqCst);
        other.join().expect("the other thread")?;
        result
    })?;
    note!("{wrote} jobs wrote memory");
    Ok(())
}
