// SPDX-License-Identifier: GPL-2.0

//! Unmapping memory while the device works on it, again and again (P35).
//!
//! A driver that forgets a pin here panics the host; one that forgets to account it leaves locked memory behind.
//! `--iterations N` says how often.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread;

use mdma::job;
use mdma::regs::{self, Reg};
use vfio_client::{Access, Mapping};

use crate::check::wait_for;
use crate::lab::Lab;
use crate::outcome::Outcome;
use crate::pins::Pins;
use crate::scene::{guest, run_jobs, Scene, PAGE, QUEUE};
use crate::{note, tests};

tests! { "storm":
    p35_unmapping_rings_under_running_dma ["P35"],
    p35_unmapping_targets_under_running_dma ["P35"],
    p35_unmapping_from_two_threads ["P35"],
    p35_unmapping_targets_that_are_pinned ["P35"],
    p35_unmapping_what_is_pinned_from_two_threads ["P35"],
}

const BASE: u64 = 0x100_0000;
const SIZE: usize = 64 * PAGE as usize;

/// Keeps the queue of a device busy whatever happens to it: enables it again when it has halted, and rings.
fn drive(scene: &Scene, over: &AtomicBool, jobs: &AtomicU64) -> Outcome {
    let mdma = &scene.mdma;
    let mut tail = 0;
    while !over.load(Ordering::SeqCst) {
        if mdma.check_halted().is_err() || mdma.get(Reg::Control)? == 0 {
            mdma.disable()?;
            mdma.set(Reg::RingBase, QUEUE)?;
            mdma.set(Reg::RingOrder, 4)?;
            mdma.set(Reg::CompletionBase, QUEUE + PAGE)?;
            // A last unit of the run before may still be in flight.
            match mdma.set(Reg::Control, regs::CONTROL_ENABLE.into()) {
                Err(e) if e.errno() == Some(libc::EBUSY) => continue,
                done => done?,
            }
            tail = 0;
        }
        let next = (tail + 1) % 16;
        // A full ring refuses, a queue that has halted meanwhile may be disabled by now: both are fine here.
        if mdma.get(Reg::Head)? != next && mdma.set(Reg::Tail, next).is_ok() {
            tail = next;
        }
        jobs.store(mdma.get(Reg::JobsDone)?, Ordering::SeqCst);
    }
    Ok(())
}

/// Runs `unmapper` while the queue is driven, and compares the pins before and after. `unmappers` is how many threads.
fn storm(
    lab: &Lab,
    unmappers: usize,
    unmapper: impl Fn(&Scene, &Mappings, usize) -> Outcome + Sync,
) -> Outcome {
    let before = Pins::now()?;
    let scene = Scene::new(lab)?;
    let mappings = Mappings::new(&scene)?;
    let over = AtomicBool::new(false);
    let jobs = AtomicU64::new(0);
    thread::scope(|threads| -> Outcome {
        let driver = threads.spawn(|| drive(&scene, &over, &jobs));
        // Something has to be going on.
        let working = wait_for("the device to be at work", || {
            Ok(jobs.load(Ordering::SeqCst) > 0)
        });
        if working.is_err() {
            over.store(true, Ordering::SeqCst);
            driver.join().expect("the driver")?;
            return working;
        }
        let (scene, mappings, unmapper) = (&scene, &mappings, &unmapper);
        let storms: Vec<_> = (0..unmappers)
            .map(|n| threads.spawn(move || unmapper(scene, mappings, n)))
            .collect();
        let ends: Vec<_> = storms.into_iter().map(|s| s.join()).collect();
        over.store(true, Ordering::SeqCst);
        driver.join().expect("the driver")?;
        for end in ends {
            end.expect("an unmapper")?;
        }
        Ok(())
    })?;
    note!("{} jobs", jobs.into_inner());
    let looks = unmap_looks_max(&scene)?;
    assert!(
        looks <= 9,
        "type1 looked {looks} times at the same pinned pages; it panics at the twelfth"
    );
    // With all of it mapped again, the device works.
    mappings.remap_all(&scene);
    scene.mdma.disable()?;
    let mut queue = scene.queue_at(2 * QUEUE, 4)?;
    run_jobs(&mut queue, &[job::fill(guest(BASE), 1, SIZE as u64)])?;
    drop(queue);
    scene.container.unmap_all()?;
    let after = Pins::now()?;
    assert_eq!(after.held(), before.held(), "pages stay pinned");
    assert_eq!(
        after.locked, before.locked,
        "pages stay accounted as locked"
    );
    drop(scene);
    let closed = Pins::now()?;
    assert_eq!(
        (closed.held(), closed.locked),
        (before.held(), before.locked)
    );
    Ok(())
}

