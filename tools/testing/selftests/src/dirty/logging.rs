// SPDX-License-Identifier: GPL-2.0

//! DMA logging by the device itself, on kernels that have what it takes. On others these tests are not there.

use std::collections::BTreeSet;

use mdma::job;
use vfio_client::Device;

use crate::dirty::pages::{rings, set, BASE, SIZE};
use crate::env::Lab;
use crate::fixture::{device, guest, run_jobs, Scene, PAGE, QUEUE};
use crate::harness::result::Outcome;
use crate::{assert_errno, tests};

tests! { "logging":
    exactly_the_pages_written ["P30", "P32"],
    pinned_pages_are_reported_at_every_look ["P31"],
    the_same_as_type1_says ["P30", "P31"],
    started_and_stopped_in_any_order [],
    it_ends_with_its_user [],
}

/// What the next report says of a range.
fn report(device: &Device, iova: u64, size: u64) -> Outcome<BTreeSet<u64>> {
    Ok(device.dma_logging_report(iova, size)?.dirty().collect())
}

/// Whether the kernel has CONFIG_IOMMUFD_DRIVER. The many symbols are read only if it has iommufd at all.
pub(crate) fn available() -> bool {
    if !std::path::Path::new("/dev/iommu").exists() {
        return false;
    }
    let symbols = std::fs::read_to_string("/proc/kallsyms").unwrap_or_default();
    symbols.lines().any(|line| {
        let name = line.split_whitespace().nth(2);
        name == Some("iova_bitmap_set")
    })
}

/// A scene of a device that can log.
fn scene(lab: &Lab) -> Outcome<Scene> {
    let scene = Scene::new(lab)?;
    assert!(scene.device.can_log_dma()?);
    Ok(scene)
}

fn exactly_the_pages_written(lab: &Lab) -> Outcome {
    let scene = scene(lab)?;
    let _buffer = scene.buffer(BASE, SIZE)?;
    let mut queue = scene.queue(4)?;
    let size = SIZE as u64;
    let page = |n: u64| BASE + n * PAGE;
    // What is written before is not reported.
    run_jobs(&mut queue, &[job::fill(guest(page(200)), 1, PAGE)])?;
    let pgsize = scene.device.dma_logging_start(PAGE, &[(BASE, size)])?;
    assert_eq!(pgsize, PAGE);
    assert_eq!(report(&scene.device, BASE, size)?, set([]));
    run_jobs(
        &mut queue,
        &[
            job::fill(guest(page(5) + 100), 1, 8),
            job::fill(guest(page(9) - 1), 1, 2),
            job::copy(guest(page(30)), guest(page(63)), 3 * PAGE),
            job::copy(device(0), guest(page(255) + 7), 100),
            // Reading only.
            job::crc32c(guest(page(100)), 20 * PAGE),
            job::copy(guest(page(130)), device(0), PAGE),
        ],
    )?;
    // A part first: it forgets no other.
    assert_eq!(
        report(&scene.device, page(63), 2 * PAGE)?,
        set([page(63), page(64)])
    );
    let rest = [5, 8, 9, 65, 255].map(page);
    assert_eq!(report(&scene.device, BASE, size)?, set(rest));
    assert_eq!(report(&scene.device, BASE, size)?, set([]));
    Ok(scene.device.dma_logging_stop()?)
}

fn pinned_pages_are_reported_at_every_look(lab: &Lab) -> Outcome {
    let scene = scene(lab)?;
    let mut queue = scene.queue(4)?;
    let size = queue.memory().memory().len() as u64;
    scene.device.dma_logging_start(PAGE, &[(QUEUE, size)])?;
    run_jobs(&mut queue, &[job::nop()])?;
    // The device writes completion records; descriptors it only reads.
    let ring = queue.ring();
    let records = set(crate::fixture::memory::pages_of(
        ring.completions(),
        ring.completions_len() as u64,
    ));
    for _ in 0..3 {
        assert_eq!(report(&scene.device, QUEUE, size)?, records);
    }
    // Once more when they are given back, as they may have been written since.
    queue.submit(&job::nop())?;
    queue.wait(crate::harness::check::PATIENCE)?;
    scene.go(&[vfio_client::v1::State::STOP])?;
    assert_eq!(report(&scene.device, QUEUE, size)?, records);
    assert_eq!(report(&scene.device, QUEUE, size)?, set([]));
    Ok(())
}

fn the_same_as_type1_says(lab: &Lab) -> Outcome {
    let scene = scene(lab)?;
    let _buffer = scene.buffer(BASE, SIZE)?;
    let mut queue = scene.queue(4)?;
    run_jobs(&mut queue, &[job::nop()])?;
    scene.container.dirty_start()?;
    scene
        .device
        .dma_logging_start(PAGE, &[(BASE, SIZE as u64)])?;
    let mut rng = fastrand::Rng::with_seed(lab.effort.seed);
    for _ in 0..100 {
        let jobs: Vec<_> = (0..rng.u64(1..10))
            .map(|_| {
                let at = rng.u64(0..SIZE as u64);
                let len = rng.u64(1..=(SIZE as u64 - at).min(9 * PAGE));
                match rng.bool() {
                    true => job::fill(guest(BASE + at), 1, len),
                    false => job::copy(device(0), guest(BASE + at), len),
                }
            })
            .collect();
        run_jobs(&mut queue, &jobs)?;
        let logged = report(&scene.device, BASE, SIZE as u64)?;
        let tracked = crate::dirty::pages::get(&scene.container, BASE, SIZE as u64)?;
        assert_eq!(logged, tracked);
    }
    assert!(!rings(&queue).is_empty());
    Ok(())
}

fn started_and_stopped_in_any_order(lab: &Lab) -> Outcome {
    let scene = scene(lab)?;
    let dev = &scene.device;
    assert_errno!(dev.dma_logging_report(BASE, PAGE), EINVAL);
    dev.dma_logging_stop()?;
    for page_size in [PAGE, 2 * PAGE, 1 << 21] {
        let took = dev.dma_logging_start(page_size, &[(0, 1 << 21)])?;
        assert_eq!(took, PAGE);
        assert_errno!(dev.dma_logging_start(page_size, &[(0, 1 << 21)]), EINVAL);
        dev.dma_logging_stop()?;
        dev.dma_logging_stop()?;
    }
    assert_errno!(dev.dma_logging_start(3 * PAGE, &[(0, 3 * PAGE)]), EINVAL);
    assert_errno!(dev.dma_logging_report(BASE, PAGE), EINVAL);
    Ok(())
}

fn it_ends_with_its_user(lab: &Lab) -> Outcome {
    let scene = scene(lab)?;
    scene.device.dma_logging_start(PAGE, &[(0, PAGE)])?;
    let scene = Scene::of(crate::env::Guest::open(scene.close())?)?;
    assert_errno!(scene.device.dma_logging_report(0, PAGE), EINVAL);
    scene.device.dma_logging_start(PAGE, &[(0, PAGE)])?;
    Ok(())
}
