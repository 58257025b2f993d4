// SPDX-License-Identifier: GPL-2.0

//! DMA logging by the device itself. These tests run only on kernels with iommufd drivers.

use std::collections::BTreeSet;

use mdma::job;
use vfio_client::Device;

use crate::dirty::pages::{rings, set, BASE, SIZE};
use crate::env::Env;
use crate::fixture::{device, guest, run_jobs, MdmaFixture, PAGE, QUEUE};
use crate::harness::result::Result;
use crate::{assert_errno, tests};

tests! { "logging" needs [Mdma, DirtyLogging]:
    exactly_the_pages_written ["P30", "P32"],
    pinned_pages_are_reported_when_they_are_written ["P30"],
    the_same_as_type1_says ["P30", "P31"],
    started_and_stopped_in_any_order [],
    ends_with_its_user [],
}

/// Returns the pages in the next report of a range.
fn report(device: &Device, iova: u64, size: u64) -> Result<BTreeSet<u64>> {
    Ok(device.dma_logging_report(iova, size)?.dirty().collect())
}

/// Returns a fixture whose device supports DMA logging.
fn fixture(env: &Env) -> Result<MdmaFixture> {
    let fixture = MdmaFixture::new(env)?;
    assert!(fixture.device.can_log_dma()?);
    Ok(fixture)
}

fn exactly_the_pages_written(env: &Env) -> Result {
    let fixture = fixture(env)?;
    let _buffer = fixture.buffer(BASE, SIZE)?;
    let mut queue = fixture.queue(4)?;
    let size = SIZE as u64;
    let page = |n: u64| BASE + n * PAGE;
    // The device does not report pages written before the start.
    run_jobs(&mut queue, &[job::fill(guest(page(200)), 1, PAGE)])?;
    let pgsize = fixture.device.dma_logging_start(PAGE, &[(BASE, size)])?;
    assert_eq!(pgsize, PAGE);
    assert_eq!(report(&fixture.device, BASE, size)?, set([]));
    run_jobs(
        &mut queue,
        &[
            job::fill(guest(page(5) + 100), 1, 8),
            job::fill(guest(page(9) - 1), 1, 2),
            job::copy(guest(page(30)), guest(page(63)), 3 * PAGE),
            job::copy(device(0), guest(page(255) + 7), 100),
            // These jobs only read guest memory.
            job::crc32c(guest(page(100)), 20 * PAGE),
            job::copy(guest(page(130)), device(0), PAGE),
        ],
    )?;
    // A report of a part does not clear the rest.
    assert_eq!(
        report(&fixture.device, page(63), 2 * PAGE)?,
        set([page(63), page(64)])
    );
    let rest = [5, 8, 9, 65, 255].map(page);
    assert_eq!(report(&fixture.device, BASE, size)?, set(rest));
    assert_eq!(report(&fixture.device, BASE, size)?, set([]));
    Ok(fixture.device.dma_logging_stop()?)
}

fn pinned_pages_are_reported_when_they_are_written(env: &Env) -> Result {
    let fixture = fixture(env)?;
    let mut queue = fixture.queue(4)?;
    let size = queue.memory().memory().len() as u64;
    fixture.device.dma_logging_start(PAGE, &[(QUEUE, size)])?;
    // The device writes completion records, and only reads descriptors.
    let ring = queue.ring();
    let records = set(crate::fixture::memory::pages_of(
        ring.completions(),
        ring.completions_len() as u64,
    ));
    for _ in 0..3 {
        run_jobs(&mut queue, &[job::nop()])?;
        assert_eq!(report(&fixture.device, QUEUE, size)?, records);
        assert_eq!(report(&fixture.device, QUEUE, size)?, set([]));
    }
    queue.submit(&job::nop())?;
    queue.wait(crate::harness::check::PATIENCE)?;
    fixture.go(&[vfio_client::v1::State::STOP])?;
    assert_eq!(report(&fixture.device, QUEUE, size)?, records);
    assert_eq!(report(&fixture.device, QUEUE, size)?, set([]));
    Ok(())
}

fn the_same_as_type1_says(env: &Env) -> Result {
    let fixture = fixture(env)?;
    let _buffer = fixture.buffer(BASE, SIZE)?;
    let mut queue = fixture.queue(4)?;
    run_jobs(&mut queue, &[job::nop()])?;
    fixture.container.dirty_start()?;
    fixture
        .device
        .dma_logging_start(PAGE, &[(BASE, SIZE as u64)])?;
    let mut rng = fastrand::Rng::with_seed(env.limits.seed);
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
        let logged = report(&fixture.device, BASE, SIZE as u64)?;
        let tracked = crate::dirty::pages::get(&fixture.container, BASE, SIZE as u64)?;
        assert_eq!(logged, tracked);
    }
    assert!(!rings(&queue).is_empty());
    Ok(())
}

fn started_and_stopped_in_any_order(env: &Env) -> Result {
    let fixture = fixture(env)?;
    let dev = &fixture.device;
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

fn ends_with_its_user(env: &Env) -> Result {
    let fixture = fixture(env)?;
    fixture.device.dma_logging_start(PAGE, &[(0, PAGE)])?;
    let fixture = MdmaFixture::of(crate::env::Guest::open(fixture.close())?)?;
    assert_errno!(fixture.device.dma_logging_report(0, PAGE), EINVAL);
    fixture.device.dma_logging_start(PAGE, &[(0, PAGE)])?;
    Ok(())
}