/// The most looks of type1 that found the same pages pinned, since the module was loaded.
fn unmap_looks_max(scene: &Scene) -> Outcome<u32> {
    let path = format!("/sys/kernel/debug/mdma/{}/migration", scene.uuid());
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

/// The memory of the storm: rings and targets, each mapped and unmapped by itself.
struct Mappings {
    all: [(u64, Arc<Mapping>); 3],
}

impl Mappings {
    const RING: usize = 0;
    const RECORDS: usize = 1;
    const TARGET: usize = 2;

    fn new(scene: &Scene) -> Outcome<Self> {
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
        mappings.remap_all(scene);
        Ok(mappings)
    }

    fn map(&self, scene: &Scene, which: usize) -> vfio_client::Result<()> {
        let (iova, memory) = &self.all[which];
        scene.container.map(*iova, memory, Access::ReadWrite)
    }

    fn unmap(&self, scene: &Scene, which: usize) -> vfio_client::Result<u64> {
        let (iova, memory) = &self.all[which];
        scene.container.unmap(*iova, memory.len() as u64)
    }

    /// Maps what is not mapped.
    fn remap_all(&self, scene: &Scene) {
        for which in 0..self.all.len() {
            // EEXIST says that it is.
            let _ = self.map(scene, which);
        }
    }
}

fn p35_unmapping_rings_under_running_dma(lab: &Lab) -> Outcome {
    storm(lab, 1, |scene, mappings, _| {
        for n in 0..lab.effort.iterations {
            let which = [Mappings::RING, Mappings::RECORDS][n as usize % 2];
            let size = mappings.unmap(scene, which)?;
            assert_eq!(size, PAGE);
            mappings.map(scene, which)?;
        }
        Ok(())
    })
}

fn p35_unmapping_targets_under_running_dma(lab: &Lab) -> Outcome {
    unmap_targets(lab)
}

/// The same with writes that pin what they write.
fn p35_unmapping_targets_that_are_pinned(lab: &Lab) -> Outcome {
    lab.module.with("pin_from_kib=1", || unmap_targets(lab))
}

fn unmap_targets(lab: &Lab) -> Outcome {
    storm(lab, 1, |scene, mappings, _| {
        for n in 0..lab.effort.iterations {
            let memory = &mappings.all[Mappings::TARGET].1;
            assert_eq!(mappings.unmap(scene, Mappings::TARGET)?, SIZE as u64);
            // What is unmapped is the user's alone.
            if n % 16 == 0 {
                let at_once = memory.to_vec(0, SIZE);
                thread::yield_now();
                assert!(
                    memory.to_vec(0, SIZE) == at_once,
                    "written after it was unmapped"
                );
            }
            mappings.map(scene, Mappings::TARGET)?;
        }
        Ok(())
    })
}

fn p35_unmapping_from_two_threads(lab: &Lab) -> Outcome {
    unmap_from_two_threads(lab)
}

fn p35_unmapping_what_is_pinned_from_two_threads(lab: &Lab) -> Outcome {
    lab.module
        .with("pin_from_kib=1", || unmap_from_two_threads(lab))
}

fn unmap_from_two_threads(lab: &Lab) -> Outcome {
    storm(lab, 2, |scene, mappings, thread| {
        let mut rng = fastrand::Rng::with_seed(lab.effort.seed + thread as u64);
        for _ in 0..lab.effort.iterations {
            // The other may have unmapped or mapped it, or have unmapped it together with its neighbour.
            if rng.bool() {
                let _ = mappings.unmap(scene, rng.usize(0..3));
            } else {
                let _ = mappings.map(scene, rng.usize(0..3));
            }
            if rng.u8(0..8) == 0 {
                let _ = scene.container.unmap(QUEUE, 2 * PAGE);
            }
            if rng.u8(0..64) == 0 {
                scene.container.dirty_start()?;
                let _ = scene.container.unmap_dirty(QUEUE, 2 * PAGE);
                scene.container.dirty_stop()?;
            }
        }
        Ok(())
    })
}
